"""What the simulator counts: bytes and transactions."""

import mlx.core as mx
import numpy as np
import pytest

from tests.simulator import Fault, Launch, simulated

_PACKED = "packed_uint3 words = reinterpret_cast<const device packed_uint3*>(x)[i + {skipped}];"


def _launch(source: str, header: str = "", *, counting: bool = True) -> tuple[np.ndarray, Launch]:
    """One simdgroup, `x` 96 numbers."""
    with simulated(counting=counting) as simulator:
        kernel = simulator.metal_kernel(
            name="counted",
            input_names=["x"],
            output_names=["y"],
            source="uint i = thread_position_in_grid.x;\n" + source,
            header=header,
        )
        (y,) = kernel(
            inputs=[mx.arange(96, dtype=mx.uint32)],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=[(32,)],
            output_dtypes=[mx.uint32],
        )
    return np.array(y), simulator.launches[-1]


@pytest.mark.parametrize("counting", [True, False])
def test_a_packed_vector_is_one_load(counting):
    y, launch = _launch(_PACKED.format(skipped=0) + "y[i] = words[0] + words[1] + words[2];", counting=counting)
    assert np.array_equal(y, np.arange(96).reshape(32, 3).sum(axis=1))
    assert launch.buffers["x"].loaded_bytes == launch.buffers["x"].unique_loaded_bytes == 384
    if counting:
        assert launch.buffers["x"].transactions == 3


def test_a_packed_vector_beyond_the_end_is_a_fault():
    with pytest.raises(Fault, match="out-of-bounds load"):
        _launch(_PACKED.format(skipped=1) + "y[i] = words[0];", counting=False)


def test_a_load_in_a_function_counts_apart_for_each_place_that_calls_it():
    # Too long to be inlined unless it is asked for. Odd lanes leave the first call out: were it the same instruction as
    # the others, their first execution would meet the even lanes' second.
    step = "value = (value ^ (value << 13)) * 2654435761u + popcount(value >> 7);\n"
    header = f"uint scrambled(const device uint* x, uint at) {{ uint value = x[at]; {step * 50} return value; }}"
    source = """
    uint sum = 0;
    if (i % 2 == 0) sum = scrambled(x, i);
    y[i] = sum + scrambled(x, 64 + i) + scrambled(x, 32 + i);
    """
    _, launch = _launch(source, header)
    assert launch.buffers["x"].transactions == 3
