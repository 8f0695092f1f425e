"""Every operation of every implementation against float64, at sizes one off from every tile."""

import threading
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.model import Model
from gptoss_mlx.mxfp4 import dequantize
from gptoss_mlx.ops import (
    SORT_FROM_PAIRS,
    ExpertLinear,
    GrowingKV,
    Heads,
    Linear,
    Norm,
    Ops,
    Position,
    Projection,
    ReferenceOps,
    Rotation,
    Routing,
    current_ops,
    use_ops,
)
from tests import reference
from tests.model.conftest import LoadedCase
from tests.model.implementations import implementations
from tests.routing import routing_to
from tests.tolerances import assert_close, relative_errors

LENGTHS = [1, 2, 31, 32, 33, 127, 128, 129, 300]
"""Rows, one off from every tile and window."""

WIDTHS = [32, 96, 160]
"""Input widths: one MXFP4 group, and odd numbers of them."""

HEADS = Heads(query=6, kv=2, dim=16)


@pytest.fixture(params=implementations())
def ops(request: pytest.FixtureRequest) -> Ops:
    return request.param


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(std)


def experts_of(experts: int, out: int, width: int, seed: int = 0) -> tuple[ExpertLinear, np.ndarray, np.ndarray]:
    """MXFP4 weights for MLX, and the same in float64 with their biases."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (experts, out, width // 32, 16), dtype=np.uint8)
    scales = rng.integers(122, 126, (experts, out, width // 32), dtype=np.uint8)
    bias = normal(experts, out, seed=seed + 1)
    words = mx.array(blocks).view(mx.uint32).reshape(experts, out, width // 8)
    return ExpertLinear(words, mx.array(scales), mx.array(bias)), reference.mxfp4_values(blocks, scales), bias


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_norm_qkv_rope(ops: Ops, length: int, width: int) -> None:
    x, weight = normal(2, length, width), normal(width, seed=1) + 1
    projection, bias = normal(10 * 16, width, seed=2), normal(10 * 16, seed=3)
    angles = normal(length, 8, seed=4, std=2.0)
    rotation = Rotation(mx.array(1.3 * np.cos(angles)), mx.array(1.3 * np.sin(angles)))
    q, kv = ops.norm_qkv_rope(
        mx.array(x), Norm(mx.array(weight), 1e-5), Linear(mx.array(projection), mx.array(bias)), HEADS, rotation
    )
    for row in range(2):
        normed = reference.rms_norm(x[row].astype(np.float64), weight, 1e-5)
        heads = (normed @ projection.T.astype(np.float64) + bias).reshape(length, 10, 16)
        pairs = (heads[:, :8, :8] + 1j * heads[:, :8, 8:]) * (1.3 * np.exp(1j * angles))[:, None]
        heads[:, :8] = np.concatenate([pairs.real, pairs.imag], axis=-1)
        assert_close(q[row], heads[:, :6].transpose(1, 0, 2))
        assert_close(kv[row], heads[:, 6:].transpose(1, 0, 2))


def test_write_rows_leaves_the_buffer_it_was_given(ops: Ops) -> None:
    buffer = mx.zeros((1, 2, 8, 4))
    written = ops.write_rows(buffer, mx.ones((1, 2, 3, 4)), 5)
    assert buffer.sum().item() == 0
    assert written[0, 0, :, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("seq", LENGTHS)
@pytest.mark.parametrize("history", [0, 1, 127, 130])
def test_full_attention(ops: Ops, seq: int, history: int) -> None:
    length = seq + history
    kv, q, sinks = normal(1, 4, 512, 16), normal(1, 6, seq, 16, seed=1), normal(6, seed=2)
    out = ops.full_attention(mx.array(q), mx.array(kv), Position.at(length), mx.array(sinks), HEADS)
    keys, values = kv[0, :2, :length].transpose(1, 0, 2), kv[0, 2:, :length].transpose(1, 0, 2)
    expected = reference.attention(q[0].transpose(1, 0, 2).astype(np.float64), keys, values, sinks, None)
    assert_close(out[0], expected.reshape(seq, -1))


@pytest.mark.parametrize("seq", LENGTHS)
@pytest.mark.parametrize("history", [0, 1, 30, 31])
@pytest.mark.parametrize("window", [32, 128])
def test_banded_attention(ops: Ops, seq: int, history: int, window: int) -> None:
    kv, q, sinks = normal(1, 4, history + seq, 16), normal(1, 6, seq, 16, seed=1), normal(6, seed=2)
    out = ops.banded_attention(mx.array(q), mx.array(kv), window, mx.array(sinks), HEADS)
    expected = reference.attention(
        q[0].transpose(1, 0, 2).astype(np.float64),
        kv[0, :2].transpose(1, 0, 2),
        kv[0, 2:].transpose(1, 0, 2),
        sinks,
        window,
    )
    assert_close(out[0], expected.reshape(seq, -1))


@pytest.mark.parametrize("position", [0, 1, 30, 31, 32, 33, 63, 64, 1000])
def test_ring_attention(ops: Ops, position: int) -> None:
    window = 32
    history = normal(1, 4, position + 1, 16)
    ring = np.full((1, 4, window, 16), 1e4, dtype=np.float32)
    for p in range(max(0, position - window), position):
        ring[:, :, p % window] = history[:, :, p]
    q, sinks = normal(1, 6, 1, 16, seed=1), normal(6, seed=2)
    out, written = ops.ring_attention(
        mx.array(q), mx.array(history[:, :, -1:]), mx.array(ring), Position.at(position), mx.array(sinks), HEADS
    )
    keys, values = history[0, :2].transpose(1, 0, 2), history[0, 2:].transpose(1, 0, 2)
    expected = reference.attention(q[0].transpose(1, 0, 2).astype(np.float64), keys, values, sinks, window)
    assert_close(out[0], expected.reshape(1, -1))
    np.testing.assert_array_equal(np.array(written[0, :, position % window]), history[0, :, -1])


@pytest.mark.parametrize("flushed", [0, 1, 127, 300])
@pytest.mark.parametrize("filled", [1, 2, 31, 32])
def test_growing_attention(ops: Ops, flushed: int, filled: int) -> None:
    position, slots = flushed + filled - 1, 32
    history = normal(1, 4, position + 1, 16)
    body, recent = np.full((1, 4, 512, 16), 1e4, np.float32), np.full((1, 4, slots, 16), 1e4, np.float32)
    body[:, :, :flushed] = history[:, :, :flushed]
    recent[:, :, : filled - 1] = history[:, :, flushed:position]
    q, sinks = normal(1, 6, 1, 16, seed=1), normal(6, seed=2)
    kv = GrowingKV(mx.array(body), mx.array(recent), Position.at(flushed))
    rows = mx.array(history[:, :, -1:])
    out, written = ops.growing_attention(mx.array(q), rows, kv, Position.at(position), mx.array(sinks), HEADS)
    keys, values = history[0, :2].transpose(1, 0, 2), history[0, 2:].transpose(1, 0, 2)
    expected = reference.attention(q[0].transpose(1, 0, 2).astype(np.float64), keys, values, sinks, None)
    assert_close(out[0], expected.reshape(1, -1))
    recent[:, :, filled - 1] = history[:, :, -1]
    np.testing.assert_array_equal(np.array(written), recent)
    assert not ops.keeps_recent(HEADS, mx.float32, position + 1)


@pytest.mark.parametrize("sink", [-30.0, 0.0, 30.0])
def test_sinks_of_any_strength(ops: Ops, sink: float) -> None:
    kv, q, sinks = normal(1, 4, 256, 16), normal(1, 6, 33, 16, seed=1), np.full(6, sink, dtype=np.float32)
    out = ops.full_attention(mx.array(q), mx.array(kv), Position.at(40), mx.array(sinks), HEADS)
    keys, values = kv[0, :2, :40].transpose(1, 0, 2), kv[0, 2:, :40].transpose(1, 0, 2)
    expected = reference.attention(q[0].transpose(1, 0, 2).astype(np.float64), keys, values, sinks, None)
    assert_close(out[0], expected.reshape(33, -1))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_linear_residual(ops: Ops, length: int, width: int) -> None:
    x, weight, bias, residual = (
        normal(1, length, width),
        normal(64, width, seed=1),
        normal(64, seed=2),
        normal(1, length, 64),
    )
    out = ops.linear_residual(mx.array(x), Linear(mx.array(weight), mx.array(bias)), mx.array(residual))
    assert_close(out, residual + x.astype(np.float64) @ weight.T + bias)


@pytest.mark.parametrize("experts", [4, 32, 128])
@pytest.mark.parametrize("length", LENGTHS)
def test_norm_router(ops: Ops, length: int, experts: int) -> None:
    x, weight = normal(1, length, 96), normal(96, seed=1) + 1
    router, bias = normal(experts, 96, seed=2), normal(experts, seed=3)
    normed, logits = ops.norm_router(
        mx.array(x), Norm(mx.array(weight), 1e-5), Linear(mx.array(router), mx.array(bias))
    )
    routing = Routing(logits, 4)
    expected = reference.rms_norm(x[0].astype(np.float64), weight, 1e-5)
    assert_close(normed[0], expected)
    expected_chosen, expected_weights = reference.route(expected @ router.T.astype(np.float64) + bias, 4)
    np.testing.assert_array_equal(np.array(routing.experts[0]), expected_chosen)
    np.testing.assert_allclose(np.array(routing.weights[0]), expected_weights, atol=1e-4)
    assert logits.dtype == routing.weights.dtype == mx.float32


def test_of_equal_router_logits_the_lower_expert_wins(ops: Ops) -> None:
    bias = np.zeros(128, dtype=np.float32)
    bias[[90, 17, 63]] = 1.0
    router = Linear(mx.zeros((128, 32)), mx.array(bias))
    _, logits = ops.norm_router(mx.ones((1, 3, 32)), Norm(mx.ones(32), 1e-5), router)
    routing = Routing(logits, 5)
    assert routing.experts[0].tolist() == [[17, 63, 90, 0, 1]] * 3
    np.testing.assert_allclose(
        np.array(routing.weights[0, 0]), np.exp([1, 1, 1, 0, 0]) / np.exp([1, 1, 1, 0, 0]).sum(), rtol=1e-6
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_expert_gate_up_and_down(ops: Ops, length: int, width: int) -> None:
    rng = np.random.default_rng(5)
    chosen = np.array([rng.permutation(8)[:4] for _ in range(length)])
    check_experts(ops, chosen, experts=8, width=width)


@pytest.mark.parametrize("tokens", [1, SORT_FROM_PAIRS // 4 - 1, SORT_FROM_PAIRS // 4, 33])
def test_all_tokens_to_the_same_experts(ops: Ops, tokens: int) -> None:
    check_experts(ops, np.tile([6, 1, 2, 5], (tokens, 1)), experts=8, width=64)


def check_experts(ops: Ops, chosen: np.ndarray, experts: int, width: int) -> None:
    length, inner_width = len(chosen), 96
    x, residual = normal(1, length, width), normal(1, length, width, seed=9)
    weights = np.abs(normal(length, 4, seed=8)) + 0.1
    weights = -np.sort(-weights / weights.sum(axis=-1, keepdims=True), axis=-1)
    gate_up, gate_up_values, gate_up_bias = experts_of(experts, 2 * inner_width, width)
    down, down_values, down_bias = experts_of(experts, width, inner_width, seed=7)
    routing = routing_to(chosen, weights, experts)
    assert (routing.order is None) == (chosen.size < SORT_FROM_PAIRS)

    inner = ops.expert_gate_up(mx.array(x), routing, gate_up, 2.0, 1.702)
    expected_inner = np.stack(
        [
            [
                reference.swiglu(gate_up_values[e] @ x[0, token].astype(np.float64) + gate_up_bias[e], 2.0)
                for e in chosen[token]
            ]
            for token in range(length)
        ]
    )
    order = np.arange(chosen.size) if routing.order is None else np.array(routing.order)
    assert_close(inner, expected_inner.reshape(-1, inner_width)[order])

    out = ops.expert_down(inner, routing, down, mx.array(residual))
    expected = residual[0].astype(np.float64)
    for token in range(length):
        for choice, e in enumerate(chosen[token]):
            expected[token] += weights[token, choice] * (down_values[e] @ expected_inner[token, choice] + down_bias[e])
    assert_close(out[0], expected)


@pytest.mark.parametrize("scale", [0, 1, 130])
def test_experts_at_the_edges_of_the_scale(ops: Ops, scale: int) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (4, 8, 2, 16), dtype=np.uint8)
    scales = np.full((4, 8, 2), scale, dtype=np.uint8)
    words = mx.array(blocks).view(mx.uint32).reshape(4, 8, 8)
    down = ExpertLinear(words, mx.array(scales), mx.zeros((4, 8)))
    routing = routing_to(np.array([[2, 0]]), np.array([[0.75, 0.25]]), experts=4)
    # Large inputs bring subnormal weights back into float32's range.
    inner = normal(2, 64, std=2.0**100 if scale < 2 else 1.0)
    out = ops.expert_down(mx.array(inner), routing, down, mx.zeros((1, 1, 8)))
    values = dequantize(blocks, scales).astype(np.float64)
    assert_close(out[0, 0], 0.75 * values[2] @ inner[0] + 0.25 * values[0] @ inner[1])


@pytest.mark.parametrize("length", [1, 33])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_norm_lm_head_gives_float32(ops: Ops, length: int, dtype: mx.Dtype) -> None:
    x, weight, head = normal(1, length, 96), normal(96, seed=1) + 1, normal(127, 96, seed=2)
    out = ops.norm_lm_head(
        mx.array(x).astype(dtype), Norm(mx.array(weight).astype(dtype), 1e-5), Linear(mx.array(head).astype(dtype))
    )
    assert out.dtype == mx.float32
    expected = reference.rms_norm(x[0].astype(np.float64), weight, 1e-5) @ head.T.astype(np.float64)
    assert_close(out[0], expected, dtype)


class CountingOps(ReferenceOps):
    """Counts the calls of each operation and lets the reference carry them out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("calls", "recording", "keeps_recent"):
            self.calls[name] = self.calls.get(name, 0) + 1
        return super().__getattribute__(name)


def test_a_decode_step_is_seven_operations_a_layer(plain: LoadedCase) -> None:
    counting = CountingOps()
    with use_ops(counting) as ops:
        assert current_ops() is ops
        cache = plain.model.make_cache()
        mx.eval(plain.model(plain.prompt[:, :9], cache))
        counting.calls.clear()
        mx.eval(plain.model(plain.prompt[:, 9:10], cache))
    layers = len(plain.model.layers)
    assert counting.calls == {
        "embed": 1,
        "norm_qkv_rope": layers,
        # Of a full layer for its cache, of a sliding layer by the ring attention of the reference.
        "write_rows": layers,
        "full_attention": layers // 2,
        "ring_attention": layers // 2,
        "linear_residual": layers,
        "norm_router": layers,
        "expert_gate_up": layers,
        "expert_down": layers,
        "norm_lm_head": 1,
    }
    assert current_ops() is not counting


def test_an_override_reaches_other_threads_and_ends_with_an_error(plain: LoadedCase) -> None:
    seen: list[Ops] = []
    counting = CountingOps()

    def use_and_fail() -> None:
        with use_ops(counting):
            thread = threading.Thread(target=lambda: seen.append(current_ops()))
            thread.start()
            thread.join()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        use_and_fail()
    assert seen == [counting]
    assert isinstance(current_ops(), ReferenceOps)


class Float64Head(ReferenceOps):
    """An implementation that computes one operation otherwise: what a kernel will be."""

    def norm_lm_head(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        normed = reference.rms_norm(np.array(x[0], dtype=np.float64), np.array(norm.weight), norm.eps)
        return mx.array((normed @ np.array(lm_head.weight, dtype=np.float64).T).astype(np.float32))[None]


def test_another_implementation_takes_over_where_it_says(plain: LoadedCase) -> None:
    model: Model = plain.model
    with use_ops(Float64Head()):
        logits = np.array(model(plain.prompt[:, :33])[0])
    assert relative_errors(logits, plain.reference[:33]).max() < 1e-5
