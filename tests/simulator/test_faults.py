"""What the simulator must find, each planted once, and what it must let pass."""

import re

import mlx.core as mx
import numpy as np
import pytest

from tests.simulator import CompileError, Fault, simulated, unsupported
from tests.simulator.planted import Planted

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=unsupported() or "")

FAULTS = {
    "a store behind a buffer": ("out[i + 1] = 1;", "out-of-bounds store", "`y`"),
    "a load behind a buffer": ("out[i] = x[i + 1];", "out-of-bounds load", "byte 512 of `x`"),
    "a load behind a small buffer, which is constant": ("out[i] = c[t & 7];", "out-of-bounds load", "`c`"),
    "a negative index": ("out[i] = x[int(i) - 1];", "out-of-bounds load", "byte -4 of `x`"),
    "a store through a pointer that forgot const": (
        "((device float*)x)[i] = 1; out[i] = 1;",
        "store to a const buffer",
        "`x`",
    ),
    "a store behind threadgroup memory": (
        "threadgroup float* p = shared; p[t + 1 + uint(zero)] = 1; out[i] = 1;",
        "out-of-bounds store",
        "byte 256 of threadgroup memory `shared`",
    ),
    "a load before threadgroup memory": (
        "beside[t] = t; threadgroup float* p = beside; out[i] = p[int(t) - 1 + (t == 0 ? zero : 1)];",
        "out-of-bounds load",
        "byte -4 of threadgroup memory `beside`",
    ),
    "an index behind an array of a known size": (
        "float a[4] = {1, 2, 3, 4}; out[i] = a[t & 7];",
        "array index out of bounds",
        "thread (4, 0, 0)",
    ),
    "an index behind a threadgroup array": ("shared[t + 1] = 1; out[i] = 1;", "array index out of bounds", ""),
    "a vector load at a scalar's alignment": (
        "float4 v = *(const device float4*)(x + (t < 60 ? 1 : 0)); out[i] = v.x;",
        "misaligned access",
        "",
    ),
    "a packed load behind a buffer": (
        "packed_float3 v = *(const device packed_float3*)(x + (i < 127 ? i : 126)); out[i] = v.x + v[2];",
        "out-of-bounds load",
        "byte 512 of `x`",
    ),
    "a vector load behind a buffer": (
        "float4 v = *(const device float4*)(x + (i / 4 + (i == 127)) * 4); out[i] = v.x;",
        "out-of-bounds load",
        "16 bytes at byte 512 of `x`",
    ),
    "two lanes that store one element": (
        "if (t < 2) shared[0] = t; out[i] = 1;",
        "write/write race",
        "thread (1, 0, 0)",
    ),
    "two simdgroups that store one element": (
        "if (lane == 0) shared[7] = t; out[i] = 1;",
        "write/write race",
        "byte 28 of threadgroup memory `shared`",
    ),
    "a load of what another simdgroup stored, without a barrier": (
        "shared[t] = t; out[i] = shared[63 - t];",
        "read-after-write race|uninitialised threadgroup read",
        "`shared`",
    ),
    "a load of what another lane stored, without a simdgroup_barrier": (
        "shared[t] = t; out[i] = shared[t & ~31u];",
        "read-after-write race|uninitialised threadgroup read",
        "`shared`",
    ),
    "a store over what another simdgroup loads": (
        "shared[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = shared[t ^ 32]; shared[t] = 1;",
        "write-after-read race|read-after-write race",
        "",
    ),
    "a store over what another lane loads": (
        "shared[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = shared[t ^ 1]; shared[t] = 1;",
        "write-after-read race|read-after-write race",
        "",
    ),
    "a store over what several lanes load": (
        "shared[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup);"
        " out[i] = shared[0]; if (t == 63) shared[0] = 1;",
        "write-after-read race|read-after-write race",
        "",
    ),
    "a barrier that orders other memory": (
        "shared[t] = t; threadgroup_barrier(mem_flags::mem_device); out[i] = shared[63 - t];",
        "read-after-write race",
        "",
    ),
    "a barrier that orders nothing": (
        "shared[t] = t; threadgroup_barrier(mem_flags::mem_none); out[i] = shared[63 - t];",
        "read-after-write race",
        "",
    ),
    "a simdgroup's barrier that orders nothing": (
        "shared[t] = t; simdgroup_barrier(mem_flags::mem_none); out[i] = shared[t ^ 1];",
        "read-after-write race",
        "",
    ),
    "a simdgroup's barrier where the threadgroup's is needed": (
        "shared[t] = t; simdgroup_barrier(mem_flags::mem_threadgroup); out[i] = shared[63 - t];",
        "read-after-write race|uninitialised threadgroup read",
        "",
    ),
    "an exchange through device memory with a barrier for threadgroup memory": (
        "out[i] = 1; threadgroup_barrier(mem_flags::mem_threadgroup); y[i] = out[i ^ 32];",
        "read-after-write race",
        "`y`",
    ),
    "two threadgroups that store one element": ("out[t] = 1;", "write/write race", "by another threadgroup"),
    "a threadgroup that loads what another stores": (
        "out[i] = 1; y[i] = out[i ^ 64];",
        "write-after-read race|read-after-write race",
        "by another threadgroup",
    ),
    "a load of threadgroup memory that nobody stored": (
        "if (t < 63) shared[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = shared[t];",
        "uninitialised threadgroup read",
        "byte 252 of threadgroup memory `shared`",
    ),
    "a barrier that some threads do not reach": (
        "if (t >= 40) return; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = 1;",
        "barrier not reached by all threads",
        "",
    ),
    "two barriers that threads reach instead of one": (
        "if (t < 32) threadgroup_barrier(mem_flags::mem_threadgroup);"
        " else threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = 1;",
        "barriers at different places",
        "",
    ),
    "a shuffle from a lane that is not there": (
        "float a = lane; if (lane < 16) a = simd_shuffle(a, 20); out[i] = a;",
        "divergent simd operation",
        "reached by lanes 0000ffff",
    ),
    "a sum that half of the lanes reach": (
        "float a = 1; if (lane < 16) a = simd_sum(a); out[i] = a;",
        "divergent simd operation",
        "",
    ),
    "a simdgroup_barrier that half of the lanes reach": (
        "if (lane < 16) simdgroup_barrier(mem_flags::mem_threadgroup); out[i] = 1;",
        "divergent simdgroup barrier",
        "",
    ),
    "a division by zero": ("out[i] = float(int(t) / zero);", "integer division by zero or overflow", ""),
    "a remainder by zero": ("out[i] = float(t % uint(zero));", "integer division by zero or overflow", ""),
    "a shift by as many bits as there are": ("out[i] = float(t << (32 + zero));", "shift out of range", ""),
}
CLEAN = {
    "every element once": "out[i] = x[i];",
    "an exchange with a barrier": (
        "shared[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = shared[63 - t];"
    ),
    "an exchange in a simdgroup with its barrier": (
        "shared[t] = t; simdgroup_barrier(mem_flags::mem_threadgroup); out[i] = shared[t ^ 1];"
    ),
    "a lane's own element": "shared[t] = t; shared[t] += 1; out[i] = shared[t];",
    "an element that all load": (
        "if (t == 5) shared[0] = 3; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = shared[0];"
        " threadgroup_barrier(mem_flags::mem_threadgroup); if (t == 60) shared[0] = 4;"
    ),
    "an exchange through device memory with its barrier": (
        "out[i] = 1; threadgroup_barrier(mem_flags::mem_device); y[i] = out[i ^ 32];"
    ),
    "packed vectors at a scalar's alignment": (
        "packed_float4 v = *(const device packed_float4*)(x + 1);"
        " packed_float3 w = *(const device packed_float3*)(x + 2); float3 u = w; out[i] = v.w + u.z + w.x;"
    ),
    "an input that all threadgroups load": "out[i] = x[t];",
    "bytes of one word from four lanes": (
        "threadgroup uchar* b = (threadgroup uchar*)shared; b[t] = t; simdgroup_barrier(mem_flags::mem_threadgroup);"
        " out[i] = shared[t / 4] != 0;"
    ),
    "reconvergence": "float a = 1; if (lane < 16) a = 2; float b = simd_sum(a); out[i] = b;",
}
LANGUAGE = {
    "a minimum of a signed and an unsigned": ("uint n = 3; y[0] = min(n, 5);", "ambiguous in Metal"),
    "a maximum of a float and an integer": ("float a = 3; y[0] = max(a, 1);", "ambiguous in Metal"),
    "an exponential of an integer": ("int n = 2; y[0] = exp(n);", "ambiguous in Metal"),
    "a local array of double": ("double d = 1; y[0] = float(d);", "`double` is not available"),
    "the standard library": ("y[0] = std::max(1, 2);", "`std` is not available"),
    "a lambda": ("auto f = [](float a) { return a; }; y[0] = f(1);", "lambda expressions"),
    "a float that becomes a bfloat unsaid": ("bfloat b = x[0]; y[0] = float(b);", "said: bfloat"),
    "a device pointer to a threadgroup function's": (
        "threadgroup float s[4]; device float* p = s; y[0] = p[0];",
        "error",
    ),
    "a threadgroup pointer that takes device memory": ("threadgroup float* p = y; y[0] = p[0];", "error"),
    "a thread pointer that takes device memory": ("float* p = y; y[0] = p[0];", "error"),
    "a store through constant": ("c[0] = 1; y[0] = 1;", "error"),
    "a store through const": ("x[0] = 1; y[0] = 1;", "error"),
    "vectors of two widths": ("float4 v = float2(1, 2); y[0] = v.x;", "error"),
    "too few components": ("float4 v = float4(float2(1, 2), 3); y[0] = v.x;", "wrong number of components"),
    "a sum of bfloat": ("y[0] = float(simd_sum(bfloat(1)));", "neither bfloat nor 64-bit"),
    "a sum of 64-bit integers": ("y[0] = float(simd_sum(1l));", "neither bfloat nor 64-bit"),
    "threadgroup memory with an initialiser": ("threadgroup float s[1] = {1}; y[0] = s[0];", "cannot be initialised"),
    "an array of no known size": ("float a[uint(x[0])]; a[0] = 1; y[0] = a[0];", "error"),
    "a name that is not there": ("y[0] = not_there;", "planted body:1"),
}

planted = Planted({name: text for name, (text, _, _) in FAULTS.items()} | CLEAN)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(name: str, seed: int) -> None:
    _, kind, words = FAULTS[name]
    with simulated(seed=seed) as simulator, pytest.raises(Fault) as caught:
        planted.launch(simulator, name)
    message = str(caught.value)
    assert re.fullmatch(kind, caught.value.kind), message
    assert "in planted" in message
    assert f"planted body:{planted.lines[name]}" in message
    if seed == 0:
        assert words in message


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CLEAN)
def test_what_is_right_passes_in_every_order(name: str, seed: int) -> None:
    with simulated(seed=seed) as simulator:
        planted.launch(simulator, name)


def test_a_fault_leaves_nothing_behind() -> None:
    with simulated() as simulator:
        for name in (
            "an index behind an array of a known size",
            "two lanes that store one element",
            "a store behind a buffer",
        ):
            with pytest.raises(Fault):
                planted.launch(simulator, name)
            np.testing.assert_array_equal(planted.launch(simulator, "every element once"), np.arange(128))


def test_lanes_that_parted_come_together_again() -> None:
    with simulated() as simulator:
        found = planted.launch(simulator, "reconvergence")
    np.testing.assert_array_equal(found, np.full(128, 16 * 2 + 16 * 1))


def test_a_shuffle_from_beyond_the_simdgroup_gives_nothing() -> None:
    found = np.array(run("uint i = thread_position_in_grid.x; y[i] = simd_shuffle_down(float(i), 2);"))
    assert np.isnan(found.reshape(2, 32)[:, 30:]).all()
    np.testing.assert_array_equal(found.reshape(2, 32)[:, :30], np.arange(64).reshape(2, 32)[:, 2:])


def test_divergence_that_is_allowed_gives_what_the_active_lanes_give() -> None:
    with simulated(divergence_allowed=True) as simulator:
        found = planted.launch(simulator, "a sum that half of the lanes reach")
        assert simulator.launches[-1].divergent_ops == 4
    np.testing.assert_array_equal(found.reshape(4, 32)[:, :16], 16)
    np.testing.assert_array_equal(found.reshape(4, 32)[:, 16:], 1)


def test_a_shuffle_from_an_inactive_lane_is_a_fault_where_divergence_is_allowed() -> None:
    with simulated(divergence_allowed=True) as simulator, pytest.raises(Fault, match="lane 0 asks lane 20"):
        planted.launch(simulator, "a shuffle from a lane that is not there")


def run(source: str, *, threads: int = 64, threadgroup: int = 64, size: int = 64, **options: bool) -> mx.array:
    """The output `y` [size] of a kernel with inputs `x` [64] and `c` [4]."""
    with simulated(**options) as simulator:
        kernel = simulator.metal_kernel(name="planted", input_names=["x", "c"], output_names=["y"], source=source)
        return kernel(
            inputs=[mx.arange(64, dtype=mx.float32), mx.arange(4, dtype=mx.float32)],
            grid=(threads, 1, 1),
            threadgroup=(threadgroup, 1, 1),
            output_shapes=[(size,)],
            output_dtypes=[mx.float32],
        )[0]


@pytest.mark.parametrize("name", LANGUAGE)
def test_what_is_not_metal_is_refused_before_it_runs(name: str) -> None:
    text, words = LANGUAGE[name]
    with pytest.raises(CompileError, match=words) as caught:
        run(text)
    assert "planted body:1" in str(caught.value) or "wrong number" in words or "bfloat" in words, caught.value


def test_an_output_element_that_is_never_stored_is_a_fault() -> None:
    with pytest.raises(Fault, match=r"output not stored: .*byte 252 of `y`.*4 of 256 bytes"):
        run("uint i = thread_position_in_grid.x; if (i < 63) y[i] = 1;")
    run("uint i = thread_position_in_grid.x; if (i < 63) y[i] = 1;", partial_outputs_allowed=True)


def test_an_output_that_is_loaded_before_it_is_stored_is_a_fault() -> None:
    with pytest.raises(Fault, match="uninitialised output read"):
        run("uint i = thread_position_in_grid.x; y[i] += 1;")


def test_a_variable_that_was_never_set_reads_as_not_a_number() -> None:
    found = run("uint i = thread_position_in_grid.x; float a; if (i == 99) a = 1; y[i] = a;")
    assert np.isnan(np.array(found)).all()


def test_more_local_memory_than_a_thread_has_is_a_fault() -> None:
    with pytest.raises(Fault, match=r"stack overflow: in planted by thread \(0, 0, 0\)"):
        run("uint i = thread_position_in_grid.x; volatile float a[100000]; a[i] = 1; y[i] = a[i];")


def test_waiting_for_another_threadgroup_is_an_endless_loop() -> None:
    source = """
    device atomic_uint* flag = (device atomic_uint*)y;
    if (threadgroup_position_in_grid.x == 0) while (atomic_load_explicit(flag, memory_order_relaxed) != 1) {}
    else atomic_store_explicit(flag, 1u, memory_order_relaxed);
    """
    with pytest.raises(Fault, match="endless loop: 4 bytes at byte 0 of `y`"):
        run(source, threads=2, threadgroup=1, partial_outputs_allowed=True)


def test_threadgroup_memory_beyond_what_every_gpu_has_is_refused() -> None:
    text = "threadgroup float s[{}]; uint i = thread_position_in_grid.x; s[i] = 1; y[i] = s[i];"
    run(text.format(8192))
    with pytest.raises(Fault, match="too much threadgroup memory: planted takes 32772 bytes"):
        run(text.format(8193))


def test_more_than_1024_threads_are_refused() -> None:
    text = "uint i = thread_position_in_grid.x; y[i] = 1;"
    run(text, threads=1024, threadgroup=1024, size=1024)
    with pytest.raises(ValueError, match="more than 1024 threads"):
        run(text, threads=1056, threadgroup=1056, size=1056)


def test_threadgroup_memory_of_a_function_is_refused() -> None:
    header = "inline float f(uint i) {\n  threadgroup float s[64];\n  s[i] = 1;\n  return s[i];\n}\n"
    with simulated() as simulator:
        kernel = simulator.metal_kernel(
            name="planted", input_names=[], output_names=["y"], source="y[0] = f(0);", header=header
        )
        with pytest.raises(CompileError, match=r"planted header:2.*in a kernel function only"):
            kernel(inputs=[], grid=(1, 1, 1), threadgroup=(1, 1, 1), output_shapes=[(1,)], output_dtypes=[mx.float32])


@pytest.mark.parametrize("text", ["constexpr int N = 4;", "static const float N[2] = {1, 2};", "int N;"])
def test_a_variable_outside_of_functions_has_to_be_constant(text: str) -> None:
    header = (
        "namespace ours {\ntemplate <int I> struct S { int n = I; };\ninline int f() { return 4; }\n" + text + "\n}\n"
    )
    with simulated() as simulator:
        kernel = simulator.metal_kernel(name="p", input_names=[], output_names=["y"], source="y[0] = 1;", header=header)
        with pytest.raises(CompileError, match=r"p header:4: error: .* has to be `constant`"):
            kernel(inputs=[], grid=(1, 1, 1), threadgroup=(1, 1, 1), output_shapes=[(1,)], output_dtypes=[mx.float32])


def test_texts_that_are_not_ascii_are_refused() -> None:
    with pytest.raises(CompileError, match="line 1 is not ASCII"):
        run("y[thread_position_in_grid.x] = 1; // µ")
