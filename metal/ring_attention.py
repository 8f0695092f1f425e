"""Launches `ring_attention`: one token's attention over a sliding layer's ring, and the ring with its rows written."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal.attention_launch import HEAD_DIM, arrays_fit
from gptoss_mlx.metal.library import Kernel
from gptoss_mlx.operands import Heads

_KERNEL: Final = Kernel(
    "ring_attention",
    inputs=("q", "rows", "ring", "position", "sinks"),
    outputs=("attended", "new_ring"),
    body="""
    threadgroup float2 sums[8 * 8 * 32];
    threadgroup float2 states[8 * 8];
    ring_attention<T, G, WINDOW>(
        q, rows, ring, position, sinks, attended, new_ring, sums, states,
        threadgroup_position_in_grid, threadgroups_per_grid, simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
    """,
)


def fits(q: mx.array, rows: mx.array, ring: mx.array, heads: Heads) -> bool:
    """Whether the kernel takes these, in the shapes of `launch`."""
    return arrays_fit(q, ring, heads) and arrays_fit(q, rows, heads) and q.shape[2] == rows.shape[2] == 1


def launch(
    q: mx.array, rows: mx.array, ring: mx.array, position: mx.array, sinks: mx.array, heads: Heads
) -> tuple[mx.array, mx.array]:
    """One token's attention over the ring, `[batch, 1, query_heads * 64]`, and the ring with its rows written.

    `q` is `[batch, query_heads, 1, 64]`, `rows` `[batch, 2 * kv_heads, 1, 64]` and `ring`
    `[batch, 2 * kv_heads, window, 64]`, all of one dtype; `position` is int32 without dimensions; `sinks`
    `[query_heads]` are of any floating dtype.
    """
    if not fits(q, rows, ring, heads):
        raise ValueError(f"ring_attention does not take {q.shape}, {rows.shape} and {ring.shape} with {heads}")
    batch, _, window, _ = ring.shape
    attended, new_ring = _KERNEL(
        q,
        rows,
        ring,
        position,
        sinks,
        template={"T": q.dtype, "G": heads.query // heads.kv, "WINDOW": window},
        grid=(256 * heads.kv, batch, 1),
        threadgroup=(256, 1, 1),
        shapes=[(batch, 1, heads.query * HEAD_DIM), ring.shape],
        dtypes=[q.dtype, q.dtype],
    )
    return attended, new_ring
