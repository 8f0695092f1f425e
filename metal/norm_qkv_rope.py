"""One token's queries, keys and values in one launch: RMSNorm, projection, bias and rotary turn."""

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
from gptoss_mlx.operands import Heads, Norm, Projection, Rotation

_THREADGROUPS_A_HEAD: Final = 2
"""32 pairs, PAIRS of the source for each of 8 simdgroups."""

_kernel = library.Kernel(
    "norm_qkv_rope",
    inputs=("x", "norm_weight", "eps", *ARRAYS, "cosines", "sines"),
    outputs=("q", "rows"),
    body=f"""
    threadgroup metal::vec<T, 4> planes[K / 4];
    threadgroup float partial[SIMDGROUPS];
    norm_qkv_rope<K, QUERY, KV>(
        x, norm_weight, eps, {WEIGHTS}, cosines, sines, q, rows, planes, partial,{PLACE});
    """,
)


def fits(x: mx.array, norm: Norm, qkv: Projection, heads: Heads, rotation: Rotation) -> bool:
    """Whether `launch` takes these: one token, heads of 64 values, and weights that the kernels know."""
    return (
        heads.dim == 64
        and rows_of(qkv) == (heads.query + 2 * heads.kv) * heads.dim
        and rotation.cos.shape == rotation.sin.shape == (1, 32)
        and rotation.cos.dtype == rotation.sin.dtype == mx.float32
        and serves(x, qkv, norm)
    )


def launch(x: mx.array, norm: Norm, qkv: Projection, heads: Heads, rotation: Rotation) -> tuple[mx.array, mx.array]:
    """Queries `[1, query, 1, 64]` and the rows for the KV cache `[1, 2 * kv, 1, 64]`, in the dtype of `x`.

    `x` is one token, `[1, 1, hidden]`; `rotation` `[1, 32]` turns its position. Where the reference rounds the product
    to the dtype of `x` before it turns it, this keeps float32.
    """
    if not fits(x, norm, qkv, heads, rotation):
        raise ValueError(f"norm_qkv_rope does not take {x.shape} and {qkv.weight.shape}")
    q, rows = _kernel(
        x,
        norm.weight,
        library.constant(norm.eps),
        *projection_arrays(qkv),
        rotation.cos,
        rotation.sin,
        template={**projection_template(x, qkv), "QUERY": heads.query, "KV": heads.kv},
        grid=((heads.query + 2 * heads.kv) * _THREADGROUPS_A_HEAD * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        shapes=((1, heads.query, 1, heads.dim), (1, 2 * heads.kv, 1, heads.dim)),
        dtypes=(x.dtype, x.dtype),
    )
    return q, rows
