"""A projection as the matrix-vector kernels take it: its arrays, its template values, and which ones they serve.

Owns: the Python side of `projection.h`, and what all kernels that multiply one token share. Does not own: the rest of a
kernel's arrays, and its grid (each launcher).
"""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import library
from gptoss_mlx.operands import Norm, Projection, QuantizedLinear

ARRAYS: Final = ("weight", "scales", "offsets", "bias")
"""Names of a projection's arrays, in the order of `projection_arrays`."""

WEIGHTS: Final = "weights_of<K, BITS, GROUP>(weight, scales, offsets), bias_of(bias)"
"""What a kernel's body passes as weights and bias."""

PLACE: Final = """
        threadgroup_position_in_grid.x, thread_index_in_threadgroup, thread_index_in_simdgroup,
        simdgroup_index_in_threadgroup"""
"""What a kernel's body passes last: where a thread stands."""

THREADS: Final = 256
"""Threads of a threadgroup, as in `matvec.h`."""

SUMS_BYTES: Final = 128
"""Room in threadgroup memory for what a kernel keeps besides the staged vector: a few numbers for each simdgroup."""

DTYPES: Final = (mx.bfloat16, mx.float16, mx.float32)
"""What activations and dense weights may be."""


def projection_arrays(projection: Projection) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Weight, scales, offsets and bias; a number without dimensions stands for what the projection does not have."""
    none = library.constant(0.0)
    bias = none if projection.bias is None else projection.bias
    if isinstance(projection, QuantizedLinear):
        return projection.weight, projection.scales, projection.biases, bias
    return projection.weight, none, none, bias


def projection_template(x: mx.array, projection: Projection) -> dict[str, int | bool | mx.Dtype]:
    """T, K, BITS and GROUP for one token `x`; GROUP is 0 where the weights are not quantised."""
    if isinstance(projection, QuantizedLinear):
        stored = projection.bits, projection.group_size
    else:
        stored = 8 * projection.weight.dtype.size, 0
    return {"T": x.dtype, "K": x.shape[-1], "BITS": stored[0], "GROUP": stored[1]}


def rows_of(projection: Projection) -> int:
    """Outputs of the projection."""
    return int(projection.weight.shape[0])


def serves(x: mx.array, projection: Projection, norm: Norm | None = None) -> bool:
    """Whether the kernels multiply `x` with this projection, and norm it before.

    They take one token whose width is a multiple of 32 and fits into threadgroup memory, dense weights and affine ones
    of 8, 6 or 4 bits, and at least 8 rows: a shorter array would arrive in another address space.
    """
    rows, width = rows_of(projection), x.shape[-1]
    return (
        x.size == width
        and width % 32 == 0
        and width * x.dtype.size + SUMS_BYTES <= library.MOST_THREADGROUP_BYTES
        and x.dtype in DTYPES
        and rows >= 8
        and _stored_as_served(projection, width)
        and (projection.bias is None or (projection.bias.dtype in DTYPES and projection.bias.shape == (rows,)))
        and (norm is None or (norm.weight.dtype == x.dtype and norm.weight.shape == (width,)))
    )


def _stored_as_served(projection: Projection, width: int) -> bool:
    rows, columns = projection.weight.shape
    if not isinstance(projection, QuantizedLinear):
        return projection.weight.dtype in DTYPES and columns == width
    return (
        projection.bits in (8, 6, 4)
        and projection.group_size in (32, 64, 128)
        and columns * 32 == width * projection.bits
        and projection.scales.shape == (rows, width // projection.group_size)
        and projection.scales.dtype in DTYPES
        and projection.biases.dtype == projection.scales.dtype
    )
