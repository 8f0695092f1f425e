"""One small launch of every kernel of the package, each large enough for all of its threads to meet."""

from collections.abc import Callable, Mapping
from typing import Final

import mlx.core as mx
import numpy as np

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

WIDTH: Final = 192
"""Of the residual stream and of an expert, as in the pocket model."""

HEADS: Final = Heads(query=16, kv=2, dim=64)
EXPERTS, CHOICES, LIMIT, ALPHA = 8, 4, 7.0, 1.702


def _rng() -> np.random.Generator:
    return np.random.default_rng(3)


def _number(value: int) -> mx.array:
    return mx.array(value, dtype=mx.int32)


def _norm_qkv_rope() -> list[mx.array]:
    qkv = random_projection(_rng(), (HEADS.query + 2 * HEADS.kv) * 64, WIDTH)
    rotation = Rotation(random_array(_rng(), 1, 32, dtype=mx.float32), random_array(_rng(), 1, 32, dtype=mx.float32))
    x, norm = random_array(_rng(), 1, 1, WIDTH), random_norm(_rng(), WIDTH)
    return list(norm_qkv_rope.launch(x, norm, qkv, HEADS, rotation))


def _linear_residual() -> list[mx.array]:
    linear = random_projection(_rng(), WIDTH, 256)
    return [linear_residual.launch(random_array(_rng(), 1, 1, 256), linear, random_array(_rng(), 1, 1, WIDTH))]


def _norm_router() -> list[mx.array]:
    router = random_projection(_rng(), EXPERTS, WIDTH)
    return list(norm_router.launch(random_array(_rng(), 1, 1, WIDTH), random_norm(_rng(), WIDTH), router))


def _lm_head() -> list[mx.array]:
    lm_head = random_projection(_rng(), 301, WIDTH, biased=False)
    return [norm_lm_head.launch(random_array(_rng(), 1, 1, WIDTH), random_norm(_rng(), WIDTH), lm_head)]


def _argmax() -> list[mx.array]:
    lm_head = random_projection(_rng(), 601, WIDTH, biased=False)
    return [norm_lm_head.launch_argmax(random_array(_rng(), 1, 1, WIDTH), random_norm(_rng(), WIDTH), lm_head)]


def _ring_attention() -> list[mx.array]:
    q, rows, ring = (random_array(_rng(), 1, heads, keys, 64) for heads, keys in ((16, 1), (4, 1), (4, 128)))
    return list(ring_attention.launch(q, rows, ring, _number(300), random_array(_rng(), 16), HEADS))


def _full_attention(splits: int) -> list[mx.array]:
    q, rows, body, recent = (
        random_array(_rng(), 1, heads, keys, 64) for heads, keys in ((16, 1), (4, 1), (4, 256), (4, 128))
    )
    position, flushed, sinks = _number(301), _number(250), random_array(_rng(), 16)
    return list(
        full_attention.launch(q, rows, body, recent, position, flushed, sinks, HEADS, most_keys=320, splits=splits)
    )


def _tile_attention() -> list[mx.array]:
    q, kv = random_array(_rng(), 1, 16, 19, 64), random_array(_rng(), 1, 4, 96, 64)
    return [tile_attention.launch(q, kv, _number(90), None, random_array(_rng(), 16), HEADS, most_keys=96)]


def _expert_gate_up() -> list[mx.array]:
    gate_up = random_experts(_rng(), EXPERTS, 2 * WIDTH, WIDTH)
    x, logits = random_array(_rng(), 1, 1, WIDTH), random_array(_rng(), 1, 1, EXPERTS, dtype=mx.float32)
    return [expert_gate_up.launch(x, logits, gate_up, CHOICES, LIMIT, ALPHA)]


def _expert_down() -> list[mx.array]:
    down = random_experts(_rng(), EXPERTS, WIDTH, WIDTH)
    inner, residual = random_array(_rng(), CHOICES, WIDTH), random_array(_rng(), 1, 1, WIDTH)
    logits = random_array(_rng(), 1, 1, EXPERTS, dtype=mx.float32)
    return [expert_down.launch(inner, logits, down, residual, CHOICES)]


def _grouped() -> list[mx.array]:
    gate_up = random_experts(_rng(), EXPERTS, 2 * WIDTH, WIDTH)
    down = random_experts(_rng(), EXPERTS, WIDTH, WIDTH)
    x, logits = random_array(_rng(), 37, WIDTH), random_array(_rng(), 37, EXPERTS, dtype=mx.float32)
    return [grouped_experts.launch(x, logits, x, gate_up, down, experts_per_token=CHOICES, limit=LIMIT, alpha=ALPHA)]


SMALL_LAUNCHES: Final[Mapping[str, Callable[[], list[mx.array]]]] = {
    "combine_experts": _grouped,
    "expert_down": _expert_down,
    "expert_gate_up": _expert_gate_up,
    "full_attention": lambda: _full_attention(1),
    "grouped_down": _grouped,
    "grouped_gate_up": _grouped,
    "linear_residual": _linear_residual,
    "merge_argmax": _argmax,
    "merge_attention": lambda: _full_attention(3),
    "norm_argmax": _argmax,
    "norm_lm_head": _lm_head,
    "norm_qkv_rope": _norm_qkv_rope,
    "norm_router": _norm_router,
    "pick_experts": _grouped,
    "ring_attention": _ring_attention,
    "route_pairs": _grouped,
    "tile_attention": _tile_attention,
}
"""By the name of the kernel's files: a launch, which may launch others before it, and its results."""
