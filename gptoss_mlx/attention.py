"""The attention half of a decoder layer: which operations, in which order, with which cache.

Owns: the choice between full, banded and ring attention. Does not own: how each is computed (`ops`), what is kept
(`cache`).
"""

from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.cache import FullLayerCache, SlidingLayerCache
from gptoss_mlx.ops import Heads, Norm, Place, Projection, current_ops


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
        q, rows = self.queries(x, place)
        return self.finish(self.attend(q, rows, cache, place), x)

    def queries(self, x: mx.array, place: Place) -> tuple[mx.array, mx.array]:
        """Queries `[batch, query_heads, seq, dim]`, and the rows for the cache `[batch, 2 * kv_heads, seq, dim]`."""
        return current_ops().norm_qkv_rope(x, self.norm, self.qkv, self.heads, place.rotation)

    def attend(self, q: mx.array, rows: mx.array, cache: FullLayerCache | SlidingLayerCache, place: Place) -> mx.array:
        """What the queries attend to, `[batch, seq, query_heads * dim]`; `cache` takes `rows`."""
        if isinstance(cache, FullLayerCache):
            return self.attend_all(q, cache.append(rows), place)
        if q.shape[2] > 1:
            return current_ops().banded_attention(q, cache.extend(rows), cache.window, self.sinks, self.heads)
        attended, ring = self.attend_ring(q, rows, cache.ring_for(rows), place)
        cache.put_ring(ring)
        return attended

    def attend_all(self, q: mx.array, kv: mx.array, place: Place) -> mx.array:
        """Attention to all positions, those of the call included, in the buffer `kv`."""
        return current_ops().full_attention(q, kv, place.length, self.sinks, self.heads)

    def attend_ring(self, q: mx.array, rows: mx.array, ring: mx.array, place: Place) -> tuple[mx.array, mx.array]:
        """One token's attention to the ring with its `rows`, and that ring."""
        return current_ops().ring_attention(q, rows, ring, place.position, self.sinks, self.heads)

    def finish(self, attended: mx.array, x: mx.array) -> mx.array:
        """`x` plus what was attended to."""
        return current_ops().linear_residual(attended, self.output, x)
