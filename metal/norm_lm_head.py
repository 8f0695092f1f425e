"""One token's logits, or the token that has the largest: RMSNorm and the product with the lm_head in one launch."""

import mlx.core as mx

from gptoss_mlx.metal import library, merge_argmax, norm_argmax
from gptoss_mlx.metal.projection import (
    ARRAYS,
    PLACE,
    THREADS,
    WEIGHTS,
    projection_arrays,
    projection_template,
    rows_of,
    serves,
)
from gptoss_mlx.operands import Norm, Projection

_kernel = library.Kernel(
    "norm_lm_head",
    inputs=("x", "norm_weight", "eps", *ARRAYS),
    outputs=("logits",),
    body=f"""
    threadgroup metal::vec<T, 4> planes[K / 4];
    threadgroup float partial[SIMDGROUPS];
    norm_lm_head<K, ROWS>(x, norm_weight, eps, {WEIGHTS}, logits, planes, partial,{PLACE});
    """,
)


def fits(x: mx.array, norm: Norm, lm_head: Projection) -> bool:
    """Whether `launch` and `launch_argmax` take these: one token, and weights that the kernels know."""
    return serves(x, lm_head, norm)


def launch(x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
    """Logits, float32 `[1, 1, vocab]`, of one token `x` `[1, 1, hidden]`.

    Where the reference rounds logits to the dtype of `x`, this keeps float32. Expects that `fits` was asked.
    """
    rows = rows_of(lm_head)
    return _kernel(
        x,
        norm.weight,
        library.constant(norm.eps),
        *projection_arrays(lm_head),
        template={**projection_template(x, lm_head), "ROWS": rows},
        grid=(-(-rows // norm_argmax.ROWS_A_THREADGROUP) * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        shapes=((1, 1, rows),),
        dtypes=(mx.float32,),
    )[0]


def launch_argmax(x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
    """The token with the largest of the logits that `launch` gives for the same, uint32 `[1, 1]`.

    Of equal logits the lowest token wins. Logits that are not numbers never win, unless there are no others: then it is
    some token. Expects that `fits` was asked.
    """
    return merge_argmax.launch(*norm_argmax.launch(x, norm, lm_head))


def launch_best(x: mx.array, norm: Norm, lm_head: Projection) -> tuple[mx.array, mx.array]:
    """What `launch_argmax` gives, and that token's logit, float32 `[1, 1]`; without any number among them, -inf."""
    best, ids = norm_argmax.launch(x, norm, lm_head)
    return merge_argmax.launch(best, ids), mx.max(best, keepdims=True)[None]
