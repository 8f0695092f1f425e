"""One token through a projection and onto the residual stream, in one launch."""

from typing import Final

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
from gptoss_mlx.operands import Projection

_ROWS_A_THREADGROUP: Final = 16
"""PER_SIMDGROUP rows of the source for each of 8 simdgroups."""

_kernel = library.Kernel(
    "linear_residual",
    inputs=("x", *ARRAYS, "residual"),
    outputs=("out",),
    body=f"""
    threadgroup metal::vec<T, 4> planes[K / 4];
    linear_residual<K, ROWS>(x, {WEIGHTS}, residual, out, planes,{PLACE});
    """,
)


def fits(x: mx.array, linear: Projection, residual: mx.array) -> bool:
    """Whether `launch` takes these: one token, a residual of its dtype, and weights that the kernels know."""
    return residual.size == rows_of(linear) and residual.dtype == x.dtype and serves(x, linear)


def launch(x: mx.array, linear: Projection, residual: mx.array) -> mx.array:
    """`residual + linear(x)`, in the shape and dtype of `residual`, `[1, 1, hidden]`.

    `x` is one token, `[1, 1, in]`, in the dtype of `residual`. Where the reference rounds the product to that dtype
    before it adds the residual, this keeps float32.
    """
    if not fits(x, linear, residual):
        raise ValueError(f"linear_residual does not take {x.shape}, {linear.weight.shape} and {residual.shape}")
    rows = rows_of(linear)
    return _kernel(
        x,
        *projection_arrays(linear),
        residual,
        template={**projection_template(x, linear), "ROWS": rows},
        grid=(-(-rows // _ROWS_A_THREADGROUP) * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        shapes=(residual.shape,),
        dtypes=(residual.dtype,),
    )[0]
