"""One token's RMSNorm and the router's logits for it, in one launch."""

import mlx.core as mx

from gptoss_mlx.metal import library
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
    "norm_router",
    inputs=("x", "norm_weight", "eps", *ARRAYS),
    outputs=("normed", "logits"),
    body=f"""
    threadgroup metal::vec<T, 4> planes[K / 4];
    threadgroup float partial[SIMDGROUPS];
    norm_router<K>(x, norm_weight, eps, {WEIGHTS}, normed, logits, planes, partial,{PLACE});
    """,
)


def fits(x: mx.array, norm: Norm, router: Projection) -> bool:
    """Whether `launch` takes these: one token, at least 8 experts, and weights that the kernels know."""
    return serves(x, router, norm)


def launch(x: mx.array, norm: Norm, router: Projection) -> tuple[mx.array, mx.array]:
    """The normed `x`, `[1, 1, hidden]` in its dtype, and the router's logits, float32 `[1, 1, experts]`.

    `x` is one token, `[1, 1, hidden]`. Where the reference rounds logits to the dtype of `x`, this keeps float32.
    Choosing experts by them is left to whoever visits the experts.
    """
    if not fits(x, norm, router):
        raise ValueError(f"norm_router does not take {x.shape} and {router.weight.shape}")
    experts = rows_of(router)
    normed, logits = _kernel(
        x,
        norm.weight,
        library.constant(norm.eps),
        *projection_arrays(router),
        template=projection_template(x, router),
        grid=(experts * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        shapes=(x.shape, (1, 1, experts)),
        dtypes=(x.dtype, mx.float32),
    )
    return normed, logits
