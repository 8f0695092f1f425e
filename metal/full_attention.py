"""Launches `full_attention`: one token's attention to every position of a full layer, and the recent rows with its own.

Split at long context.
"""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import merge_attention
from gptoss_mlx.metal.attention_launch import HEAD_DIM, PARTIAL_FLOATS, arrays_fit, splits_for
from gptoss_mlx.metal.library import Kernel
from gptoss_mlx.operands import Heads

_KERNEL: Final = Kernel(
    "full_attention",
    inputs=("q", "rows", "body", "recent", "position", "flushed", "sinks"),
    outputs=("result", "new_recent"),
    body="""
    threadgroup float2 sums[8 * 8 * 32];
    threadgroup float2 states[8 * 8];
    full_attention<T, G, RECENT, SPLIT>(
        q, rows, body, recent, body_shape[2], position, flushed, sinks, result, new_recent, sums, states,
        threadgroup_position_in_grid, threadgroups_per_grid, simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
    """,
)


def fits(q: mx.array, rows: mx.array, body: mx.array, recent: mx.array, heads: Heads) -> bool:
    """Whether the kernel takes these, in the shapes of `launch`."""
    return (
        arrays_fit(q, body, heads)
        and arrays_fit(q, recent, heads)
        and arrays_fit(q, rows, heads)
        and q.shape[2] == rows.shape[2] == 1
    )


def launch(
    q: mx.array,
    rows: mx.array,
    body: mx.array,
    recent: mx.array,
    position: mx.array,
    flushed: mx.array,
    sinks: mx.array,
    heads: Heads,
    *,
    most_keys: int,
    splits: int | None = None,
) -> tuple[mx.array, mx.array]:
    """Attention of the token at `position` to all up to its own, `[batch, 1, query_heads * 64]`, and the new `recent`.

    `q` is `[batch, query_heads, 1, 64]` and `rows`, the token's own, `[batch, 2 * kv_heads, 1, 64]`; `body` holds the
    first `flushed` positions, `[batch, 2 * kv_heads, capacity, 64]`, and `recent` those from there on, each in slot
    position - flushed, `[batch, 2 * kv_heads, slots, 64]`; all of one dtype. What comes back has `rows` in their slot.
    `position` and `flushed` are int32 without dimensions; `sinks` `[query_heads]` are of any floating dtype.

    `most_keys` is a bound of `position` + 1 that is known here: it decides into how many `splits` the keys go, unless
    those are given. More than one makes a second dispatch.
    """
    if not fits(q, rows, body, recent, heads):
        raise ValueError(
            f"full_attention does not take {q.shape}, {rows.shape}, {body.shape} and {recent.shape} with {heads}"
        )
    batch = body.shape[0]
    splits = splits or splits_for(most_keys, heads.kv * batch)
    split = splits > 1
    shape = (batch, 1, heads.query, splits, PARTIAL_FLOATS) if split else (batch, 1, heads.query * HEAD_DIM)
    result, new_recent = _KERNEL(
        q,
        rows,
        body,
        recent,
        position,
        flushed,
        sinks,
        template={"T": q.dtype, "G": heads.query // heads.kv, "RECENT": recent.shape[2], "SPLIT": split},
        grid=(256 * heads.kv, splits, batch),
        threadgroup=(256, 1, 1),
        shapes=[shape, recent.shape],
        dtypes=[mx.float32 if split else q.dtype, q.dtype],
    )
    return (merge_attention.launch(result, sinks, q.dtype) if split else result), new_recent
