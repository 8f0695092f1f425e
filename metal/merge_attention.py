"""Launches `merge_attention`: the second dispatch of an attention that was split over the keys."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal.attention_launch import HEAD_DIM, MOST_SPLITS
from gptoss_mlx.metal.library import Kernel

_KERNEL: Final = Kernel(
    "merge_attention",
    inputs=("partial", "sinks"),
    outputs=("attended",),
    body="""
    merge_attention<T>(
        partial, sinks, attended, partial_shape[3],
        thread_position_in_grid.y, threads_per_grid.y, thread_position_in_grid.z, thread_index_in_simdgroup);
    """,
)


def fits(splits: int) -> bool:
    """Whether the kernel can merge this many splits."""
    return 1 <= splits <= MOST_SPLITS


def launch(partial: mx.array, sinks: mx.array, dtype: mx.Dtype) -> mx.array:
    """Attention `[batch, seq, query_heads * 64]` in `dtype`, out of what its splits left.

    `partial` is float32 `[batch, seq, query_heads, splits, 68]`; `sinks` `[query_heads]` are of any floating dtype.
    """
    batch, seq, query_heads, splits, _ = partial.shape
    if not fits(splits):
        raise ValueError(f"merge_attention does not take {splits} splits; at most {MOST_SPLITS}")
    [attended] = _KERNEL(
        partial,
        sinks,
        template={"T": dtype},
        grid=(32, query_heads, batch * seq),
        threadgroup=(32, 8, 1),
        shapes=[(batch, seq, query_heads * HEAD_DIM)],
        dtypes=[dtype],
    )
    return attended
