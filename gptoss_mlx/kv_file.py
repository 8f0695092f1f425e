"""A KV record as a file: written whole or not at all, and used whole or not at all.

    "gptoss-mlx kv 1\\n"   16 bytes
    length of the header  8 bytes, little-endian
    header                JSON: all of the record but its arrays, and dtype and shape of each
    arrays                their bytes, one after the other, little-endian
    sha256                32 bytes, of everything before

Nothing in it is believed before the sum is right, so that a byte that flipped, a file that was cut or one that never
was ours is no case of its own. Owns: the bytes. Does not own: what they mean (`kv_record`), where files lie
(`kv_store`).
"""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gptoss_mlx.errors import GptOssError, NotEnoughDisk
from gptoss_mlx.kv_record import KVRecord, UnusableKV

MAGIC: Final = b"gptoss-mlx kv 1\n"
"""What a file begins with, the version of the format in it."""

DIGEST_BYTES: Final = 32
PIECE_BYTES: Final = 1 << 20
"""Bytes that are written and hashed at once."""

PART_SUFFIX: Final = ".part"
"""What an unfinished file ends in."""

_DTYPES: Final = ("int32", "uint32", "uint16", "int8", "float32")


def write_kv_file(path: Path, kept: KVRecord) -> int:
    """Writes `kept` to `path`, in place of what is there; gives the file's bytes.

    Raises NotEnoughDisk on a full disk and GptOssError for any other failure; an older file stays then.
    """
    values: dict[str, Any] = {
        "model": kept.model,
        "dtype": kept.dtype,
        "bits": kept.bits,
        "start": kept.start,
        "ends": kept.ends,
        "places": kept.places,
        "arrays": [(array.dtype.name, array.shape) for array in kept.arrays],
    }
    header = json.dumps(values).encode()
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART_SUFFIX)
        with os.fdopen(handle, "wb") as file:
            digest = hashlib.sha256()
            head = MAGIC + len(header).to_bytes(8, "little") + header
            for view in (memoryview(head), *map(_bytes_of, kept.arrays)):
                for start in range(0, len(view), PIECE_BYTES):
                    piece = view[start : start + PIECE_BYTES]
                    digest.update(piece)
                    file.write(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            kind = NotEnoughDisk if error.errno == errno.ENOSPC else GptOssError
            raise kind(
                f"{path} cannot be written ({error.strerror}); expected room for {kept.nbytes / 1e6:,.0f} MB; without "
                "it the conversation is read anew when it is resumed"
            ) from error
        raise
    _sync_folder(path.parent)
    return size


def read_kv_file(path: Path) -> KVRecord:
    """The record in `path`. Raises UnusableKV, with the reason, for anything but a whole file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableKV(f"it cannot be read ({error.strerror})") from error
    if not content.startswith(MAGIC):
        raise UnusableKV("it is no KV file of this version")
    view = memoryview(content)
    if (
        len(view) < len(MAGIC) + 8 + DIGEST_BYTES
        or hashlib.sha256(view[:-DIGEST_BYTES]).digest() != (view[-DIGEST_BYTES:])
    ):
        raise UnusableKV("it is damaged or not whole")
    try:
        return _parse(view[len(MAGIC) : -DIGEST_BYTES])
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise UnusableKV(f"its header makes no sense ({error!r})") from error


def _parse(view: memoryview) -> KVRecord:
    end = 8 + int.from_bytes(view[:8], "little")
    values = json.loads(bytes(view[8:end]))
    arrays = []
    for name, shape in values["arrays"]:
        if name not in _DTYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"an array of {name} {shape}")
        dtype = np.dtype(name).newbyteorder("<")
        start, end = end, end + prod(shape) * dtype.itemsize
        arrays.append(np.frombuffer(view[start:end], dtype=dtype).reshape(shape).astype(name, copy=False))
    if end != len(view):
        raise ValueError(f"{len(view) - end} bytes too many")
    return KVRecord(
        str(values["model"]),
        str(values["dtype"]),
        values["bits"],
        int(values["start"]),
        tuple(map(int, values["ends"])),
        tuple((int(position), tuple(map(int, oldest))) for position, oldest in values["places"]),
        tuple(arrays),
    )


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def _sync_folder(folder: Path) -> None:
    """Has the folder's entries on the disk, where the system can be asked for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
