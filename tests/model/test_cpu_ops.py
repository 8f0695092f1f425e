"""What a processor computes with: weights expanded exactly, work shared among threads and streams, and when."""

import threading
import tracemalloc

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.mxfp4 import dequantize
from gptoss_mlx.ops import (
    CpuOps,
    ExpertLinear,
    Heads,
    Linear,
    Ops,
    Position,
    QuantizedLinear,
    ReferenceOps,
    blas,
    cpu,
    cpu_attention,
    expand,
    threads,
)
from tests import reference
from tests.model.implementations import BLAS_ALWAYS, STREAMS_ALWAYS, implementations
from tests.routing import routing_to
from tests.tolerances import assert_close, relative_errors

HEADS = Heads(query=6, kv=2, dim=16)

DTYPES = [mx.float32, mx.bfloat16, mx.float16]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def thread_count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many threads share work, whatever this machine has."""
    monkeypatch.setattr(threads, "thread_count", lambda: request.param)
    monkeypatch.setattr(blas, "SHARE_FROM_PRODUCTS", 1)
    return request.param


def packed(blocks: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> ExpertLinear:
    words = mx.array(blocks).view(mx.uint32).reshape(*blocks.shape[:2], -1)
    return ExpertLinear(words, mx.array(scales), mx.array(bias))


def test_mxfp4_rows_are_bit_for_bit_those_of_dequantize(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every byte under every scale: 256 rows of 16 groups, the scale in the row and the bytes in the groups.
    blocks = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 256, 16, 16)).copy()
    scales = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (2, 256, 16)).copy()
    blocks[0] = 0
    linear = packed(blocks, scales, np.zeros((2, 256), dtype=np.float32))
    monkeypatch.setattr(expand, "STEP_VALUES", 7 * 512)
    for start, stop in ((0, 256), (31, 33), (255, 256)):
        out = np.empty((stop - start, 512), dtype=np.float32)
        expand.mxfp4_rows(linear, 1)(start, stop, out)
        np.testing.assert_array_equal(out.view(np.uint32), dequantize(blocks[1], scales[1])[start:stop].view(np.uint32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dense_rows_are_the_stored_values(dtype: mx.Dtype) -> None:
    weight = (mx.array(normal(37, 65)) * 10 ** mx.arange(-30, 35)).astype(dtype)
    out = np.empty((33, 65), dtype=np.float32)
    expand.dense_rows(weight)(3, 36, out)
    np.testing.assert_array_equal(out, np.array(weight[3:36].astype(mx.float32)))


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_affine_rows_are_those_of_mlx(bits: int, group_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = mx.quantize(mx.array(normal(37, 256)), group_size=group_size, bits=bits)
    monkeypatch.setattr(expand, "STEP_VALUES", 5 * 256)
    out = np.empty((33, 256), dtype=np.float32)
    expand.affine_rows(QuantizedLinear(*parts, bits, group_size))(3, 36, out)
    expected = np.array(mx.dequantize(*parts, group_size=group_size, bits=bits))[3:36]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 31, 33, 65, 127, 129])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_of_any_rows(rows: int, dtype: mx.Dtype, thread_count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "SCRATCH_BYTES", 7 * 4 * 160)
    x, weight, bias = (
        mx.array(normal(*s, seed=i)).astype(dtype) for i, s in enumerate([(1, rows, 160), (61, 160), (61,)])
    )
    out = BLAS_ALWAYS.linear_residual(x, Linear(weight, bias), mx.zeros((1, rows, 61), dtype=dtype))
    exact = [np.array(array.astype(mx.float32), dtype=np.float64) for array in (x, weight, bias)]
    assert out.dtype == dtype
    assert_close(out, exact[0] @ exact[1].T + exact[2], dtype)


LOADS = {
    "one expert gets everything": [5] * 40,
    "one expert gets all but one": [5] * 39 + [0],
    "one below, at and above the threshold": [0] * 2 + [3] * 3 + [7] * 4,
    "all below the threshold": [0, 0, 1, 1, 2, 2, 3, 3],
    "mixed up": [7, 1, 7, 3, 7, 1, 0, 7, 1, 3, 7, 7, 1],
    "one pair": [6],
}


@pytest.mark.parametrize("ops", [*implementations(), pytest.param(CpuOps(expand_from_pairs=3), id="cpu-mixed")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("load", LOADS)
def test_experts_with_uneven_loads(ops: Ops, load: str, dtype: mx.Dtype, thread_count: int) -> None:
    chosen = np.array(LOADS[load])
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (8, 37, 3, 16), dtype=np.uint8)
    scales = rng.integers(122, 126, (8, 37, 3), dtype=np.uint8)
    bias = normal(8, 37, seed=2)
    routing = routing_to(chosen[:, None], np.ones((len(chosen), 1)), experts=8)
    order = np.arange(len(chosen)) if routing.order is None else np.array(routing.order)
    inner = mx.array(normal(len(chosen), 96, seed=3)).astype(dtype)
    out = ops.expert_down(inner, routing, packed(blocks, scales, bias), mx.zeros((1, len(chosen), 37), dtype=dtype))
    exact, values = np.array(inner.astype(mx.float32), dtype=np.float64), reference.mxfp4_values(blocks, scales)
    expected = np.empty((len(chosen), 37))
    for row, pair in enumerate(order):
        expected[pair] = values[chosen[pair]] @ exact[row] + bias[chosen[pair]]
    assert out.dtype == dtype
    assert_close(out[0], expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 33, 129])
def test_attention_in_tiles_and_any_dtype(
    rows: int, dtype: mx.Dtype, thread_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "SCORES_PER_TILE", 3 * 150 * 7)
    q, kv = mx.array(normal(2, 6, rows, 16)).astype(dtype), mx.array(normal(2, 4, 256, 16, seed=1)).astype(dtype)
    sinks = mx.array(normal(6, seed=2)).astype(dtype)
    out = BLAS_ALWAYS.full_attention(q, kv, Position.at(150), sinks, HEADS)
    banded = BLAS_ALWAYS.banded_attention(q, kv[:, :, : 31 + rows], 32, sinks, HEADS)
    assert out.dtype == banded.dtype == dtype
    queries, stored, logits = (np.array(a.astype(mx.float32), dtype=np.float64) for a in (q, kv, sinks))
    for row in range(2):
        heads = queries[row].transpose(1, 0, 2), stored[row, :2].transpose(1, 0, 2), stored[row, 2:].transpose(1, 0, 2)
        expected = reference.attention(heads[0], heads[1][:150], heads[2][:150], logits, None)
        assert_close(out[row], expected.reshape(rows, -1), dtype)
        expected = reference.attention(heads[0], heads[1][: 31 + rows], heads[2][: 31 + rows], logits, 32)
        assert_close(banded[row], expected.reshape(rows, -1), dtype)


def test_numpy_takes_over_at_the_threshold_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return x @ weight.T

    monkeypatch.setattr(cpu, "multiply", counted)
    ops, linear = CpuOps(blas_from_products=5 * 64 * 96), Linear(mx.array(normal(64, 96)))
    for rows in (1, 4, 5, 6):
        mx.eval(ops.linear_residual(mx.ones((1, rows, 96)), linear, mx.zeros((1, rows, 64))))
    assert calls == [5, 6]


def test_nobody_waits_for_the_choice_of_experts_of_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []

    def counted(self: CpuOps, pairs: mx.array, *rest: object) -> mx.array:
        waited.append(len(pairs))
        return mx.zeros((len(pairs), 32))

    monkeypatch.setattr(CpuOps, "_project_by_expert", counted)
    down = packed(np.zeros((8, 32, 2, 16), dtype=np.uint8), np.zeros((8, 32, 2), dtype=np.uint8), np.zeros((8, 32)))
    for tokens in (1, 2, 3, 4):
        routing = routing_to(np.array([[0, 1, 2, 3]] * tokens), np.full((tokens, 4), 0.25), experts=8)
        CpuOps(expand_from_pairs=3).expert_down(mx.ones((4 * tokens, 64)), routing, down, mx.zeros((1, tokens, 32)))
    assert waited == [12, 16]


def test_bfloat16_weights_are_always_expanded_and_quantised_ones_for_enough_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    original = cpu.multiply_expanded

    def counted(x: np.ndarray, rows: int, source: expand.RowSource) -> np.ndarray:
        calls.append(len(x))
        return original(x, rows, source)

    monkeypatch.setattr(cpu, "multiply_expanded", counted)
    ops = CpuOps(blas_from_products=1, expand_from_rows=3)
    quantized = QuantizedLinear(*mx.quantize(mx.array(normal(64, 96)), group_size=32, bits=4), 4, 32)
    for linear in (Linear(mx.array(normal(64, 96)).astype(mx.bfloat16)), quantized):
        for rows in (1, 2, 3, 4):
            mx.eval(ops.linear_residual(mx.ones((1, rows, 96)), linear, mx.zeros((1, rows, 64))))
    assert calls == [1, 2, 3, 4, 3, 4]


def test_a_large_model_is_computed_at_once_and_a_small_or_quantised_one_queued() -> None:
    small, large = Linear(mx.zeros((1023, 1024))), Linear(mx.zeros((1024, 1024)))
    assert CpuOps().runs_apart(small)
    assert not CpuOps().runs_apart(large)
    assert not CpuOps().runs_apart(Linear(large.weight.astype(mx.bfloat16)))
    assert CpuOps().runs_apart(QuantizedLinear(*mx.quantize(large.weight, 64, 8), 8, 64))
    assert ReferenceOps().runs_apart(large)


@pytest.mark.parametrize("ops", [BLAS_ALWAYS, STREAMS_ALWAYS, CpuOps(streams=2, split_from_products=1)])
def test_any_thread_may_compute_and_several_at_once(ops: Ops) -> None:
    blocks = np.random.default_rng(1).integers(0, 256, (8, 64, 3, 16), dtype=np.uint8)
    down = packed(blocks, np.full((8, 64, 3), 124, dtype=np.uint8), normal(8, 64))
    weights = Linear(mx.array(normal(64, 64))), QuantizedLinear(*mx.quantize(mx.array(normal(64, 64)), 32, 8), 8, 32)
    experts, inner = np.array([[1, 5, 6, 2]]), mx.array(normal(4, 96))
    mx.eval(down.blocks, weights[1].weight, weights[1].scales, weights[1].biases)

    def compute() -> np.ndarray:
        routing = routing_to(experts, np.array([[0.4, 0.3, 0.2, 0.1]]), experts=8)
        x = ops.expert_down(inner, routing, down, mx.zeros((1, 1, 64)))
        for linear in weights:
            x = ops.linear_residual(x, linear, x)
        return np.array(x)

    expected, found = compute(), []

    def repeat() -> None:
        found.extend(compute() for _ in range(20))

    workers = [threading.Thread(target=repeat) for _ in range(3)]
    for worker in workers:
        worker.start()
    repeat()
    for worker in workers:
        worker.join()
    assert len(found) == 80
    for result in found:
        np.testing.assert_array_equal(result, expected)


def test_a_result_does_not_change_when_the_memory_it_came_from_does() -> None:
    q, kv, sinks = mx.array(normal(1, 6, 5, 16)), mx.array(normal(1, 4, 64, 16, seed=1)), mx.zeros(6)
    out = BLAS_ALWAYS.full_attention(q, kv, Position.at(40), sinks, HEADS)
    before = np.array(BLAS_ALWAYS.full_attention(q, kv, Position.at(40), sinks, HEADS))
    written = BLAS_ALWAYS.write_rows(kv, mx.ones((1, 4, 64, 16)), 0)
    del kv, q
    mx.eval(written)
    np.testing.assert_array_equal(np.array(out), before)


def test_the_numbers_do_not_depend_on_how_the_work_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "SHARE_FROM_PRODUCTS", 1)
    x, weight, found = normal(33, 128), normal(129, 128, seed=1), []
    for count in (1, 2, 3, 200):
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        found.append(blas.multiply(x, weight))
    for product in found:
        assert relative_errors(product, x.astype(np.float64) @ weight.T.astype(np.float64)).max() < 1e-6


def test_a_large_matrix_is_never_expanded_as_a_whole() -> None:
    linear = packed(
        np.zeros((1, 4096, 90, 16), dtype=np.uint8), np.zeros((1, 4096, 90), dtype=np.uint8), np.zeros((1, 4096))
    )
    source, x = expand.mxfp4_rows(linear, 0), normal(9, 2880)
    blas.multiply_expanded(x, 64, source)
    tracemalloc.start()
    blas.multiply_expanded(x, 4096, source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A thread holds the expanded rows, the scales of one step as wide as its values, and take's indices.
    assert peak < threads.thread_count() * (blas.SCRATCH_BYTES + 4 * 4 * expand.STEP_VALUES) + 4 * 9 * 4096
    assert peak < 4 * 4096 * 2880 / 2


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_shared_work_is_done_exactly_once(count: int, thread_count: int) -> None:
    done = np.zeros(count, dtype=np.int64)

    def work(start: int, stop: int) -> None:
        done[start:stop] += 1

    threads.share(count, work)
    threads.share(count, work, parts=2)
    assert done.tolist() == [2] * count


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_any_share_reaches_the_caller_after_all_have_ended(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "thread_count", lambda: 3)
    ended: list[int] = []

    def work(start: int, stop: int) -> None:
        if start == failing:
            raise MemoryError("no room")
        ended.append(start)

    with pytest.raises(MemoryError, match="no room"):
        threads.share(3, work)
    assert sorted(ended) == [part for part in range(3) if part != failing]


def test_the_number_of_blas_threads_is_what_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = threads._OpenBlas(lambda: value[0], lambda count: value.__setitem__(0, count))
    value, inside = [4], []
    monkeypatch.setattr(threads, "_openblas", lambda: setting)

    def fail(start: int, stop: int) -> None:
        inside.append(value[0])
        threads.share(1, lambda start, stop: inside.append(value[0]))
        inside.append(value[0])
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        threads.share(1, fail)
    assert inside == [1, 1, 1]
    assert value == [4]
