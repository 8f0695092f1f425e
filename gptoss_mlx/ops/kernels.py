"""The operations on our own Metal kernels: where one is enabled and takes the arguments, it runs; else the reference.

Which of the two runs follows from the arguments alone, and `runs_kernel` tells. A kernel is enabled by the class of
the size at hand (`kernel_classes`), which `gptoss check` decides by measuring; and each launcher says which arguments
it takes (`fits`): most kernels serve a single token, attention and the grouped experts serve many. Projections of
several tokens are MLX's own, which is good at them.

Owns: that rule. Does not own: the kernels and what they take (`metal`), which are enabled (`selection`).
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import mlx.core as mx

from gptoss_mlx.device import this_device
from gptoss_mlx.metal import (
    attention_launch,
    combine_experts,
    expert_down,
    expert_gate_up,
    full_attention,
    grouped_down,
    grouped_experts,
    grouped_gate_up,
    library,
    linear_residual,
    norm_lm_head,
    norm_qkv_rope,
    norm_router,
    pick_experts,
    ring_attention,
    route_pairs,
    tile_attention,
    tile_matmul,
)
from gptoss_mlx.operands import ExpertLinear, GrowingKV, Heads, Norm, Position, Projection, Rotation
from gptoss_mlx.ops.interface import Recording, Routing
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass, kernel_class
from gptoss_mlx.ops.reference import ReferenceOps


class _Case(NamedTuple):
    """One call of an operation, as far as the choice of its implementation goes."""

    kernel: str
    """The name in `KERNEL_CLASSES`."""
    size: int
    """What classes of this kernel are cut by."""
    fits: bool
    """Whether the launcher takes the arguments."""


class KernelOps(ReferenceOps):
    """The operations on Metal kernels, those of `enabled` classes, and on the reference where these do not serve."""

    def __init__(
        self, enabled: frozenset[KernelClass] = frozenset(KERNEL_CLASSES), *, records: bool | None = None
    ) -> None:
        """`records` says whether a step may be recorded: by default where MLX itself makes the kernels, on Metal.

        A stand-in that computes at once, such as a simulator, has nothing that could be replayed.
        """
        self.enabled = enabled
        """The classes whose kernels may run."""
        self._records = records

    def runs_kernel(self, operation: str, *arguments: Any) -> bool:
        """Whether `operation`, a method's name here, runs a kernel for these `arguments` of it."""
        case = _CASES[operation](*arguments)
        return case.fits and self._enables(case.kernel, case.size)

    def recording(self, heads: Heads, dtype: mx.Dtype, window: int, most_keys: int) -> Recording | None:
        records = self._records
        if records is None:
            records = this_device().metal and library.made_by_mlx()
        if not records:
            return None
        return Recording(
            ring=attention_launch.heads_fit(heads, dtype) and self._enables("ring_attention", 1),
            full=self.keeps_recent(heads, dtype, most_keys),
        )

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        return attention_launch.heads_fit(heads, dtype) and self._enables("full_attention", most_keys)

    def norm_qkv_rope(
        self, x: mx.array, norm: Norm, qkv: Projection, heads: Heads, rotation: Rotation
    ) -> tuple[mx.array, mx.array]:
        if self.runs_kernel("norm_qkv_rope", x, norm, qkv, heads, rotation):
            return norm_qkv_rope.launch(x, norm, qkv, heads, rotation)
        return super().norm_qkv_rope(x, norm, qkv, heads, rotation)

    def full_attention(self, q: mx.array, kv: mx.array, length: Position, sinks: mx.array, heads: Heads) -> mx.array:
        if not self.runs_kernel("full_attention", q, kv, length, sinks, heads):
            return super().full_attention(q, kv, length, sinks, heads)
        return tile_attention.launch(q, kv, length.array, None, sinks, heads, most_keys=length.most)

    def growing_attention(
        self, q: mx.array, rows: mx.array, kv: GrowingKV, position: Position, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        if not self.runs_kernel("growing_attention", q, rows, kv, position, sinks, heads):
            return super().growing_attention(q, rows, kv, position, sinks, heads)
        body, recent, flushed = kv
        return full_attention.launch(
            q, rows, body, recent, position.array, flushed.array, sinks, heads, most_keys=position.most + 1
        )

    def banded_attention(self, q: mx.array, kv: mx.array, window: int, sinks: mx.array, heads: Heads) -> mx.array:
        if self.runs_kernel("banded_attention", q, kv, window, sinks, heads):
            length = Position.at(kv.shape[2])
            return tile_attention.launch(q, kv, length.array, window, sinks, heads, most_keys=length.most)
        return super().banded_attention(q, kv, window, sinks, heads)

    def ring_attention(
        self, q: mx.array, rows: mx.array, ring: mx.array, position: Position, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        if self.runs_kernel("ring_attention", q, rows, ring, position, sinks, heads):
            return ring_attention.launch(q, rows, ring, position.array, sinks, heads)
        return super().ring_attention(q, rows, ring, position, sinks, heads)

    def linear_residual(self, x: mx.array, linear: Projection, residual: mx.array) -> mx.array:
        if self.runs_kernel("linear_residual", x, linear, residual):
            return linear_residual.launch(x, linear, residual)
        return super().linear_residual(x, linear, residual)

    def norm_router(self, x: mx.array, norm: Norm, router: Projection) -> tuple[mx.array, mx.array]:
        if self.runs_kernel("norm_router", x, norm, router):
            return norm_router.launch(x, norm, router)
        return super().norm_router(x, norm, router)

    def expert_gate_up(
        self, x: mx.array, routing: Routing, gate_up: ExpertLinear, limit: float, alpha: float
    ) -> mx.array:
        if not self.runs_kernel("expert_gate_up", x, routing, gate_up, limit, alpha):
            return super().expert_gate_up(x, routing, gate_up, limit, alpha)
        if routing.tokens == 1:
            return expert_gate_up.launch(x, routing.logits, gate_up, routing.experts_per_token, limit, alpha)
        experts = routing.logits.shape[-1]
        tile_rows = grouped_experts.tile_rows(routing.tokens, experts, routing.experts_per_token)
        table = route_pairs.launch(routing.logits.reshape(-1, experts), routing.experts_per_token, tile_rows)
        routing.arrangement = table
        return grouped_gate_up.launch(x.reshape(-1, x.shape[-1]), table, gate_up, limit, alpha)

    def expert_down(self, inner: mx.array, routing: Routing, down: ExpertLinear, residual: mx.array) -> mx.array:
        table = routing.arrangement
        if table is not None:
            outputs = grouped_down.launch(inner, table, down)
            combined = combine_experts.launch(outputs, table, residual.reshape(-1, residual.shape[-1]))
            return combined.reshape(residual.shape)
        if self.runs_kernel("expert_down", inner, routing, down, residual):
            return expert_down.launch(inner, routing.logits, down, residual, routing.experts_per_token)
        return super().expert_down(inner, routing, down, residual)

    def norm_lm_head(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        if self.runs_kernel("norm_lm_head", x, norm, lm_head):
            return norm_lm_head.launch(x, norm, lm_head)
        return super().norm_lm_head(x, norm, lm_head)

    def norm_lm_head_argmax(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        if self.runs_kernel("norm_lm_head", x, norm, lm_head):
            return norm_lm_head.launch_argmax(x, norm, lm_head)
        return super().norm_lm_head_argmax(x, norm, lm_head)

    def norm_lm_head_best(self, x: mx.array, norm: Norm, lm_head: Projection) -> tuple[mx.array, mx.array]:
        if self.runs_kernel("norm_lm_head", x, norm, lm_head):
            return norm_lm_head.launch_best(x, norm, lm_head)
        return super().norm_lm_head_best(x, norm, lm_head)

    def _enables(self, kernel: str, size: int) -> bool:
        return kernel_class(kernel, size) in self.enabled


def _norm_qkv_rope(x: mx.array, norm: Norm, qkv: Projection, heads: Heads, rotation: Rotation) -> _Case:
    return _Case("norm_qkv_rope", _tokens(x), norm_qkv_rope.fits(x, norm, qkv, heads, rotation))


def _full_attention(q: mx.array, kv: mx.array, length: Position, sinks: mx.array, heads: Heads) -> _Case:
    # A single position's attention is left to the reference: while decoding, the kernel of growing_attention serves it.
    fits = q.shape[2] > 1 and tile_attention.fits(q, kv, heads)
    return _Case("causal_attention", max(2, q.shape[2]), fits)


def _growing_attention(
    q: mx.array, rows: mx.array, kv: GrowingKV, position: Position, sinks: mx.array, heads: Heads
) -> _Case:
    return _Case("full_attention", position.most + 1, full_attention.fits(q, rows, kv.body, kv.recent, heads))


def _banded_attention(q: mx.array, kv: mx.array, window: int, sinks: mx.array, heads: Heads) -> _Case:
    # A single position's band is left to the reference: while decoding, the ring's kernel serves it.
    fits = q.shape[2] > 1 and tile_attention.fits(q, kv, heads)
    return _Case("banded_attention", max(2, q.shape[2]), fits)


def _ring_attention(
    q: mx.array, rows: mx.array, ring: mx.array, position: Position, sinks: mx.array, heads: Heads
) -> _Case:
    return _Case("ring_attention", 1, ring_attention.fits(q, rows, ring, heads))


def _linear_residual(x: mx.array, linear: Projection, residual: mx.array) -> _Case:
    return _Case("linear_residual", _tokens(x), linear_residual.fits(x, linear, residual))


def _norm_router(x: mx.array, norm: Norm, router: Projection) -> _Case:
    return _Case("norm_router", _tokens(x), norm_router.fits(x, norm, router))


def _expert_gate_up(x: mx.array, routing: Routing, gate_up: ExpertLinear, limit: float, alpha: float) -> _Case:
    choices = routing.experts_per_token
    if routing.tokens == 1:
        fits = expert_gate_up.fits(x, routing.logits, gate_up, choices, limit, alpha)
        return _Case("expert_gate_up", 1, fits)
    experts, rows, words = gate_up.blocks.shape
    fits = (
        x.dtype in tile_matmul.DTYPES
        # The widths on the way in and on the way back.
        and tile_matmul.width_fits(words * 8)
        and tile_matmul.width_fits(rows // 2)
        and experts <= pick_experts.MOST_EXPERTS
        and choices <= min(experts, pick_experts.MOST_CHOICES)
    )
    return _Case("grouped_experts", routing.tokens, fits)


def _expert_down(inner: mx.array, routing: Routing, down: ExpertLinear, residual: mx.array) -> _Case:
    fits = expert_down.fits(inner, routing.logits, down, residual, routing.experts_per_token)
    return _Case("expert_down", routing.tokens, fits)


def _norm_lm_head(x: mx.array, norm: Norm, lm_head: Projection) -> _Case:
    return _Case("norm_lm_head", _tokens(x), norm_lm_head.fits(x, norm, lm_head))


def _tokens(x: mx.array) -> int:
    return x.size // x.shape[-1]


_CASES: Final[dict[str, Callable[..., _Case]]] = {
    "norm_qkv_rope": _norm_qkv_rope,
    "full_attention": _full_attention,
    "growing_attention": _growing_attention,
    "banded_attention": _banded_attention,
    "ring_attention": _ring_attention,
    "linear_residual": _linear_residual,
    "norm_router": _norm_router,
    "expert_gate_up": _expert_gate_up,
    "expert_down": _expert_down,
    "norm_lm_head": _norm_lm_head,
}
