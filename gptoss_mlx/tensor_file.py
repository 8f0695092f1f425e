"""A safetensors file that is not there: a checkpoint's tensors as our model wants them, made while MLX reads them.

    with TensorReader(source, float32=True) as reader:
        mx.load(reader.open(names), format="safetensors")

MLX allocates each array and asks for its bytes at once; they are read, put in order and, if asked for, widened to
float32 right where they will stay. No layout costs a second copy of a tensor, and several threads read at once.

Owns: the header that MLX sees, the threads. Does not own: recipes and files (`tensor_source`).
"""

import ctypes
import io
import json
import mmap
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from gptoss_mlx.errors import WeightsError
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

    def __init__(self, source: TensorSource, *, float32: bool, as_stored: frozenset[str] = frozenset()) -> None:
        """`float32` widens floats of two bytes to float32, but for the tensors in `as_stored`."""
        self.source = source
        self.pool = ThreadPoolExecutor(READERS, thread_name_prefix="gptoss-read")
        self._float32 = float32
        self._as_stored = as_stored

    def widens(self, tensor: SourceTensor) -> bool:
        """Whether `tensor` comes as float32 and is stored shorter."""
        return self._float32 and tensor.dtype in WIDENED and tensor.name not in self._as_stored

    def open(self, names: Iterable[str]) -> "TensorFile":
        """A file of those of our tensors."""
        return TensorFile(self, [self.source.tensors[name] for name in names])

    def close(self) -> None:
        """Ends the threads and closes the checkpoint's files."""
        self.pool.shutdown()
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorFile(io.RawIOBase):
    """Some of our tensors as one safetensors file, for `mx.load`.

    Reading never raises, because MLX reads on threads of its own, where nobody would catch it: look at `error` once
    `mx.load` has come back.
    """

    def __init__(self, reader: TensorReader, tensors: Sequence[SourceTensor]) -> None:
        super().__init__()
        self.error: WeightsError | None = None
        """What went wrong first while MLX read; None when nothing did."""
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
            nbytes = tensor.nbytes // ITEM_BYTES[tensor.dtype] * ITEM_BYTES[dtype]
            offsets[end] = tensor
            header[tensor.name] = {
                "dtype": dtype,
                "shape": list(tensor.shape),
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
        _advise_huge_pages(out)
        widen = self._reader.widens(tensor)
        piece = max(PIECE_BYTES // tensor.unit, 1) * tensor.unit

        def read(start: int) -> None:
            stop = min(start + piece, tensor.nbytes)
            if widen:
                self._read_widened(tensor, start, out[2 * start : 2 * stop])
            else:
                self._reader.source.read(tensor.name, start, out[start:stop])

        try:
            for _ in self._reader.pool.map(read, range(0, tensor.nbytes, piece)):
                pass
        except WeightsError as error:
            self.error = self.error or error

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


def _advise_huge_pages(out: Bytes) -> None:
    """Asks Linux for large pages under `out`, before it is touched: gigabytes of small ones take seconds to set up."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or len(out) < PIECE_BYTES:
        return
    page = mmap.PAGESIZE
    first = -(-out.ctypes.data // page) * page
    stop = (out.ctypes.data + len(out)) // page * page
    # Advice only: where it is not taken, everything works as it would without.
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(stop - first), ctypes.c_int(advice))
