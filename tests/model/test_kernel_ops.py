"""The operations on our kernels: which of them run for what, and that they say what the reference says."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.device import this_device
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.ops import (
    KERNEL_CLASSES,
    CpuOps,
    ExpertLinear,
    GrowingKV,
    Heads,
    KernelClass,
    KernelOps,
    Linear,
    Norm,
    Position,
    QuantizedLinear,
    ReferenceOps,
    Rotation,
    Routing,
    choose_kernels,
    current_ops,
    selection,
    use_ops,
)
from gptoss_mlx.weights import load_model
from tests.simulator import Simulator, simulated
from tests.tolerances import relative_errors

HEADS = Heads(query=4, kv=2, dim=64)
HIDDEN = INNER = 192
EXPERTS = 8
REFERENCE = ReferenceOps()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated() as running:
        yield running


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def linear(out: int, into: int, seed: int = 1, *, bias: bool = True) -> Linear:
    return Linear(normal(out, into, seed=seed) / into**0.5, normal(out, seed=seed + 1) if bias else None)


def quantized(out: int, into: int) -> QuantizedLinear:
    return QuantizedLinear(*mx.quantize(normal(out, into) / into**0.5, 64, 8), 8, 64, normal(out, seed=1))


def expert_linear(out: int, into: int, seed: int) -> ExpertLinear:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 2**32, (EXPERTS, out, into // 8), dtype=np.uint32)
    scales = rng.integers(120, 124, (EXPERTS, out, into // 32), dtype=np.uint8)
    return ExpertLinear(mx.array(blocks), mx.array(scales), normal(EXPERTS, out, seed=seed))


NORM = Norm(normal(HIDDEN, seed=9) * 0.1 + 1, 1e-5)
SINKS = normal(HEADS.query, seed=8)
GATE_UP, DOWN = expert_linear(2 * INNER, HIDDEN, 3), expert_linear(HIDDEN, INNER, 4)
BUFFER = normal(1, 2 * HEADS.kv, 256, HEADS.dim, seed=5)
LONG_BUFFER = normal(1, 2 * HEADS.kv, 1280, HEADS.dim, seed=6)


def experts(ops: ReferenceOps, tokens: int) -> mx.array:
    """Both halves, which only make sense together."""
    routing = Routing(normal(1, tokens, EXPERTS, seed=7), 4)
    inner = ops.expert_gate_up(normal(1, tokens, HIDDEN), routing, GATE_UP, 7.0, 1.702)
    return ops.expert_down(inner, routing, DOWN, normal(1, tokens, HIDDEN, seed=2))


def growing(ops: ReferenceOps, body: mx.array, flushed: int, position: int) -> tuple[mx.array, mx.array]:
    """One token's attention with its rows, whatever the number of tokens."""
    rows, recent = normal(1, 2 * HEADS.kv, 1, 64, seed=1), normal(1, 2 * HEADS.kv, 128, 64, seed=2)
    kv = GrowingKV(body, recent, Position.at(flushed))
    return ops.growing_attention(normal(1, HEADS.query, 1, 64), rows, kv, Position.at(position), SINKS, HEADS)


def rotation(tokens: int) -> Rotation:
    angles = normal(tokens, HEADS.dim // 2)
    return Rotation(mx.cos(angles), mx.sin(angles))


OPERATIONS: dict[str, Any] = {
    "norm_qkv_rope": lambda ops, tokens: ops.norm_qkv_rope(
        normal(1, tokens, HIDDEN), NORM, linear(8 * 64, HIDDEN), HEADS, rotation(tokens)
    ),
    "quantised norm_qkv_rope": lambda ops, tokens: ops.norm_qkv_rope(
        normal(1, tokens, HIDDEN), NORM, quantized(8 * 64, HIDDEN), HEADS, rotation(tokens)
    ),
    "full_attention": lambda ops, tokens: ops.full_attention(
        normal(1, HEADS.query, tokens, 64), BUFFER, Position.at(131), SINKS, HEADS
    ),
    "long full_attention": lambda ops, tokens: ops.full_attention(
        normal(1, HEADS.query, tokens, 64), LONG_BUFFER, Position.at(1200), SINKS, HEADS
    ),
    "growing_attention": lambda ops, tokens: growing(ops, BUFFER, 100, 131 + tokens),
    "long growing_attention": lambda ops, tokens: growing(ops, LONG_BUFFER, 1100, 1160 + tokens),
    "banded_attention": lambda ops, tokens: ops.banded_attention(
        normal(1, HEADS.query, tokens, 64), mx.contiguous(BUFFER[:, :, : 31 + tokens]), 32, SINKS, HEADS
    ),
    "ring_attention": lambda ops, tokens: ops.ring_attention(
        normal(1, HEADS.query, 1, 64),
        normal(1, 2 * HEADS.kv, 1, 64, seed=1),
        mx.contiguous(BUFFER[:, :, :128]),
        Position.at(100 + tokens),
        SINKS,
        HEADS,
    ),
    "linear_residual": lambda ops, tokens: ops.linear_residual(
        normal(1, tokens, 256), linear(HIDDEN, 256), normal(1, tokens, HIDDEN, seed=2)
    ),
    "norm_router": lambda ops, tokens: ops.norm_router(normal(1, tokens, HIDDEN), NORM, linear(EXPERTS, HIDDEN)),
    "experts": experts,
    "norm_lm_head": lambda ops, tokens: ops.norm_lm_head(
        normal(1, tokens, HIDDEN), NORM, linear(301, HIDDEN, bias=False)
    ),
    "norm_lm_head_argmax": lambda ops, tokens: ops.norm_lm_head_argmax(
        normal(1, tokens, HIDDEN), NORM, linear(301, HIDDEN, bias=False)
    ),
    "norm_lm_head_best": lambda ops, tokens: ops.norm_lm_head_best(
        normal(1, tokens, HIDDEN), NORM, linear(301, HIDDEN, bias=False)
    ),
}
"""Each operation, for so many tokens."""

GROUPED = ["pick_experts", "route_pairs", "grouped_gate_up", "grouped_down", "combine_experts"]

LAUNCHES = {
    "norm_qkv_rope": (["norm_qkv_rope"], []),
    "quantised norm_qkv_rope": (["norm_qkv_rope"], []),
    "full_attention": ([], ["tile_attention"]),
    "long full_attention": ([], ["tile_attention", "merge_attention"]),
    "growing_attention": (["full_attention"], ["full_attention"]),
    "long growing_attention": (["full_attention", "merge_attention"], ["full_attention", "merge_attention"]),
    "banded_attention": ([], ["tile_attention"]),
    "ring_attention": (["ring_attention"], ["ring_attention"]),
    "linear_residual": (["linear_residual"], []),
    "norm_router": (["norm_router"], []),
    "experts": (["expert_gate_up", "expert_down"], GROUPED),
    "norm_lm_head": (["norm_lm_head"], []),
    "norm_lm_head_argmax": (["norm_argmax", "merge_argmax"], []),
    "norm_lm_head_best": (["norm_argmax", "merge_argmax"], []),
}
"""The kernels that serve one token, and those that serve more."""


@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_run_where_they_serve_and_agree_with_the_reference(
    simulator: Simulator, operation: str, tokens: int
) -> None:
    before = len(simulator.launches)
    results = OPERATIONS[operation](KernelOps(), tokens)
    expected = OPERATIONS[operation](REFERENCE, tokens)
    launched = [launch.kernel for launch in simulator.launches[before:]]
    assert launched == LAUNCHES[operation][tokens > 1]
    for result, right in zip(as_tuple(results), as_tuple(expected), strict=True):
        assert result.shape == right.shape
        assert result.dtype == right.dtype
        assert relative_errors(np.array(result), np.array(right)).max() < 1e-5


def as_tuple(results: Any) -> tuple[mx.array, ...]:
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_launched_that_is_not_enabled(simulator: Simulator, operation: str) -> None:
    before = len(simulator.launches)
    for tokens in (1, 33):
        mx.eval(OPERATIONS[operation](KernelOps(frozenset()), tokens))
    assert len(simulator.launches) == before


def test_classes_are_enabled_by_size() -> None:
    q, rows = normal(1, HEADS.query, 1, 64), normal(1, 2 * HEADS.kv, 1, 64)
    kv = GrowingKV(BUFFER, BUFFER, Position.at(0))
    long = KernelOps(frozenset([KernelClass("full_attention", 1024)]))
    for length, serves in ((1, False), (1023, False), (1024, True), (9999, True)):
        assert long.runs_kernel("growing_attention", q, rows, kv, Position.at(length - 1), SINKS, HEADS) == serves
        assert long.keeps_recent(HEADS, mx.float32, length) == serves
        assert not long.runs_kernel("full_attention", q, BUFFER, Position.at(length), SINKS, HEADS)
    middle = KernelOps(frozenset([KernelClass("grouped_experts", 32)]))
    assert [
        middle.runs_kernel(
            "expert_gate_up", normal(1, tokens, HIDDEN), Routing(normal(1, tokens, EXPERTS), 4), GATE_UP, 7.0, 1.702
        )
        for tokens in (1, 2, 31, 32, 127, 128)
    ] == [False, False, False, True, True, False]


def test_what_a_kernel_does_not_take_is_left_to_the_reference(simulator: Simulator) -> None:
    before = len(simulator.launches)
    x, head = normal(1, 1, 100), linear(64, 100, bias=False)
    norm = Norm(mx.ones(100), 1e-5)
    assert not KernelOps().runs_kernel("norm_lm_head", x, norm, head)
    logits = KernelOps().norm_lm_head(x, norm, head)
    np.testing.assert_array_equal(np.array(logits), np.array(REFERENCE.norm_lm_head(x, norm, head)))
    narrow = Heads(query=4, kv=2, dim=32)
    q, kv = normal(1, 4, 1, 32), normal(1, 4, 256, 32)
    mx.eval(KernelOps().full_attention(q, kv, Position.at(40), SINKS, narrow))
    assert not KernelOps().keeps_recent(narrow, mx.float32, 40)
    assert not KernelOps().keeps_recent(HEADS, mx.int32, 40)
    assert len(simulator.launches) == before


def test_a_step_is_recorded_where_mlx_makes_the_kernels_and_only_enabled_attention(simulator: Simulator) -> None:
    def recording(ops: KernelOps, keys: int = 512) -> Any:
        return ops.recording(HEADS, mx.bfloat16, 128, keys)

    assert recording(KernelOps()) is None
    assert recording(KernelOps(records=True)) == (True, True)
    without_short = KernelOps(frozenset(KERNEL_CLASSES) - {KernelClass("full_attention", 1)}, records=True)
    assert recording(without_short) == (True, False)
    assert recording(without_short, 1024) == (True, True)
    assert KernelOps(records=True).recording(Heads(4, 2, 32), mx.bfloat16, 128, 512) == (False, False)


def test_kernels_are_chosen_for_metal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        choose_kernels(frozenset(KERNEL_CLASSES))
        assert isinstance(current_ops(), KernelOps if this_device().metal else CpuOps)
        on_metal = replace(this_device(), metal=True, gpu=True)
        monkeypatch.setattr(selection, "this_device", lambda: on_metal)
        chosen = frozenset([KernelClass("norm_router", 1)])
        choose_kernels(chosen)
        ops = current_ops()
        assert isinstance(ops, KernelOps)
        assert ops.enabled == chosen
        choose_kernels(frozenset())
        assert type(current_ops()) is ReferenceOps
    finally:
        monkeypatch.undo()
        choose_kernels(frozenset())


@pytest.fixture(scope="module")
def pocket_model() -> Model:
    return load_model(POCKET_FOLDER)


def greedy_tokens(model: Model, prompt: list[int], count: int) -> list[int]:
    cache, found = model.make_cache(), []
    token = model.most_probable(mx.array([prompt], dtype=mx.int32), cache)
    for _ in range(count):
        found.append(cast(int, token.item()))
        token = model.most_probable(token, cache)
    return found


@pytest.mark.parametrize("prompt_tokens", [1, 150])
def test_a_model_launches_what_its_layers_need_and_says_the_same(
    simulator: Simulator, pocket_model: Model, prompt_tokens: int
) -> None:
    prompt = [int(token) for token in np.random.default_rng(prompt_tokens).integers(0, 2900, prompt_tokens)]
    with use_ops(REFERENCE):
        expected = greedy_tokens(pocket_model, prompt, 4)
    before = len(simulator.launches)
    with use_ops(KernelOps()):
        assert greedy_tokens(pocket_model, prompt, 4) == expected
    launched = Counter(launch.kernel for launch in simulator.launches[before:])
    layers = len(pocket_model.layers)
    decoded = 4 + (prompt_tokens == 1)
    assert launched["expert_down"] == launched["norm_qkv_rope"] == launched["norm_router"] == layers * decoded
    assert launched["ring_attention"] == launched["full_attention"] == layers * decoded // 2
    assert launched["grouped_down"] == launched["tile_attention"] == layers * (prompt_tokens > 1)
    assert launched["merge_argmax"] == 5


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_projections_run_on_our_kernels_as_well(
    simulator: Simulator, conversions: Callable[[int | None], str], bits: int
) -> None:
    model = load_model(conversions(bits))
    with use_ops(REFERENCE):
        expected = greedy_tokens(model, [5, 6, 7], 8)
    before = len(simulator.launches)
    with use_ops(KernelOps()):
        assert greedy_tokens(model, [5, 6, 7], 8) == expected
    launched = Counter(launch.kernel for launch in simulator.launches[before:])
    assert launched["norm_qkv_rope"] == launched["linear_residual"] == 8 * len(model.layers)
