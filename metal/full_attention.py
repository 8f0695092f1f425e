"""Launches `full_attention`: one token's attention to every position of a full layer, split at long context."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import merge_attention
from gptoss_mlx.metal.attention_launch import HEAD_DIM, PARTIAL_FLOATS, arrays_fit, splits_for
from gptoss_mlx.metal.library import Kernel
from gptoss_mlx.operands import Heads

_KERNEL: Final = Kernel(
    "full_attention",
    inputs=("q", "kv", "length", "sinks"),
    outputs=("result",),
    body="""
    threadgroup float2 sums[8 * 8 * 32];
    threadgroup float2 states[8 * 8];
    full_attention<T, G, SPLIT>(
        q, kv, kv_shape[2], length, sinks, result, sums, states,
        threadgroup_position_in_grid, threadgroups_per_grid, simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
    """,
)


def fits(q: mx.array, kv: mx.array, heads: Heads) -> bool:
    """Whether the kernel takes these, in the shapes of `launch`."""
    return arrays_fit(q, kv, heads) and q.shape[2] == 1


def launch(
    q: mx.array,
    kv: mx.array,
    length: mx.array,
    sinks: mx.array,
    heads: Heads,
    *,
    most_keys: int,
    splits: int | None = None,
) -> mx.array:
    """Attention of one token to the first `length` positions of `kv`, `[batch, 1, query_heads * 64]`.

    `q` is `[batch, query_heads, 1, 64]` and `kv` the whole buffer, `[batch, 2 * kv_heads, capacity, 64]`, of one dtype;
    `length` is int32 without dimensions; `sinks` `[query_heads]` are of any floating dtype. `most_keys` is a bound of
    `length` that is known here, such as the capacity: it decides into how many `splits` the keys go, unless those are
    given. More than one makes a second dispatch.
    """
    if not fits(q, kv, heads):
        raise ValueError(f"full_attention does not take {q.shape} and {kv.shape} with {heads}")
    batch = kv.shape[0]
    splits = splits or splits_for(most_keys, heads.kv * batch)
    split = splits > 1
    shape = (batch, 1, heads.query, splits, PARTIAL_FLOATS) if split else (batch, 1, heads.query * HEAD_DIM)
    [result] = _KERNEL(
        q,
        kv,
        length,
        sinks,
        template={"T": q.dtype, "G": heads.query // heads.kv, "SPLIT": split},
        grid=(256 * heads.kv, splits, batch),
        threadgroup=(256, 1, 1),
        shapes=[shape],
        dtypes=[mx.float32 if split else q.dtype],
    )
    return merge_attention.launch(result, sinks, q.dtype) if split else result
