"""Messages between the front end and a rank, over a pair of file descriptors: a JSON object and at most one array.

    bytes 0-3    length of the JSON, big-endian
    bytes 4-11   length of the array's bytes
    then the JSON, then the array's bytes; its dtype and shape stand in the JSON under "array"

Nothing that is read is ever run: a message is values. Owns: this form. Does not own: what messages mean.
"""

import io
import json
import math
import os
import select
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

PREFIX: Final = struct.Struct(">IQ")

MARK: Final = b"\ngptoss-rank\n"
"""What a rank writes first: a login shell may have written something before it."""

MOST_JSON_BYTES: Final = 64 << 20
"""A longer header is no message of ours."""

MOST_ARRAY_BYTES: Final = 16 << 30
"""The same of an array: logits of 20,000 tokens."""

MOST_NOISE_BYTES: Final = 64 << 10
"""What a login shell may write at most."""

WAIT_SECONDS: Final = 0.1
"""How long is waited at a time for the other side to take more."""

_DTYPES: Final = frozenset(("float32", "uint32", "int32", "uint8"))


class BrokenLine(Exception):
    """The other side does not take what is written, or wrote what is no message."""


Values = Mapping[str, Any]
Array = npt.NDArray[Any]


class FrameWriter:
    """Writes whole messages, from any thread."""

    def __init__(self, descriptor: int, *, patience_seconds: float | None = None) -> None:
        """`descriptor` is its own from now on. `patience_seconds` without a byte that is taken are the end of it; None
        waits for ever."""
        self._descriptor = descriptor
        self._patience = patience_seconds
        self._lock = threading.Lock()
        self._closing = False
        if patience_seconds is not None:
            os.set_blocking(descriptor, False)

    def write(self, values: Values, array: Array | None = None) -> None:
        """Writes one message. Raises BrokenLine when nobody takes it."""
        values = dict(values)
        payload = memoryview(b"")
        if array is not None:
            array = np.asarray(array, order="C")
            values["array"] = {"dtype": array.dtype.name, "shape": array.shape}
            payload = _bytes_of(array)
        header = json.dumps(values).encode()
        with self._lock:
            self._write(memoryview(PREFIX.pack(len(header), len(payload)) + header))
            self._write(payload)

    def write_mark(self) -> None:
        """Says that messages follow."""
        with self._lock:
            self._write(memoryview(MARK))

    def close(self) -> None:
        """Ends the line: the other side reads its end. Safe to call twice."""
        # A write that waits sees this and gives up; the number may belong to another file as soon as it is closed.
        self._closing = True
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _write(self, rest: memoryview) -> None:
        since = time.monotonic()
        while rest:
            if self._closing:
                raise BrokenLine("it was closed")
            try:
                count = os.write(self._descriptor, rest)
            except BlockingIOError:
                assert self._patience is not None
                left = since + self._patience - time.monotonic()
                if left <= 0:
                    raise BrokenLine("it takes nothing") from None
                select.select([], [self._descriptor], [], min(left, WAIT_SECONDS))
                continue
            except OSError as error:
                raise BrokenLine(error.strerror or str(error)) from error
            rest = rest[count:]
            since = time.monotonic()


class FrameReader:
    """Reads messages, on one thread."""

    def __init__(self, descriptor: int) -> None:
        self._file = io.BufferedReader(io.FileIO(descriptor), 1 << 16)

    def skip_to_mark(self) -> bool:
        """Skips what comes before the mark; False when the line ends first, or too much comes."""
        seen = b""
        for _ in range(MOST_NOISE_BYTES):
            byte = self._file.read(1)
            if not byte:
                return False
            seen = seen[-len(MARK) :] + byte
            if seen.endswith(MARK):
                return True
        return False

    def read(self) -> tuple[dict[str, Any], Array | None] | None:
        """The next message; None at the end of the line, in the middle of one, too. Raises BrokenLine."""
        prefix = self._file.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return None
        header_bytes, array_bytes = PREFIX.unpack(prefix)
        if header_bytes > MOST_JSON_BYTES or array_bytes > MOST_ARRAY_BYTES:
            raise BrokenLine("what it says is no message")
        header = self._file.read(header_bytes)
        if len(header) < header_bytes:
            return None
        try:
            values = json.loads(header)
            form = values.pop("array", None)
            if form is None:
                return values, None
            dtype, shape = form["dtype"], [int(size) for size in form["shape"]]
            if dtype not in _DTYPES or min(shape, default=0) < 0:
                raise BrokenLine(f"it sends an array of {dtype}")
            if math.prod(shape) * np.dtype(dtype).itemsize != array_bytes:
                raise BrokenLine("its array is of another size than it says")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenLine("what it says is no message") from error
        array = np.empty(shape, dtype=dtype)
        view = _bytes_of(array)
        done = 0
        while done < array_bytes:
            count = self._file.readinto(view[done:])
            if not count:
                return None
            done += count
        return values, array

    def close(self) -> None:
        """Closes the line's end here."""
        self._file.close()


def _bytes_of(array: Array) -> memoryview:
    """The bytes of a contiguous array, in place."""
    return array.reshape(-1).view(np.uint8).data
