"""Matrix products in numpy, whose BLAS is many times faster than the reference BLAS of MLX's processor back-end.

Owns: products of float32 arrays, with weights as they are or expanded a part at a time. Does not own: when that pays
(`cpu`), how weights are expanded (`expand`), nor the threads (`threads`).
"""

from typing import Final

import numpy as np

from gptoss_mlx.ops.expand import Float32, RowSource
from gptoss_mlx.ops.threads import share

SCRATCH_BYTES: Final = 4 << 20
"""Expanded rows that each thread holds at once: enough for BLAS to be at full speed, few enough to stay in a cache."""

SHARE_FROM_PRODUCTS: Final = 1 << 19
"""Products of two numbers that keep a thread busy long enough to be worth waking it."""


def multiply(x: Float32, weight: Float32) -> Float32:
    """`x @ weight.T`, `[rows, out]`, for `x` `[rows, in]` and `weight` `[out, in]`."""
    out = np.empty((len(weight), len(x)), dtype=np.float32)

    def work(start: int, stop: int) -> None:
        # The large matrix on the left: for few columns OpenBLAS is up to twice as fast that way round.
        np.matmul(weight[start:stop], x.T, out=out[start:stop])

    share(len(weight), work, parts=_parts(x, len(weight)))
    return out.T


def multiply_expanded(x: Float32, rows: int, source: RowSource) -> Float32:
    """`x @ weight.T`, `[x rows, rows]`, for a weight of `rows` rows that `source` expands."""
    out = np.empty((rows, len(x)), dtype=np.float32)
    width = x.shape[1]
    most = max(1, SCRATCH_BYTES // (4 * width))

    def work(start: int, stop: int) -> None:
        scratch = np.empty((min(most, stop - start), width), dtype=np.float32)
        for first in range(start, stop, most):
            last = min(first + most, stop)
            expanded = scratch[: last - first]
            source(first, last, expanded)
            np.matmul(expanded, x.T, out=out[first:last])

    share(rows, work, parts=_parts(x, rows))
    return out.T


def _parts(x: Float32, rows: int) -> int:
    return x.size * rows // SHARE_FROM_PRODUCTS + 1
