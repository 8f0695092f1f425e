"""The kernels at the shapes of gpt-oss-20b and -120b, as the report and the tests of bytes launch them.

Random weights of the right sizes and dtypes: what is counted does not depend on values, except which experts are
visited, and those are as many as in a real model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import mlx.core as mx
import numpy as np

from gptoss_mlx.cache import RECENT_TOKENS
from gptoss_mlx.metal import (
    expert_down,
    expert_gate_up,
    full_attention,
    grouped_experts,
    linear_residual,
    norm_lm_head,
    norm_qkv_rope,
    norm_router,
    ring_attention,
    tile_attention,
)
from gptoss_mlx.operands import Heads, Rotation
from tests.metal.arrays import random_array
from tests.metal.expert_linears import random_experts
from tests.metal.projections import random_norm, random_projection

HIDDEN: Final = 2880
"""Width of the residual stream, and of an expert."""

VOCAB: Final = 201_088
"""Rows of lm_head."""

HEADS: Final = Heads(query=64, kv=8, dim=64)
"""Of both models."""

WINDOW: Final = 128
"""Positions that a sliding layer sees."""

CHOICES: Final = 4
"""Experts that a token visits."""

LIMIT, ALPHA = 7.0, 1.702


@dataclass(frozen=True, slots=True)
class Case:
    """One operation at one shape."""

    name: str
    """The operation."""
    shape: str
    """Its shape in words."""
    once: tuple[str, ...]
    """Buffers that must be loaded once: weights, keys, values. Others are activations and small tables."""
    run: Callable[[], object]
    """Launches it."""
    stock: str | None = None
    """MLX's own kernel for the heaviest part of it, by the name that `report_stock` knows; None where there is none."""


def decode_cases() -> list[Case]:
    """What one decoded token launches, in the order of a layer, then the head."""
    cases = []
    for bits, stored in (("bfloat16", (16, 0)), ("8 bits", (8, 64)), ("6 bits", (6, 64)), ("4 bits", (4, 64))):
        shape = f"5120 x {HIDDEN}, {bits}"
        cases.append(Case("norm_qkv_rope", shape, _WEIGHTS, partial(_qkv, stored)))
    cases.append(Case("ring_attention", "64 heads on 8, 128 keys", ("ring",), _ring, "sdpa_vector 128"))
    for keys in (512, 8192):
        shape = f"64 heads on 8, {keys:,} keys"
        once = ("rows", "body", "recent")
        cases.append(Case("full_attention", shape, once, partial(_full, keys), f"sdpa_vector {keys}"))
    for bits, stored in (("bfloat16", (16, 0)), ("8 bits", (8, 64)), ("6 bits", (6, 64)), ("4 bits", (4, 64))):
        shape = f"{HIDDEN} x 4096, {bits}"
        cases.append(Case("linear_residual", shape, _WEIGHTS, partial(_output, stored)))
    for experts in (32, 128):
        cases.append(Case("norm_router", f"{experts} x {HIDDEN}, bfloat16", _WEIGHTS, partial(_router, experts)))
    for experts in (32, 128):
        shape = f"4 of {experts}, 5760 x {HIDDEN}"
        cases.append(Case("expert_gate_up", shape, _CODES, partial(_gate_up, experts), "fp_gather_qmv 5760"))
    for experts in (32, 128):
        shape = f"4 of {experts}, {HIDDEN} x {HIDDEN}"
        cases.append(Case("expert_down", shape, _CODES, partial(_down, experts), "fp_gather_qmv 2880"))
    for bits, stored in (("bfloat16", (16, 0)), ("8 bits", (8, 64))):
        shape = f"{VOCAB} x {HIDDEN}, {bits}"
        cases.append(Case("norm_lm_head", shape, _WEIGHTS, partial(_lm_head, stored, greedy=False)))
    cases.append(
        Case("norm_lm_head, arg-max", f"{VOCAB} x {HIDDEN}, bfloat16", _WEIGHTS, partial(_lm_head, (16, 0), True))
    )
    return cases


def prefill_cases() -> list[Case]:
    """What a prompt launches that MLX's matmuls do not do."""
    cases = []
    for tokens, stock in ((2, "fp_gather_qmv, 2 tokens"), (32, None)):
        shape = f"{tokens} tokens, 4 of 32, gate_up and down"
        cases.append(Case("grouped_experts", shape, _CODES, partial(_grouped, tokens), stock))
    for tokens in (256,):
        cases.append(Case("banded attention", f"{tokens} tokens, window 128", ("kv",), partial(_tile, tokens, WINDOW)))
        cases.append(Case("causal attention", f"{tokens} tokens", ("kv",), partial(_tile, tokens, None)))
    cases.append(Case("causal attention", "4 tokens after 2,044", ("kv",), partial(_tile, 4, None, 2048)))
    return cases


_WEIGHTS: Final = ("weight", "scales", "offsets")
_CODES: Final = ("blocks", "scales")


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _token(width: int = HIDDEN, tokens: int = 1) -> mx.array:
    return random_array(_rng(), 1, tokens, width)


def _qkv(stored: tuple[int, int]) -> None:
    rotation = Rotation(mx.ones((1, 32)), mx.zeros((1, 32)))
    qkv = random_projection(_rng(), 5120, HIDDEN, stored)
    mx.eval(*norm_qkv_rope.launch(_token(), random_norm(_rng(), HIDDEN), qkv, HEADS, rotation))


def _output(stored: tuple[int, int]) -> None:
    mx.eval(linear_residual.launch(_token(4096), random_projection(_rng(), HIDDEN, 4096, stored), _token()))


def _router(experts: int) -> None:
    router = random_projection(_rng(), experts, HIDDEN)
    mx.eval(*norm_router.launch(_token(), random_norm(_rng(), HIDDEN), router))


def _lm_head(stored: tuple[int, int], greedy: bool) -> None:
    lm_head = _vocabulary(stored)
    launch = norm_lm_head.launch_argmax if greedy else norm_lm_head.launch
    mx.eval(launch(_token(), random_norm(_rng(), HIDDEN), lm_head))


@cache
def _vocabulary(stored: tuple[int, int]):
    return random_projection(_rng(), VOCAB, HIDDEN, stored, biased=False)


def _ring() -> None:
    q, rows = random_array(_rng(), 1, 64, 1, 64), random_array(_rng(), 1, 16, 1, 64)
    ring = random_array(_rng(), 1, 16, WINDOW, 64)
    mx.eval(*ring_attention.launch(q, rows, ring, mx.array(1000, dtype=mx.int32), random_array(_rng(), 64), HEADS))


def _full(keys: int) -> None:
    # The recent rows, of which the token's own are the last, are full.
    flushed = keys - RECENT_TOKENS
    q, rows, body, recent = (
        random_array(_rng(), 1, heads, slots, 64)
        for heads, slots in ((64, 1), (16, 1), (16, flushed), (16, RECENT_TOKENS))
    )
    numbers = mx.array(keys - 1, dtype=mx.int32), mx.array(flushed, dtype=mx.int32)
    sinks = random_array(_rng(), 64)
    mx.eval(*full_attention.launch(q, rows, body, recent, *numbers, sinks, HEADS, most_keys=keys))


def _tile(tokens: int, window: int | None, length: int | None = None) -> None:
    length = tokens if length is None else length
    q, kv = random_array(_rng(), 1, 64, tokens, 64), random_array(_rng(), 1, 16, length, 64)
    sinks = random_array(_rng(), 64)
    known = mx.array(length, dtype=mx.int32)
    mx.eval(tile_attention.launch(q, kv, known, window, sinks, HEADS, most_keys=length))


def _logits(experts: int, tokens: int = 1) -> mx.array:
    return random_array(_rng(), 1, tokens, experts, dtype=mx.float32)


def _gate_up(experts: int) -> None:
    gate_up = random_experts(_rng(), experts, 2 * HIDDEN, HIDDEN)
    mx.eval(expert_gate_up.launch(_token(), _logits(experts), gate_up, CHOICES, LIMIT, ALPHA))


def _down(experts: int) -> None:
    inner, down = random_array(_rng(), CHOICES, HIDDEN), random_experts(_rng(), experts, HIDDEN, HIDDEN)
    mx.eval(expert_down.launch(inner, _logits(experts), down, _token(), CHOICES))


def _grouped(tokens: int) -> None:
    gate_up, down = random_experts(_rng(), 32, 2 * HIDDEN, HIDDEN), random_experts(_rng(), 32, HIDDEN, HIDDEN)
    x = random_array(_rng(), tokens, HIDDEN)
    mx.eval(
        grouped_experts.launch(
            x, _logits(32, tokens)[0], x, gate_up, down, experts_per_token=CHOICES, limit=LIMIT, alpha=ALPHA
        )
    )
