"""The attention half of a decoder layer: which operations, in which order, with which cache.

Owns: the choice between full, banded and ring attention. Does not own: how each is computed (`ops`), what is kept
(`cache`).
"""

from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.cache import FullLayerCache, SlidingLayerCache
from gptoss_mlx.ops import Heads, Norm, Projection, Rotation, current_ops


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

    def __call__(self, x: mx.array, cache: FullLayerCache | SlidingLayerCache, rotation: Rotation) -> mx.array:
        """`x` `[batch, seq, hidden]` plus its attention; `cache` takes the new positions."""
        ops = current_ops()
        q, rows = ops.norm_qkv_rope(x, self.norm, self.qkv, self.heads, rotation)
        if isinstance(cache, FullLayerCache):
            kv = cache.append(rows)
            attended = ops.full_attention(q, kv, cache.offset, self.sinks, self.heads)
        elif x.shape[1] == 1:
            attended, ring = ops.ring_attention(q, rows, cache.ring_for(rows), cache.offset, self.sinks, self.heads)
            cache.put_ring(ring)
        else:
            attended = ops.banded_attention(q, cache.extend(rows), cache.window, self.sinks, self.heads)
        return ops.linear_residual(attended, self.output, x)
