"""Launches `tile_attention`: attention of two and more positions, causal or banded, split over the keys where few."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import merge_attention
from gptoss_mlx.metal.attention_launch import (
    HEAD_DIM,
    MOST_GROUP_HEADS,
    PARTIAL_FLOATS,
    STEP_KEYS,
    arrays_fit,
    splits_for,
)
from gptoss_mlx.metal.library import Kernel
from gptoss_mlx.operands import Heads

STAGED_KEYS: Final = 32
"""Keys and values that lie in threadgroup memory at a time; the kernel has the same constant."""

_SIMDGROUPS: Final = 8
"""Simdgroups of a threadgroup."""

_KERNEL: Final = Kernel(
    "tile_attention",
    inputs=("q", "kv", "length", "sinks"),
    outputs=("result",),
    body="""
    threadgroup uint4 keys[STAGED_KEYS * staged_words<T>()];
    threadgroup uint4 values[STAGED_KEYS * staged_words<T>()];
    tile_attention<T, G, WINDOW, SPLIT>(
        q, kv, q_shape[2], kv_shape[2], length, sinks, result, keys, values, kv_shape[1] / 2,
        threadgroup_position_in_grid, threadgroups_per_grid, simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
    """,
)


def fits(q: mx.array, kv: mx.array, heads: Heads) -> bool:
    """Whether the kernel takes these, in the shapes of `launch`."""
    return arrays_fit(q, kv, heads)


def launch(
    q: mx.array,
    kv: mx.array,
    length: mx.array,
    window: int | None,
    sinks: mx.array,
    heads: Heads,
    *,
    most_keys: int,
    splits: int | None = None,
) -> mx.array:
    """Causal attention of the last `seq` of `length` positions, `[batch, seq, query_heads * 64]`.

    With a `window` each position sees that many, its own included. `q` is `[batch, query_heads, seq, 64]` and `kv` the
    whole buffer, `[batch, 2 * kv_heads, capacity, 64]`, of one dtype; `length` is int32 without dimensions; `sinks`
    `[query_heads]` are of any floating dtype. `most_keys` is a bound of `length` that is known here, such as the
    capacity: with the number of positions it decides into how many `splits` the keys go, unless those are given. More
    than one makes a second dispatch.
    """
    if not fits(q, kv, heads):
        raise ValueError(f"tile_attention does not take {q.shape} and {kv.shape} with {heads}")
    batch, _, seq, _ = q.shape
    tiles = -(-seq // tile_positions(heads))
    if splits is None:
        seen = most_keys if window is None else min(most_keys, window + tile_positions(heads) - 1)
        splits = splits_for(seen, tiles * heads.kv * batch)
    split = splits > 1
    shape = (batch, seq, heads.query, splits, PARTIAL_FLOATS) if split else (batch, seq, heads.query * HEAD_DIM)
    [result] = _KERNEL(
        q,
        kv,
        length,
        sinks,
        template={"T": q.dtype, "G": heads.query // heads.kv, "WINDOW": window or 0, "SPLIT": split},
        grid=(256 * tiles, heads.kv * splits, batch),
        threadgroup=(256, 1, 1),
        shapes=[shape],
        dtypes=[mx.float32 if split else q.dtype],
    )
    return merge_attention.launch(result, sinks, q.dtype) if split else result


def tile_positions(heads: Heads) -> int:
    """Positions that a threadgroup takes."""
    return _SIMDGROUPS * _simdgroup_positions(heads)


def scored_keys(seq: int, length: int, window: int | None, heads: Heads) -> list[int]:
    """How many keys each of the last `seq` of `length` positions is scored against, hidden ones included.

    For one split of the keys.
    """
    history, scored = length - seq, []
    for query in range(seq):
        tile = query - query % tile_positions(heads)
        own = query - query % _simdgroup_positions(heads)
        stop = history + min(own + _simdgroup_positions(heads), seq)
        own_first, tile_first = (0 if window is None else max(0, history + q - window + 1) for q in (own, tile))
        # Steps begin where the tile's first visible key is.
        skipped = (own_first - tile_first) // STEP_KEYS
        scored.append((-(-(stop - tile_first) // STEP_KEYS) - skipped) * STEP_KEYS)
    return scored


def _simdgroup_positions(heads: Heads) -> int:
    return MOST_GROUP_HEADS // (heads.query // heads.kv)
