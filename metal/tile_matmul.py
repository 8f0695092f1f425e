"""What the launchers of both grouped expert products share: the tile's sizes, and what `tile_matmul.h` assumes."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal.library import Size
from gptoss_mlx.metal.route_pairs import PairTable
from gptoss_mlx.operands import ExpertLinear

TILE_HEIGHTS: Final = (8, 16, 32, 64)
"""Pairs of a full tile that the kernels are made for."""

TILE_COLUMNS: Final = 64
"""Rows of an expert's matrix that a tile takes."""

THREADS: Final = 128
"""Threads of a threadgroup: four simdgroups."""

DTYPES: Final = (mx.bfloat16, mx.float16, mx.float32)
"""Dtypes of activations."""

THREADGROUP: Final[Size] = (THREADS, 1, 1)
"""The threadgroup of one tile."""

TILE_MEMORY: Final = """
threadgroup uint4 x_tile[x_tile_words<T, TILE_ROWS>()];
threadgroup uint4 scale_tile[scale_tile_words(K)];
threadgroup uint sources[TILE_ROWS];
"""
"""Declarations of a tile's threadgroup memory."""

MOST_WIDTH: Final = 8192
"""Width of a matrix whose scales, 64 rows of them, still fit threadgroup memory beside the activations."""


def width_fits(width: int) -> bool:
    """Whether a matrix may have rows of `width` values: whole groups of an MXFP4 scale, and not too many."""
    return 0 < width <= MOST_WIDTH and width % 32 == 0


def check(x: mx.array, table: PairTable, linear: ExpertLinear) -> None:
    """Raises `ValueError` where `x` `[rows, in]` or `linear` is not what the kernels take."""
    experts, out, words = linear.blocks.shape
    if x.dtype not in DTYPES or not width_fits(x.shape[1]) or x.shape[1] != words * 8:
        raise ValueError(f"x is {x.dtype} {x.shape}; expected a float [rows, {words * 8}]")
    if linear.scales.shape != (experts, out, words // 4) or linear.bias.shape != (experts, out) or out % 32:
        raise ValueError(f"{linear.blocks.shape} blocks, {linear.scales.shape} scales, {linear.bias.shape} biases")
    if table.tile_rows not in TILE_HEIGHTS:
        raise ValueError(f"tiles of {table.tile_rows} pairs; expected one of {TILE_HEIGHTS}")


def grid(table: PairTable, linear: ExpertLinear) -> Size:
    """Threads for all rows of `linear` (x) and all tiles (y)."""
    return -(-linear.blocks.shape[1] // TILE_COLUMNS) * THREADS, table.tiles.shape[0], 1
