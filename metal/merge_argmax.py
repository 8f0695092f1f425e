"""The token with the largest logit, from the largest of each group of tokens."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import library

_THREADS: Final = 256
"""Threads of the one threadgroup, as in the source."""

_kernel = library.Kernel(
    "merge_argmax",
    inputs=("best", "ids"),
    outputs=("token",),
    body="""
    threadgroup float group_best[SIMDGROUPS];
    threadgroup uint group_ids[SIMDGROUPS];
    merge_argmax<COUNT>(
        best, ids, token, group_best, group_ids, thread_index_in_threadgroup, thread_index_in_simdgroup,
        simdgroup_index_in_threadgroup);
    """,
)


def launch(best: mx.array, ids: mx.array) -> mx.array:
    """The id of the largest of `best`, uint32 `[1, 1]`; of equal ones the lowest id.

    `best` is float32 `[groups]`, without NaN, and `ids` uint32 `[groups]`, as `norm_argmax` gives them.
    """
    if best.ndim != 1 or best.shape != ids.shape or best.dtype != mx.float32 or ids.dtype != mx.uint32:
        raise ValueError(f"merge_argmax does not take {best.shape} of {best.dtype} and {ids.shape} of {ids.dtype}")
    return _kernel(
        best,
        ids,
        template={"COUNT": best.size},
        grid=(_THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        shapes=((1, 1),),
        dtypes=(mx.uint32,),
    )[0]
