"""The largest logits of one token, one for each threadgroup: what `norm_lm_head` computes without writing all of it."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import library
from gptoss_mlx.metal.projection import ARRAYS, PLACE, THREADS, WEIGHTS, projection_arrays, projection_template, rows_of
from gptoss_mlx.operands import Norm, Projection

ROWS_A_THREADGROUP: Final = 256
"""TILES * SIMDGROUPS * TILE_ROWS in lm_head.h."""

_kernel = library.Kernel(
    "norm_argmax",
    inputs=("x", "norm_weight", "eps", *ARRAYS),
    outputs=("best", "ids"),
    body=f"""
    threadgroup metal::vec<T, 4> planes[K / 4];
    threadgroup float partial[SIMDGROUPS];
    threadgroup float group_best[SIMDGROUPS];
    threadgroup uint group_ids[SIMDGROUPS];
    norm_argmax<K, ROWS>(
        x, norm_weight, eps, {WEIGHTS}, best, ids, planes, partial, group_best, group_ids,{PLACE});
    """,
)


def launch(x: mx.array, norm: Norm, lm_head: Projection) -> tuple[mx.array, mx.array]:
    """The largest logit of every 256 tokens, float32 `[groups]`, and its token, uint32 `[groups]`.

    `x` is one token, `[1, 1, hidden]`, and with the rest what `norm_lm_head.fits` allows. Of equal logits it is the
    lowest token; a logit that is not a number wins over nothing, and a group without any other gives -inf.
    """
    rows = rows_of(lm_head)
    groups = -(-rows // ROWS_A_THREADGROUP)
    best, ids = _kernel(
        x,
        norm.weight,
        library.constant(norm.eps),
        *projection_arrays(lm_head),
        template={**projection_template(x, lm_head), "ROWS": rows},
        grid=(groups * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        shapes=((groups,), (groups,)),
        dtypes=(mx.float32, mx.uint32),
    )
    return best, ids
