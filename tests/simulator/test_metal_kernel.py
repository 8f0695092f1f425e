"""The look-alike of `mx.fast.metal_kernel`: the signature that MLX writes, and the record of a launch."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import library
from tests.simulator import CompileError, Fault, Launch, compiler, lines, simulated, unsupported

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=unsupported() or "")

TOY = """// What it computes.
#include "toy.h"
template <typename T>
void toy(const device T* x, device T* y, threadgroup float* shared, uint t) {
    shared[t] = float(x[t]);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    y[t] = T(twice(shared[63 - t]));
}
"""
TOY_HEADER = """#include <metal_stdlib>
using namespace metal;
/* two
   lines */
inline float twice(float x) { return 2.0f * x; }
inline float beyond(const device float* x) { return x[1000]; }
"""
BODY = "threadgroup float shared[64];\ntoy<T>(x, y, shared, thread_index_in_threadgroup);\n"


def launch(
    source: str,
    inputs: dict[str, Any],
    *,
    size: int | tuple[int, ...] = 64,
    dtype: mx.Dtype = mx.float32,
    grid: tuple[int, int, int] = (64, 1, 1),
    threadgroup: tuple[int, int, int] = (64, 1, 1),
    template: list[tuple[str, Any]] | None = None,
    header: str = "",
    made: dict[str, Any] | None = None,
    init_value: float | None = None,
    **options: Any,
) -> tuple[np.ndarray, Launch]:
    """The output `y` of a kernel, and its launch."""
    with simulated(**options) as simulator:
        kernel = simulator.metal_kernel(
            name="small", input_names=list(inputs), output_names=["y"], source=source, header=header, **(made or {})
        )
        (y,) = kernel(
            inputs=list(inputs.values()),
            template=template,
            grid=grid,
            threadgroup=threadgroup,
            output_shapes=[(size,) if isinstance(size, int) else size],
            output_dtypes=[dtype],
            init_value=init_value,
        )
    assert y.dtype == dtype
    return np.array(y.astype(mx.float32) if dtype == mx.bfloat16 else y), simulator.launches[-1]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[library.Kernel]:
    """A kernel of two files, as the package's are."""
    files = {"toy.metal": TOY, "toy.h": TOY_HEADER}
    monkeypatch.setattr(library, "_read", lambda name: files[name])
    library.read_source.cache_clear()
    lines._places.cache_clear()
    yield library.Kernel("toy", inputs=["x"], outputs=["y"], body=BODY)
    library.read_source.cache_clear()
    lines._places.cache_clear()


def run_toy(kernel: library.Kernel, dtype: mx.Dtype = mx.float32) -> mx.array:
    x = mx.arange(64).astype(dtype)
    return kernel(x, template={"T": dtype}, grid=(64, 1, 1), threadgroup=(64, 1, 1), shapes=[(64,)], dtypes=[dtype])[0]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("options", [{}, {"seed": 5}, {"counting": True}, {"checks": False}], ids=str)
def test_a_kernel_of_the_package_runs_in_the_simulator(
    toy: library.Kernel, options: dict[str, Any], dtype: mx.Dtype
) -> None:
    with simulated(**options) as simulator:
        found = run_toy(toy, dtype)
    np.testing.assert_array_equal(np.array(found.astype(mx.float32)), 2 * np.arange(64)[::-1])
    (done,) = simulator.launches
    assert (done.kernel, done.template, done.grid, done.threadgroup) == ("toy", {"T": dtype}, (64, 1, 1), (64, 1, 1))
    assert (done.threads, done.threadgroups, done.barriers, done.threadgroup_bytes) == (64, 1, 1, 256)
    assert done.barrier_places == {("toy.metal", 6)}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (BODY + "y[0] = beyond(x);", r"at toy\.h:6"),
        (BODY.replace("(x, y,", "(x, y - 1,"), r"at toy\.metal:7"),
        (BODY + "y[64] = 1;", "at toy body:3"),
    ],
)
def test_a_fault_names_the_file_and_line_it_is_in(toy: library.Kernel, body: str, place: str) -> None:
    toy.body = body
    with simulated(), pytest.raises(Fault, match=place):
        run_toy(toy)


def test_markers_leave_every_line_where_it_is(toy: library.Kernel) -> None:
    source = library.read_source("toy")
    marked = lines.with_markers(source, "toy")
    assert [line for line in marked.split("\n")[:-1] if not line.startswith("# ")] == source.split("\n")
    for number, text in enumerate(source.split("\n"), 1):
        file, line = lines.place(source, "toy", number)
        original = {"toy.metal": TOY, "toy.h": TOY_HEADER}[file].split("\n")[line - 1]
        assert not text or text == original


def test_shapes_strides_and_dimensions_come_when_the_source_names_them() -> None:
    source = "y[0] = x_shape[0] * 10000 + x_shape[1] * 1000 + x_strides[0] * 100 + x_strides[1] * 10 + x_ndim;"
    found, _ = launch(source, {"x": mx.zeros((5, 7))}, size=1, grid=(1, 1, 1))
    assert found[0] == 5 * 10000 + 7 * 1000 + 7 * 100 + 1 * 10 + 2


def test_an_array_that_is_not_contiguous_is_copied_or_taken_as_it_lies() -> None:
    x = mx.arange(12, dtype=mx.float32).reshape(3, 4).T
    source = "uint i = thread_position_in_grid.x; y[i] = x[i / 3 * {} + i % 3 * {}];".format(
        "x_strides[0]", "x_strides[1]"
    )
    expected = np.array(x).ravel()
    for contiguous, strides in ((True, (3, 1)), (False, (1, 4))):
        made = {"ensure_row_contiguous": contiguous}
        found, _ = launch(source, {"x": x}, size=12, grid=(12, 1, 1), made=made)
        np.testing.assert_array_equal(found, expected)
        both, _ = launch("y[0] = x_strides[0]; y[1] = x_strides[1];", {"x": x}, size=2, grid=(1, 1, 1), made=made)
        assert tuple(both) == strides


def test_fewer_than_eight_elements_are_constant_and_none_a_reference() -> None:
    source = "y[0] = f(x) + z;"
    inputs = {"x": mx.ones(8), "z": mx.array(2.0)}
    header = "inline float f(const device float* x) { return x[7]; }\n"
    assert launch(source, inputs, size=1, grid=(1, 1, 1), header=header)[0][0] == 3
    with pytest.raises(CompileError, match="no matching function for call to 'f'"):
        launch(source, inputs | {"x": mx.ones(7)}, size=1, grid=(1, 1, 1), header=header)
    assert launch("y[0] = x;", {"x": 4.0}, size=1, grid=(1, 1, 1))[0][0] == 4


def test_template_values_are_ints_bools_and_dtypes() -> None:
    source = "y[thread_position_in_grid.x] = T(B ? N : -N);"
    template = [("T", mx.bfloat16), ("N", 3), ("B", False)]
    found, _ = launch(source, {"x": mx.ones(8)}, dtype=mx.bfloat16, template=template)
    np.testing.assert_array_equal(found, np.full(64, -3))
    with pytest.raises(TypeError, match="MLX takes ints, bools and dtypes"):
        launch(source, {"x": mx.ones(8)}, template=[("T", mx.float32), ("N", 0.5), ("B", True)])


def test_positions_are_metals_also_at_the_edge_of_a_grid() -> None:
    source = """
    uint3 p = thread_position_in_grid, g = threads_per_grid;
    uint3 there = threadgroup_position_in_grid * uint3(16, 2, 1) + thread_position_in_threadgroup;
    bool right = all(there == p) && all(threads_per_threadgroup <= dispatch_threads_per_threadgroup)
        && thread_index_in_threadgroup == thread_position_in_threadgroup.x
            + threads_per_threadgroup.x * thread_position_in_threadgroup.y
        && thread_index_in_simdgroup == thread_index_in_threadgroup % 32
        && simdgroup_index_in_threadgroup == 0 && simdgroups_per_threadgroup == 1
        && threads_per_simdgroup == 32 && threadgroups_per_grid.x == 3;
    y[p.x + g.x * (p.y + g.y * p.z)] = right ? threads_per_threadgroup.x * threads_per_threadgroup.y : 0;
    """
    found, done = launch(source, {"x": mx.ones(8)}, size=(2, 3, 40), grid=(40, 3, 2), threadgroup=(16, 2, 1))
    expected = np.array([32, 32, 16])[:, None] * np.array([1, 1, 0.5])
    np.testing.assert_array_equal(found[0, :, ::16], expected.T)
    assert (done.threads, done.threadgroups) == (240, 3 * 2 * 2)


def test_a_threadgroup_is_no_larger_than_the_grid() -> None:
    source = "y[thread_position_in_grid.x] = threads_per_threadgroup.x;"
    found, done = launch(source, {"x": mx.ones(8)}, size=40, grid=(40, 1, 1), threadgroup=(256, 1, 1))
    assert done.threadgroup == (40, 1, 1)
    np.testing.assert_array_equal(found, np.full(40, 40))


def test_an_initial_value_and_atomic_outputs() -> None:
    source = "atomic_fetch_add_explicit(&y[thread_position_in_grid.x % 4], 2u, memory_order_relaxed);"
    made = {"atomic_outputs": True}
    found, done = launch(source, {"x": mx.ones(8)}, size=5, dtype=mx.uint32, made=made, init_value=1)
    np.testing.assert_array_equal(found, [33, 33, 33, 33, 1])
    assert done.buffers["y"].unique_stored_bytes == 16


def test_names_of_mlx_own_prelude_are_taken() -> None:
    with pytest.raises(CompileError, match="redefinition of 'Limits'"):
        launch("y[0] = 1;", {"x": mx.ones(8)}, header="template <typename T> struct Limits {};")


def test_what_mlx_does_not_take_is_refused() -> None:
    with pytest.raises(TypeError):
        launch("y[0] = 1;", {"x": mx.ones(8)}, made={"language": 3})
    with pytest.raises(ValueError, match="math_mode"):
        launch("y[0] = 1;", {"x": mx.ones(8)}, made={"compile_options": {"fast": True}})
    with pytest.raises(CompileError, match="41 buffers; Metal has 31"):
        launch("y[0] = 1;", {f"x{i}": mx.ones(8) for i in range(40)})


def test_bytes_are_counted_as_loaded_and_once_each() -> None:
    source = "uint i = thread_position_in_grid.x; y[i] = x[i / 2] + x[64 + i % 8] + c[0];"
    _, done = launch(source, {"x": mx.ones(128), "c": mx.ones(2)}, counting=True)
    assert done.buffers["x"].loaded_bytes == 2 * 256
    assert done.buffers["x"].unique_loaded_bytes == 4 * (32 + 8)
    assert done.buffers["c"].unique_loaded_bytes == 4
    assert (done.buffers["y"].stored_bytes, done.buffers["y"].unique_stored_bytes) == (256, 256)
    # Two simdgroups: 64 bytes each of the first 128-byte line, then eight floats, then a float; and a line each of y.
    assert done.buffers["x"].transactions == 2 + 2
    assert done.buffers["y"].transactions == 2
    assert done.transactions == 4 + 2 + 2


def test_transactions_grow_with_the_distance_of_lanes() -> None:
    for step, expected in ((1, 1), (2, 2), (4, 4), (32, 32), (64, 32)):
        source = f"uint i = thread_position_in_grid.x; y[i] = x[i * {step}];"
        _, done = launch(source, {"x": mx.ones(2048)}, size=32, grid=(32, 1, 1), counting=True)
        assert done.buffers["x"].transactions == expected


def test_what_was_not_counted_is_not_said_to_be_nothing() -> None:
    _, done = launch("y[thread_position_in_grid.x] = 1;", {"x": mx.ones(8)})
    with pytest.raises(ValueError, match="counting=True"):
        _ = done.transactions
    _, done = launch("y[thread_position_in_grid.x] = 1;", {"x": mx.ones(8)}, checks=False)
    assert not done.buffers


def test_two_processes_can_build_the_same_kernel_in_an_empty_folder(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from tests.simulator import compiler\n"
        "compiler.CACHE = pathlib.Path(sys.argv[1])\n"
        "from tests.simulator.test_metal_kernel import launch\n"
        "import mlx.core as mx\n"
        "found, _ = launch('y[thread_position_in_grid.x] = x[3];', {'x': mx.ones(8)})\n"
        "assert found.sum() == 64\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = compiler.HERE.parents[1]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".so", ".so"]


@pytest.mark.parametrize("checks", [True, False])
def test_of_a_large_input_what_is_touched_is_there(checks: bool) -> None:
    x = mx.arange(2**20 + 5, dtype=mx.float32)
    places = [0, 65_535, 65_536, 700_001, 2**20 + 4]
    source = "".join(f"y[{i}] = x[{place}];\n" for i, place in enumerate(places))
    found, done = launch(source, {"x": x}, size=5, grid=(1, 1, 1), checks=checks)
    np.testing.assert_array_equal(found, places)
    if checks:
        assert done.buffers["x"].unique_loaded_bytes == 4 * 5
        with pytest.raises(Fault, match="out-of-bounds load: 4 bytes at byte 4194324 of `x`"):
            launch("y[0] = x[1048581];", {"x": x}, size=1, grid=(1, 1, 1))
