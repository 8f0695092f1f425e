"""The attention half of a decoder layer: which operations, in which order, with which cache.

Owns: the choice between full, growing, banded and ring attention. Does not own: how each is computed (`ops`), what is
kept (`cache`).
"""

from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.cache import FullLayerCache, SlidingLayerCache
from gptoss_mlx.ops import GrowingKV, Heads, Norm, Place, Position, Projection, Rotation, current_ops


@dataclass(frozen=True, slots=True)
class Attention:
    """One decoder layer's attention with its weights."""

    norm: Norm
    """`input_layernorm`."""
    qkv: Projection
    """q, k and v stacked: `[(query_heads + 2 * kv_heads) * dim, hidden]`."""
    output: Projection
    """`o_proj`: `[hidden, query_heads * dim]`."""
    sinks: mx.array
    """One logit per query head, `[query_heads]`."""
    heads: Heads

    def __call__(self, x: mx.array, cache: FullLayerCache | SlidingLayerCache, place: Place) -> mx.array:
        """`x` `[batch, seq, hidden]` plus its attention; `cache` takes the new positions."""
        q, rows = self.queries(x, place.rotation)
        return self.finish(self.attend(q, rows, cache, place), x)

    def queries(self, x: mx.array, rotation: Rotation) -> tuple[mx.array, mx.array]:
        """Queries `[batch, query_heads, seq, dim]`, and the rows for the cache `[batch, 2 * kv_heads, seq, dim]`."""
        return current_ops().norm_qkv_rope(x, self.norm, self.qkv, self.heads, rotation)

    def attend(self, q: mx.array, rows: mx.array, cache: FullLayerCache | SlidingLayerCache, place: Place) -> mx.array:
        """What the queries attend to, `[batch, seq, query_heads * dim]`; `cache` takes `rows`."""
        ops, single = current_ops(), q.shape[2] == 1
        if isinstance(cache, FullLayerCache):
            if not (single and ops.keeps_recent(self.heads, q.dtype, place.length.most)):
                return ops.full_attention(q, cache.append(rows), place.length, self.sinks, self.heads)
            attended, recent = self.attend_growing(q, rows, cache.growing(rows), place.position)
            cache.put_recent(recent)
            return attended
        if not single:
            return ops.banded_attention(q, cache.extend(rows), cache.window, self.sinks, self.heads)
        attended, ring = self.attend_ring(q, rows, cache.ring_for(rows), place.position)
        cache.put_ring(ring)
        return attended

    def attend_growing(
        self, q: mx.array, rows: mx.array, kv: GrowingKV, position: Position
    ) -> tuple[mx.array, mx.array]:
        """One token's attention to all positions with its `rows`, and the recent ones."""
        return current_ops().growing_attention(q, rows, kv, position, self.sinks, self.heads)

    def attend_ring(self, q: mx.array, rows: mx.array, ring: mx.array, position: Position) -> tuple[mx.array, mx.array]:
        """One token's attention to the ring with its `rows`, and that ring."""
        return current_ops().ring_attention(q, rows, ring, position, self.sinks, self.heads)

    def finish(self, attended: mx.array, x: mx.array) -> mx.array:
        """`x` plus what was attended to."""
        return current_ops().linear_residual(attended, self.output, x)
