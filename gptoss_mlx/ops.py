"""The accelerated operations of one forward pass: what each computes, its reference in plain MLX, and the one seam.

A decoder layer is seven operations, cut where a fused kernel would be cut:

    x ── norm_qkv_rope ── (cache write) ── attention ── linear_residual ──┐
    ┌── norm_router ── expert_gate_up ── expert_down ────────────────────┘      … and norm_lm_head at the very end

Whoever runs the model asks `current_ops()` for the implementation: the reference here, Metal kernels where they are
right and faster, or what a test put there with `use_ops`.

Owns: the interface, the small bundles of arrays that it takes, the reference. Does not own: the order of a layer
(`attention`, `moe`, `model`), nor what is kept between steps (`cache`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from gptoss_mlx.device import this_device

SCORES_PER_TILE: Final = 1 << 26
"""Attention scores that are held at once where MLX has no fused attention: 256 MiB of float32."""

SORT_FROM_PAIRS: Final = 64
"""From this many (token, expert) pairs on, they are sorted by expert, so that one expert's weights are read once."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A dense projection: `x @ weight.T + bias`."""

    weight: mx.array
    """`[out, in]`."""
    bias: mx.array | None = None
    """`[out]`, or None."""


@dataclass(frozen=True, slots=True)
class ExpertLinear:
    """One projection of every expert, in MXFP4."""

    blocks: mx.array
    """uint32 `[experts, out, in / 8]`: eight E2M1 codes a word, the first in the lowest four bits."""
    scales: mx.array
    """uint8 `[experts, out, in / 32]`: E8M0."""
    bias: mx.array
    """`[experts, out]`."""


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMSNorm: `x / sqrt(mean(x^2) + eps) * weight`."""

    weight: mx.array
    """`[hidden]`."""
    eps: float


class Heads(NamedTuple):
    """How attention is divided."""

    query: int
    """Query heads."""
    kv: int
    """Key/value heads; query head h uses key/value head h // (query // kv)."""
    dim: int
    """Width of one head."""

    @property
    def scale(self) -> float:
        """What scores are multiplied by: 1 / sqrt(dim)."""
        return float(self.dim**-0.5)


class Rotation(NamedTuple):
    """The rotary turn of each pair (d, d + dim/2) at each position of the call."""

    cos: mx.array
    """float32 `[seq, dim / 2]`."""
    sin: mx.array
    """float32 `[seq, dim / 2]`."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts each token visits, and the order in which the (token, expert) pairs are worked off."""

    experts: mx.array
    """uint32 `[batch, seq, experts_per_token]`, the strongest first."""
    weights: mx.array
    """float32 `[batch, seq, experts_per_token]`; each token's sum to 1."""
    order: mx.array | None
    """uint32 `[pairs]`: pairs (token * experts_per_token + choice) sorted by expert; None for their natural order."""

    @property
    def pair_experts(self) -> mx.array:
        """The expert of each pair, uint32 `[pairs]`, in the order of work."""
        flat = self.experts.reshape(-1)
        return flat if self.order is None else flat[self.order]


def make_routing(experts: mx.array, weights: mx.array) -> Routing:
    """The routing for `experts` and `weights`, `[batch, seq, experts_per_token]`, its pairs sorted when that pays."""
    order = mx.argsort(experts.reshape(-1)) if experts.size >= SORT_FROM_PAIRS else None
    return Routing(experts, weights, order)


class Ops(Protocol):
    """One implementation of every accelerated operation. All are pure: no argument is changed."""

    def norm_qkv_rope(
        self, x: mx.array, norm: Norm, qkv: Linear, heads: Heads, rotation: Rotation
    ) -> tuple[mx.array, mx.array]:
        """Queries `[batch, query_heads, seq, dim]`, and the rows for the KV cache `[batch, 2 * kv_heads, seq, dim]`.

        `x` is `[batch, seq, hidden]`; `qkv` stacks the outputs of q, k and v. Queries and keys are rotated. A row's
        first `kv_heads` heads are keys, the rest values, so that one write serves both.
        """
        ...

    def write_rows(self, buffer: mx.array, rows: mx.array, start: int) -> mx.array:
        """`buffer` `[batch, heads, capacity, dim]` with `rows` `[batch, heads, seq, dim]` from position `start` on.

        Runs in place when nobody else holds `buffer`.
        """
        ...

    def full_attention(self, q: mx.array, kv: mx.array, length: int, sinks: mx.array, heads: Heads) -> mx.array:
        """Causal attention of the last `seq` of `length` positions to all of them, `[batch, seq, query_heads * dim]`.

        `q` is `[batch, query_heads, seq, dim]`; `kv` is the whole buffer `[batch, 2 * kv_heads, capacity, dim]`, of
        which the first `length` positions count. `sinks` `[query_heads]` are logits that join the softmax's
        denominator only.
        """
        ...

    def banded_attention(self, q: mx.array, kv: mx.array, window: int, sinks: mx.array, heads: Heads) -> mx.array:
        """Attention of `seq` queries to `window` positions each, their own included: `[batch, seq, query_heads * dim]`.

        `kv` is `[batch, 2 * kv_heads, history + seq, dim]` in order of position; its last `seq` rows are the queries'
        own.
        """
        ...

    def ring_attention(
        self, q: mx.array, rows: mx.array, ring: mx.array, position: int, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        """One token's attention over the ring, `[batch, 1, query_heads * dim]`, and the ring with its rows written.

        `ring` is `[batch, 2 * kv_heads, window, dim]`; position p lies in slot p % window, and `rows`
        `[batch, 2 * kv_heads, 1, dim]` belong to `position`.
        """
        ...

    def linear_residual(self, x: mx.array, linear: Linear, residual: mx.array) -> mx.array:
        """`residual + linear(x)`, `[batch, seq, hidden]`."""
        ...

    def norm_router(
        self, x: mx.array, norm: Norm, router: Linear, experts_per_token: int
    ) -> tuple[mx.array, mx.array, mx.array]:
        """The normed `x`, each token's strongest experts (uint32) and their softmax weights (float32).

        Experts and weights are `[batch, seq, experts_per_token]`, the strongest first; of equal logits the lower
        expert.
        """
        ...

    def expert_gate_up(
        self, x: mx.array, routing: Routing, gate_up: ExpertLinear, limit: float, alpha: float
    ) -> mx.array:
        """Each pair's activation inside its expert, `[pairs, intermediate]`, in the routing's order of work.

        `gate_up` has gate in its even rows and up in its odd ones; gate is clamped to at most `limit`, up to
        [-limit, limit], and the result is `gate * sigmoid(alpha * gate) * (up + 1)`.
        """
        ...

    def expert_down(self, inner: mx.array, routing: Routing, down: ExpertLinear, residual: mx.array) -> mx.array:
        """`residual` plus the weighted sum of each token's experts' outputs, `[batch, seq, hidden]`."""
        ...

    def norm_lm_head(self, x: mx.array, norm: Norm, lm_head: Linear) -> mx.array:
        """Logits, float32 `[batch, seq, vocab]`."""
        ...


class ReferenceOps:
    """Every operation in plain MLX: right everywhere, and what every kernel is measured against.

    Activations keep the dtype of `x`; softmax, RMSNorm, rotary turns and the experts' weighted sum are float32 inside.
    """

    def __init__(self, *, on_gpu: bool | None = None) -> None:
        self._on_gpu = this_device().gpu if on_gpu is None else on_gpu

    def norm_qkv_rope(
        self, x: mx.array, norm: Norm, qkv: Linear, heads: Heads, rotation: Rotation
    ) -> tuple[mx.array, mx.array]:
        batch, seq, _ = x.shape
        projected = _linear(_norm(x, norm), qkv).reshape(batch, seq, heads.query + 2 * heads.kv, heads.dim)
        projected = projected.transpose(0, 2, 1, 3)
        rotated = _rotate(projected[:, : heads.query + heads.kv], rotation)
        values = projected[:, heads.query + heads.kv :]
        return rotated[:, : heads.query], mx.concatenate([rotated[:, heads.query :], values], axis=1)

    def write_rows(self, buffer: mx.array, rows: mx.array, start: int) -> mx.array:
        # Assignment changes the Python object that it is applied to, so a second object takes it: the caller's stays as
        # it is, and once the caller lets go of it MLX writes in place.
        written = mx.array(buffer)
        written[..., start : start + rows.shape[2], :] = rows
        return written

    def full_attention(self, q: mx.array, kv: mx.array, length: int, sinks: mx.array, heads: Heads) -> mx.array:
        seq = q.shape[2]
        tile = seq if self._on_gpu else max(1, SCORES_PER_TILE // (q.shape[0] * heads.query * length))
        outputs = []
        for start in range(0, seq, tile):
            stop = min(start + tile, seq)
            keys, values = _keys_and_values(kv, 0, length - seq + stop, heads)
            outputs.append(_attention(q[:, :, start:stop], keys, values, sinks, heads, "causal"))
        return _join_heads(outputs)

    def banded_attention(self, q: mx.array, kv: mx.array, window: int, sinks: mx.array, heads: Heads) -> mx.array:
        seq, history = q.shape[2], kv.shape[2] - q.shape[2]
        outputs = []
        # Tiles as long as the window: a tile scores at most twice the keys it needs, whatever the chunk's length.
        for start in range(0, seq, window):
            stop = min(start + window, seq)
            first = max(0, history + start - window + 1)
            keys, values = _keys_and_values(kv, first, history + stop, heads)
            mask = _band_mask(stop - start, history + stop - first, window)
            outputs.append(_attention(q[:, :, start:stop], keys, values, sinks, heads, mask))
        return _join_heads(outputs)

    def ring_attention(
        self, q: mx.array, rows: mx.array, ring: mx.array, position: int, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        window = ring.shape[2]
        ring = self.write_rows(ring, rows, position % window)
        # Softmax does not mind the order of keys, so the ring is read as it lies.
        keys, values = _keys_and_values(ring, 0, min(position + 1, window), heads)
        return _join_heads([_attention(q, keys, values, sinks, heads, None)]), ring

    def linear_residual(self, x: mx.array, linear: Linear, residual: mx.array) -> mx.array:
        return residual + _linear(x, linear)

    def norm_router(
        self, x: mx.array, norm: Norm, router: Linear, experts_per_token: int
    ) -> tuple[mx.array, mx.array, mx.array]:
        normed = _norm(x, norm)
        logits = _linear(normed, router).astype(mx.float32)
        # A stable sort of the negated logits: of equal ones the lower expert comes first.
        experts = mx.argsort(-logits, axis=-1)[..., :experts_per_token]
        weights = mx.softmax(mx.take_along_axis(logits, experts, axis=-1), axis=-1)
        return normed, experts, weights

    def expert_gate_up(
        self, x: mx.array, routing: Routing, gate_up: ExpertLinear, limit: float, alpha: float
    ) -> mx.array:
        choices = routing.experts.shape[-1]
        tokens = x.reshape(-1, x.shape[-1])
        pairs = mx.repeat(tokens, choices, axis=0) if routing.order is None else tokens[routing.order // choices]
        both = self._expert_linear(pairs, routing, gate_up)
        gate = mx.minimum(both[..., 0::2], limit)
        up = mx.clip(both[..., 1::2], -limit, limit)
        return gate * mx.sigmoid(alpha * gate) * (up + 1)

    def expert_down(self, inner: mx.array, routing: Routing, down: ExpertLinear, residual: mx.array) -> mx.array:
        outputs = self._expert_linear(inner, routing, down)
        if routing.order is not None:
            outputs = outputs[mx.argsort(routing.order)]
        outputs = outputs.reshape(*routing.experts.shape, -1)
        return residual + (outputs * routing.weights[..., None]).sum(axis=-2).astype(residual.dtype)

    def norm_lm_head(self, x: mx.array, norm: Norm, lm_head: Linear) -> mx.array:
        return _linear(_norm(x, norm), lm_head).astype(mx.float32)

    def _expert_linear(self, pairs: mx.array, routing: Routing, linear: ExpertLinear) -> mx.array:
        """Each pair through its expert: `[pairs, in]` to `[pairs, out]`."""
        experts = routing.pair_experts
        if not self._on_gpu:
            # MLX's CPU kernel for MXFP4 is 15 times slower with bfloat16 activations than with float32.
            pairs = pairs.astype(mx.float32)
        product = mx.gather_qmm(
            pairs[:, None],
            linear.blocks,
            linear.scales,
            rhs_indices=experts,
            transpose=True,
            group_size=32,
            bits=4,
            mode="mxfp4",
            sorted_indices=routing.order is not None,
        )
        return product[:, 0] + linear.bias[experts]


def _linear(x: mx.array, linear: Linear) -> mx.array:
    if linear.bias is None:
        return x @ linear.weight.T
    return mx.addmm(linear.bias, x, linear.weight.T)


def _norm(x: mx.array, norm: Norm) -> mx.array:
    return mx.fast.rms_norm(x, norm.weight, norm.eps)


def _rotate(x: mx.array, rotation: Rotation) -> mx.array:
    """`x` `[batch, heads, seq, dim]` with each pair (d, d + dim/2) rotated, in x's dtype."""
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    rotated = [first * rotation.cos - second * rotation.sin, second * rotation.cos + first * rotation.sin]
    return mx.concatenate(rotated, axis=-1).astype(x.dtype)


def _keys_and_values(kv: mx.array, start: int, stop: int, heads: Heads) -> tuple[mx.array, mx.array]:
    """Keys and values, `[batch, kv_heads, stop - start, dim]` each, as views of the buffer `kv`."""
    return kv[:, : heads.kv, start:stop], kv[:, heads.kv :, start:stop]


def _attention(
    q: mx.array, keys: mx.array, values: mx.array, sinks: mx.array, heads: Heads, mask: str | mx.array | None
) -> mx.array:
    return mx.fast.scaled_dot_product_attention(
        q, keys, values, scale=heads.scale, mask=mask, sinks=sinks.astype(q.dtype)
    )


def _join_heads(tiles: list[mx.array]) -> mx.array:
    """Tiles `[batch, heads, rows, dim]` of consecutive rows as one `[batch, seq, heads * dim]`."""
    joined = tiles[0] if len(tiles) == 1 else mx.concatenate(tiles, axis=2)
    batch, heads, seq, dim = joined.shape
    return joined.transpose(0, 2, 1, 3).reshape(batch, seq, heads * dim)


@lru_cache(maxsize=64)
def _band_mask(rows: int, keys: int, window: int) -> mx.array:
    """Which of the last `rows` of `keys` positions see which keys: bool `[rows, keys]`."""
    query = np.arange(keys - rows, keys)[:, None]
    key = np.arange(keys)[None, :]
    # From numpy, so that the array is ready at once and belongs to no stream: streams are bound to their thread.
    return mx.array(np.logical_and(key <= query, key > query - window))


_override: Ops | None = None
_default: Ops | None = None


def current_ops() -> Ops:
    """The implementation that the next forward pass uses."""
    global _default
    if _override is not None:
        return _override
    if _default is None:
        _default = ReferenceOps()
    return _default


@contextmanager
def use_ops(ops: Ops) -> Iterator[Ops]:
    """Makes `ops` what every thread of this process computes with, until the block ends. For tests and measurements."""
    global _override
    previous, _override = _override, ops
    try:
        yield ops
    finally:
        _override = previous
