"""Our tensors as bytes, made from whatever layout a checkpoint has, a piece at a time.

    TensorSource(checkpoint).read(name, start, buffer)      bytes [start, start + len(buffer)) of our tensor

Copied and stacked tensors are runs of stored bytes; interleaved ones are two runs, dealt out row by row. So any piece
costs its own size in memory and no more, however large the tensor. What passes is checked for values that are not
finite, unless the checkpoint is in our own format, where conversion did so.

Owns: carrying out recipes on files, the check of values. Does not own: what becomes of the bytes (`weights`,
`convert`). Knows no MLX, and may be used by several threads at once.
"""

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.errors import WeightsError
from gptoss_mlx.layouts import FLOAT_DTYPES, Recipe
from gptoss_mlx.mxfp4 import NAN_SCALE
from gptoss_mlx.safetensors_file import ITEM_BYTES, TensorEntry

Bytes = npt.NDArray[np.uint8]

_INFINITY: Final[Mapping[str, int]] = MappingProxyType({"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F80_0000})
"""The bits of positive infinity in each dtype; without its sign, whatever is not below it is not finite."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One of our tensors as it can be read."""

    name: str
    dtype: str
    """The stored parts' dtype, but `U32` for MXFP4 codes stored as bytes."""
    shape: tuple[int, ...]
    nbytes: int
    unit: int
    """Bytes that a piece must begin and end at a multiple of."""


class TensorSource:
    """Reads our tensors out of a checkpoint's files."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._check_values = checkpoint.manifest is None
        self._own = threading.local()
        self._opened: list[FileIO] = []
        self.tensors: dict[str, SourceTensor] = {
            name: self._describe(name, recipe) for name, recipe in checkpoint.recipes.items()
        }
        """Every tensor of ours, in the order in which a model is put together."""

    def read(self, name: str, start: int, out: Bytes) -> None:
        """Fills `out` (contiguous uint8) with the bytes of tensor `name` from byte `start` on.

        Both ends must be multiples of the tensor's `unit`. Raises `WeightsError` when a file cannot be read or holds a
        value that is not finite.
        """
        recipe = self._checkpoint.recipes[name]
        parts = [self._checkpoint.entries[part.name] for part in recipe.parts]
        if recipe.combine == "interleave":
            half = len(out) // 2
            pieces = np.empty((2, half), dtype=np.uint8)
            for piece, entry in zip(pieces, parts, strict=True):
                self._read_part(entry, start // 2, piece)
            row = sum(entry.nbytes for entry in parts) // math.prod(recipe.shape[:2])
            out.reshape(-1, 2, row)[:] = pieces.reshape(2, -1, row).swapaxes(0, 1)
            return
        position = 0
        for entry in parts:
            skip = min(start, entry.nbytes)
            count = min(entry.nbytes - skip, len(out) - position)
            if count > 0:
                self._read_part(entry, skip, out[position : position + count])
                position += count
            start -= skip

    def place(self, name: str) -> tuple[Path, int] | None:
        """The file and the byte in it where our tensor `name` lies just as we want it, its values checked long ago."""
        recipe = self._checkpoint.recipes[name]
        if self._check_values or recipe.combine != "copy":
            return None
        entry = self._checkpoint.entries[recipe.parts[0].name]
        return entry.file, entry.offset

    def close(self) -> None:
        """Closes the files; nothing can be read afterwards."""
        for file in self._opened:
            file.close()

    def _describe(self, name: str, recipe: Recipe) -> SourceTensor:
        stored = self._checkpoint.dtype_of(name)
        dtype = "U32" if name.endswith(".blocks") else stored
        nbytes = sum(self._checkpoint.entries[part.name].nbytes for part in recipe.parts)
        unit = ITEM_BYTES[dtype]
        if recipe.combine == "interleave":
            unit = 2 * nbytes // math.prod(recipe.shape[:2])
        return SourceTensor(name, dtype, recipe.shape, nbytes, unit)

    def _read_part(self, entry: TensorEntry, start: int, out: Bytes) -> None:
        """Fills `out` with the stored tensor's bytes from `start` on, and checks them."""
        try:
            file = self._open(entry.file)
            file.seek(entry.offset + start)
            done = 0
            while done < len(out):
                count = file.readinto(out[done:].data)
                if not count:
                    raise WeightsError(
                        f"{entry.file} ends inside tensor {entry.name}; it was longer when its header was read; "
                        "download it again"
                    )
                done += count
        except OSError as error:
            raise WeightsError(f"{entry.file} cannot be read: {error.strerror or error}") from error
        if self._check_values:
            _check_finite(entry, out)

    def _open(self, path: Path) -> FileIO:
        """The file, opened once for each thread: threads that read at once each have a position of their own."""
        files: dict[Path, FileIO] = self._own.__dict__.setdefault("files", {})
        if path not in files:
            files[path] = path.open("rb", buffering=0)
            self._opened.append(files[path])
        return files[path]


def _check_finite(entry: TensorEntry, data: Bytes) -> None:
    """Raises `WeightsError` when `data`, bytes of the tensor `entry`, hold a value that is not finite."""
    if entry.dtype in FLOAT_DTYPES:
        if entry.dtype == "F32":
            largest = int((data.view(np.uint32) & np.uint32(0x7FFF_FFFF)).max(initial=0))
        else:
            largest = int((data.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0))
        if largest >= _INFINITY[entry.dtype]:
            raise _not_finite(entry, "NaN or infinity")
    elif entry.dtype == "U8" and "scales" in entry.name and int(data.max(initial=0)) == NAN_SCALE:
        raise _not_finite(entry, "a scale byte of 255, which is NaN")


def _not_finite(entry: TensorEntry, found: str) -> WeightsError:
    return WeightsError(
        f"{entry.file}: tensor {entry.name} holds {found}; expected finite values; download the file again"
    )
