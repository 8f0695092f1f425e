"""A safetensors file that is not there: a checkpoint's tensors as our model wants them, made while MLX reads them.

    reader = TensorReader(source, float32=True, on_gpu=False)
    mx.load(reader.open(names), format="safetensors")

MLX allocates each array and asks for its bytes at once; they are read, put in order and, if asked for, widened to
float32 right where they will stay. No layout costs a second copy of a tensor, and several threads read at once. Where
the system can, the large tensors of a converted model are not read at all: the file's own pages take the memory's place
(`file_pages`). Since those must fit into pages, such a tensor comes as a vector with a page to spare, and `place` says
where in it the tensor begins.

Owns: the header that MLX sees, the threads. Does not own: recipes and files (`tensor_source`).
"""

import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from gptoss_mlx.errors import WeightsError
from gptoss_mlx.file_pages import (
    LARGE_BYTES,
    PAGE_BYTES,
    advise_huge_pages,
    can_replace_pages,
    first_byte,
    replace_pages,
)
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tensor_source import Bytes, SourceTensor, TensorSource

PIECE_BYTES: Final = 8 << 20
"""What one thread reads at once: large enough that calls cost nothing."""

READERS: Final = max(2, min(8, os.cpu_count() or 2))
"""Threads that read."""

WIDENED: Final = ("BF16", "F16")
"""Dtypes that become float32 when that is asked for."""


class TensorReader:
    """The threads that read a `TensorSource`'s tensors, and in what dtype they come."""

    def __init__(
        self,
        source: TensorSource,
        *,
        float32: bool,
        as_stored: frozenset[str] = frozenset(),
        on_gpu: bool,
    ) -> None:
        """`float32` widens floats of two bytes to float32, but for the tensors in `as_stored`.

        Without a GPU large ones stay as stored as well: they may be pages of a file, and the operations there widen
        them as they go. `on_gpu`: MLX's arrays are a GPU's, whose memory no file's pages can replace.
        """
        self.source = source
        self.mapped: dict[str, tuple[Path, int, int]] = {}
        """The tensors that are pages of a file by now: file, offset and bytes of each."""
        self._on_gpu = on_gpu
        self._may_map = can_replace_pages() and not on_gpu
        self.pool = ThreadPoolExecutor(READERS, thread_name_prefix="gptoss-read")
        self._float32 = float32
        self._as_stored = as_stored

    def widens(self, tensor: SourceTensor) -> bool:
        """Whether `tensor` comes as float32 and is stored shorter."""
        stays = tensor.name in self._as_stored or (tensor.nbytes >= LARGE_BYTES and not self._on_gpu)
        return self._float32 and tensor.dtype in WIDENED and not stays

    def maps(self, tensor: SourceTensor) -> bool:
        """Whether the file's own pages become the memory of `tensor`."""
        return self._may_map and tensor.nbytes >= LARGE_BYTES and self.source.place(tensor.name) is not None

    def open(self, names: Iterable[str]) -> "TensorFile":
        """A file of those of our tensors."""
        return TensorFile(self, [self.source.tensors[name] for name in names])

    def close(self) -> None:
        """Ends the threads and closes the checkpoint's files."""
        self.pool.shutdown()
        self.source.close()


class TensorFile(io.RawIOBase):
    """Some of our tensors as one safetensors file, for `mx.load`.

    Reading never raises, because MLX reads on threads of its own, where nobody would catch it: look at `error` once
    `mx.load` has come back.
    """

    def __init__(self, reader: TensorReader, tensors: Sequence[SourceTensor]) -> None:
        super().__init__()
        self.error: WeightsError | None = None
        """What went wrong first while MLX read; None when nothing did."""
        self.first_items: dict[str, int] = {}
        """Of each tensor that came as a longer vector: the item in it where the tensor begins."""
        self._reader = reader
        self._position = 0
        self._places: dict[int, SourceTensor] = {}
        """Where a tensor begins in this file -> the tensor."""
        self._head = self._make_head(tensors)

    def _make_head(self, tensors: Sequence[SourceTensor]) -> bytes:
        header: dict[str, Any] = {}
        offsets: dict[int, SourceTensor] = {}
        end = 0
        for tensor in tensors:
            widen = self._reader.widens(tensor)
            dtype = "F32" if widen else tensor.dtype
            shape = list(tensor.shape)
            if self._reader.maps(tensor):
                shape = [math.prod(shape) + PAGE_BYTES // ITEM_BYTES[dtype]]
            nbytes = math.prod(shape) * ITEM_BYTES[dtype]
            offsets[end] = tensor
            header[tensor.name] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [end, end + nbytes],
            }
            end += nbytes
        text = json.dumps(header).encode()
        head = len(text).to_bytes(8, "little") + text
        self._places = {len(head) + offset: tensor for offset, tensor in offsets.items()}
        self._size = len(head) + end
        return head

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fills `buffer` with the header's bytes or with one whole tensor: MLX asks for nothing else."""
        out = np.frombuffer(buffer, dtype=np.uint8)
        position, self._position = self._position, self._position + len(out)
        if position < len(self._head):
            out[:] = np.frombuffer(self._head[position : position + len(out)], dtype=np.uint8)
        elif len(out) and self.error is None:
            self._fill(self._places[position], out)
        return len(out)

    def _fill(self, tensor: SourceTensor, out: Bytes) -> None:
        try:
            if self._reader.maps(tensor):
                self._map(tensor, out)
            else:
                self._read(tensor, 0, tensor.nbytes, out)
        except WeightsError as error:
            self.error = self.error or error

    def _map(self, tensor: SourceTensor, out: Bytes) -> None:
        """The tensor as the file's own pages, its first and last bytes read; all of it read where that cannot be."""
        place = self._reader.source.place(tensor.name)
        assert place is not None
        file, offset = place
        item = ITEM_BYTES[tensor.dtype]
        begin = first_byte(out, offset)
        first, last = 0, 0
        if begin % item == 0:
            first, last = replace_pages(out[begin : begin + tensor.nbytes], file, offset)
        else:
            begin = 0
        self.first_items[tensor.name] = begin // item
        if last > first:
            self._reader.mapped[tensor.name] = file, offset, tensor.nbytes
        exact = out[begin : begin + tensor.nbytes]
        self._read(tensor, 0, first, exact)
        self._read(tensor, last, tensor.nbytes, exact)

    def _read(self, tensor: SourceTensor, start: int, stop: int, out: Bytes) -> None:
        """Fills bytes `start` to `stop` of the stored tensor into their place in `out`, which is all of it."""
        if len(out) >= PIECE_BYTES and stop - start == tensor.nbytes:
            advise_huge_pages(out)
        widen = self._reader.widens(tensor)
        piece = max(PIECE_BYTES // tensor.unit, 1) * tensor.unit

        def read(first: int) -> None:
            last = min(first + piece, stop)
            if widen:
                self._read_widened(tensor, first, out[2 * first : 2 * last])
            else:
                self._reader.source.read(tensor.name, first, out[first:last])

        for _ in self._reader.pool.map(read, range(start, stop, piece)):
            pass

    def _read_widened(self, tensor: SourceTensor, start: int, out: Bytes) -> None:
        narrow = np.empty(len(out) // 2, dtype=np.uint8)
        self._reader.source.read(tensor.name, start, narrow)
        if tensor.dtype == "F16":
            out.view(np.float32)[:] = narrow.view(np.float16)
        else:
            # bfloat16 is the upper half of float32.
            bits = out.view(np.uint32)
            bits[:] = narrow.view(np.uint16)
            bits <<= 16
