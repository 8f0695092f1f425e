"""The bytes of a planned file, a few megabytes at a time.

A tensor that stays as it is passes through. A weight that is quantised is taken a piece of rows at a time; its scales
and offsets come out with it and wait in memory, a sixteenth of its size at most, for their turn in the file.
"""

from collections.abc import Iterator
from typing import Final

import mlx.core as mx
import numpy as np

from gptoss_mlx.convert.plan import PlannedFile, PlannedTensor
from gptoss_mlx.tensor_source import Bytes, TensorSource

PIECE_BYTES: Final = 2 << 20
"""Bytes of the source that are in memory at once, for each file that is being written."""

_MLX_DTYPES: Final = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


Waiting = dict[str, list[Bytes]]
"""Scales and offsets, by their tensors' names, whose weight was taken already."""


def file_pieces(file: PlannedFile, source: TensorSource) -> Iterator[Bytes]:
    """All bytes of `file` after its header, in order. Raises `WeightsError` for what is wrong with the source."""
    waiting: Waiting = {}
    for tensor in file.tensors:
        yield from tensor_pieces(tensor, source, waiting)


def tensor_pieces(tensor: PlannedTensor, source: TensorSource, waiting: Waiting) -> Iterator[Bytes]:
    """All bytes of one tensor; a file's are taken in its order, with the same `waiting` for all. Raises as above."""
    if tensor.affine is None:
        yield from _copied(tensor, source)
    elif tensor.dtype == "U32":
        yield from _quantised(tensor, source, waiting)
    else:
        yield from waiting.pop(tensor.name)


def _copied(tensor: PlannedTensor, source: TensorSource) -> Iterator[Bytes]:
    size = max(PIECE_BYTES // tensor.source.unit, 1) * tensor.source.unit
    buffer = np.empty(min(size, tensor.nbytes), dtype=np.uint8)
    for start in range(0, tensor.nbytes, size):
        piece = buffer[: min(size, tensor.nbytes - start)]
        source.read(tensor.source.name, start, piece)
        yield piece


def _quantised(tensor: PlannedTensor, source: TensorSource, waiting: Waiting) -> Iterator[Bytes]:
    assert tensor.affine is not None
    rows, width = tensor.source.shape
    dtype = _MLX_DTYPES[tensor.source.dtype]
    stem = tensor.name.removesuffix(".weight")
    scales = waiting.setdefault(f"{stem}.scales", [])
    offsets = waiting.setdefault(f"{stem}.biases", [])
    row_bytes = width * dtype.size
    count = max(PIECE_BYTES // row_bytes, 1)
    buffer = np.empty((min(count, rows), row_bytes), dtype=np.uint8)
    for first in range(0, rows, count):
        piece = buffer[: min(count, rows - first)]
        source.read(tensor.source.name, first * row_bytes, piece.reshape(-1))
        # Always on the processor, so that every machine writes the same bytes.
        parts = mx.quantize(
            mx.array(piece).view(dtype), group_size=tensor.affine.group_size, bits=tensor.affine.bits, stream=mx.cpu
        )
        packed, piece_scales, piece_offsets = (np.array(part.view(mx.uint8)).reshape(-1) for part in parts)
        scales.append(piece_scales)
        offsets.append(piece_offsets)
        yield packed
