"""A rank's part of a checkpoint's tensors as bytes, for `tensor_file`: what a `TensorSource` is for all of them.

    our tensor  ├── expert 0 ──┼── expert 1 ──┼ …        rows: runs of bytes, only those are read
                    ███            ███
    our tensor  ├─ row ─┼─ row ─┼ …                      columns: rows are read whole and cut
                  ██      ██

A row is 0.2 to 8 KB and a page of a file 4 to 16: to skip what lies between the columns of two rows would spare a disk
nothing and cost a system call a row, two million for the 20b's experts. So what is read of down and o_proj is all of
it, a third of the model; of everything else it is the rank's share.

Owns: where a part's bytes lie. Does not own: which part that is (`cuts`), layouts (`tensor_source`).
"""

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.distributed.cuts import Cut
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tensor_source import Bytes, SourceTensor, TensorSource


class ShardSource(TensorSource):
    """Reads the parts of our tensors that `cuts` name, as if they were tensors; others are not there."""

    def __init__(self, checkpoint: Checkpoint, cuts: Mapping[str, Cut | None]) -> None:
        super().__init__(checkpoint)
        self._whole = self.tensors
        self._cuts = cuts
        self._lock = threading.Lock()
        self._read_bytes = 0
        self.tensors = {
            name: tensor if (cut := cuts[name]) is None else _part(tensor, cut)
            for name, tensor in self._whole.items()
            if name in cuts
        }

    @property
    def read_bytes(self) -> int:
        """Bytes of tensors that were read from files so far."""
        return self._read_bytes

    def read(self, name: str, start: int, out: Bytes) -> None:
        whole, cut = self._whole[name], self._cuts[name]
        if cut is None:
            self._read_whole(name, start, out)
        elif cut.takes_columns(whole.shape):
            self._read_columns(whole, cut, start, out)
        else:
            self._read_runs(whole, cut, start, out)

    def place(self, name: str) -> tuple[Path, int] | None:
        cut, place = self._cuts[name], super().place(name)
        if cut is None or place is None:
            return place
        # One run of bytes: some rows of a matrix.
        if cut.axis != 0 or len(cut.spans) != 1:
            return None
        file, offset = place
        whole = self._whole[name]
        return file, offset + cut.spans[0].start * (whole.nbytes // whole.shape[0])

    def _read_whole(self, name: str, start: int, out: Bytes) -> None:
        super().read(name, start, out)
        with self._lock:
            self._read_bytes += len(out)

    def _read_columns(self, whole: SourceTensor, cut: Cut, start: int, out: Bytes) -> None:
        item = ITEM_BYTES[whole.dtype]
        row, part_row = whole.shape[-1] * item, cut.count * item
        rows = np.empty((len(out) // part_row, row), dtype=np.uint8)
        self._read_whole(whole.name, start // part_row * row, rows.reshape(-1))
        parts = [rows[:, span.start * item : span.stop * item] for span in cut.spans]
        np.concatenate(parts, axis=1, out=out.reshape(-1, part_row))

    def _read_runs(self, whole: SourceTensor, cut: Cut, start: int, out: Bytes) -> None:
        place = whole.nbytes // math.prod(whole.shape[: cut.axis + 1])
        """Bytes of one place along the axis."""
        outer = place * whole.shape[cut.axis]
        done = 0
        while done < len(out):
            number, inside = divmod(start + done, place * cut.count)
            for span in cut.spans:
                length = span.size * place
                if inside < length:
                    break
                inside -= length
            else:
                raise AssertionError("the spans make up all of the part")
            count = min(length - inside, len(out) - done)
            self._read_whole(whole.name, number * outer + span.start * place + inside, out[done : done + count])
            done += count


def _part(tensor: SourceTensor, cut: Cut) -> SourceTensor:
    shape = cut.shape(tensor.shape)
    item = ITEM_BYTES[tensor.dtype]
    unit = shape[-1] * item if cut.takes_columns(tensor.shape) else tensor.unit
    return replace(tensor, shape=shape, nbytes=math.prod(shape) * item, unit=unit)
