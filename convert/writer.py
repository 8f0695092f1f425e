"""One file of a conversion: written under another name, hashed on the way, made durable, renamed, and noted.

The notes (`done.jsonl`) are what a conversion that goes on relies on: a file is noted only when its bytes and its name
are on the disk, and a note that was cut off by a crash is not believed.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.plan import PlannedFile
from gptoss_mlx.errors import Cancelled
from gptoss_mlx.manifest import FileRecord
from gptoss_mlx.tensor_source import Bytes

NOTES_NAME: Final = "done.jsonl"
"""Finished files of a conversion that is under way, one JSON object a line."""

UNFINISHED_SUFFIX: Final = ".tmp"
"""What a file's name ends in until all of it is written."""


class Notes:
    """Which files of a conversion are finished."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NOTES_NAME
        self._lock = threading.Lock()

    def read(self) -> dict[str, FileRecord]:
        """Every finished file that is still there with its size."""
        records: dict[str, FileRecord] = {}
        text = self._path.read_text(encoding="utf-8") if self._path.is_file() else ""
        for line in text.splitlines():
            try:
                noted = json.loads(line)
                record = FileRecord(noted["bytes"], noted["sha256"])
                path = self._path.parent / noted["file"]
            except (ValueError, KeyError, TypeError):
                # The last line of a process that was killed while it wrote.
                continue
            if path.is_file() and path.stat().st_size == record.bytes:
                records[path.name] = record
        return records

    def add(self, name: str, record: FileRecord) -> None:
        """Notes that the file `name` is finished."""
        line = json.dumps({"file": name, "bytes": record.bytes, "sha256": record.sha256})
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            # On a line of its own even after one that was cut off.
            file.write(f"\n{line}\n")
            file.flush()
            os.fsync(file.fileno())


def write_file(
    folder: Path, file: PlannedFile, pieces: Iterable[Bytes], *, stopped: threading.Event, wrote: Callable[[int], None]
) -> FileRecord:
    """Writes `file` with the bytes of `pieces` into `folder`; it has its name only when all of it is on the disk.

    `wrote` hears of every piece's size. Raises `Cancelled` once `stopped` is set, `OSError` when the disk is full.
    """
    unfinished = folder / (file.name + UNFINISHED_SUFFIX)
    digest = hashlib.sha256(file.header)
    with unfinished.open("wb", buffering=0) as out:
        _write_all(out.fileno(), memoryview(file.header))
        wrote(len(file.header))
        for piece in pieces:
            if stopped.is_set():
                raise Cancelled(f"the conversion was stopped while it wrote {file.name}")
            digest.update(piece.data)
            _write_all(out.fileno(), piece.data)
            wrote(len(piece))
        size = out.tell()
    assert size == file.nbytes, f"{file.name} has {size} bytes; {file.nbytes} were planned"
    give_name(folder, file.name)
    return FileRecord(size, digest.hexdigest())


def give_name(folder: Path, name: str) -> None:
    """Makes the unfinished file durable and gives it its name."""
    unfinished = folder / (name + UNFINISHED_SUFFIX)
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    unfinished.rename(folder / name)
    sync_folder(folder)


def write_small_file(folder: Path, name: str, content: bytes) -> FileRecord:
    """Writes a file that fits memory, durably, replacing one of that name."""
    with (folder / name).open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    return FileRecord(len(content), hashlib.sha256(content).hexdigest())


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
