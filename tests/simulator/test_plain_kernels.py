"""Kernels from source text: function constants, dynamic threadgroup memory, names."""

import numpy as np
import pytest

from tests.simulator import CompileError, Fault, unsupported
from tests.simulator.counts import Launch
from tests.simulator.kernel import Argument, Options, Source, compiled

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=unsupported() or "")

SOURCE = """#include <metal_stdlib>
using namespace metal;
constant bool doubled [[function_constant(3)]];
constant int shift [[function_constant(4)]];
[[kernel]] void other(device float* y) { threadgroup float large[8192]; large[0] = 1; y[0] = large[0]; }
template <typename T, int N>
kernel void reverse(const device T* x [[buffer(1)]], device T* y [[buffer(0)]],
                    const device T* more [[buffer(2), function_constant(doubled)]],
                    threadgroup T* shared [[threadgroup(0)]], threadgroup T* beside [[threadgroup(1)]],
                    uint t [[thread_position_in_threadgroup]]) {
  shared[t] = x[t];
  beside[t] = 0;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  T value = shared[N - 1 - t];
  if (doubled) value += more[t];
  if (is_function_constant_defined(shift)) value += shift;
  y[t] = value;
}
template [[host_name("reverse_float")]] [[kernel]] decltype(reverse<float, 64>) reverse<float, 64>;
"""


def reverse(dynamic_bytes: int = 256, **constants: int | bool) -> tuple[np.ndarray, Launch]:
    numbers = {"doubled": 3, "shift": 4}
    source = Source(
        SOURCE,
        "reverse",
        "reverse<float, 64>",
        function_constants=tuple((numbers[name], value) for name, value in constants.items()),
    )
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    arguments = {"x": Argument(x), "y": Argument(y, is_output=True, is_initialised=False)}
    if constants.get("doubled"):
        arguments["more"] = Argument(x)
    launch = compiled(source, "checked").launch(
        arguments,
        grid=(64, 1, 1),
        threadgroup=(64, 1, 1),
        options=Options(),
        name="reverse",
        template={},
        dynamic_bytes={"shared": dynamic_bytes, "beside": 256},
    )
    return y, launch


def test_function_constants_decide_what_is_compiled() -> None:
    np.testing.assert_array_equal(reverse(doubled=False)[0], np.arange(64)[::-1])
    np.testing.assert_array_equal(reverse(doubled=True)[0], np.full(64, 63))
    np.testing.assert_array_equal(reverse(doubled=True, shift=7)[0], np.full(64, 70))


def test_threadgroup_memory_is_that_of_the_kernel_alone() -> None:
    assert reverse(doubled=False)[1].threadgroup_bytes == 512


def test_dynamic_threadgroup_memory_has_bounds() -> None:
    with pytest.raises(Fault, match=r"out-of-bounds store: 4 bytes at byte 252 of dynamic threadgroup memory `shared`"):
        reverse(252, doubled=False)
    with pytest.raises(Fault, match="too much threadgroup memory"):
        reverse(32_768, doubled=False)


def test_a_kernel_that_is_not_there_is_named() -> None:
    with pytest.raises(CompileError, match="no kernel function `absent`"):
        compiled(Source(SOURCE, "absent"), "checked")
