"""A file that is being downloaded: its bytes in `NAME.part`, and in `NAME.journal` which of them are there.

    {"size": 4792272488, "checksum": "..."}     of what file
    0 1048576 3f2a91c0                          bytes 0 to 1048576 are there, with this CRC-32
    x 0                                         ... and no longer, for they turned out to be others

Nothing in the journal is taken on trust: the thread that hashes the file reads every extent back and compares its CRC
first. So it does not matter in which order the disk saw the two files, nor where a kill or a power cut fell; what does
not fit is a gap again. Extents are one MiB: that much is lost of each connection when the process is killed.
"""

import json
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.hub import RemoteFile
from gptoss_mlx.convert.writer import sync_folder

PART_SUFFIX: Final = ".part"
JOURNAL_SUFFIX: Final = ".journal"

EXTENT_BYTES: Final = 1 << 20
"""What is noted at a time."""

POLL_SECONDS: Final = 0.1
"""How often somebody who waits for bytes looks whether all is over."""


class Part:
    """The unfinished `folder / file.name`. Several threads may write to it, each through a `Writer` of its own."""

    def __init__(self, folder: Path, file: RemoteFile) -> None:
        self.file = file
        self.target = folder / file.name
        self.path = folder / (file.name + PART_SUFFIX)
        self._journal_path = folder / (file.name + JOURNAL_SUFFIX)
        self.changed = threading.Condition()
        """Notified whenever an extent comes or goes."""
        self._extents: dict[int, tuple[int, int]] = {}
        """First byte -> the one after the last, CRC-32."""
        self._claimed: list[tuple[int, int]] = []
        """Ranges that somebody fetches now."""
        self._closed = False
        self._syncing = threading.Lock()
        if not self._read_journal():
            self.discard()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if not self._extents:
            os.truncate(self._journal, 0)
            header = json.dumps({"size": file.size, "checksum": file.checksum})
            os.write(self._journal, header.encode())
        # On a line of its own even after one that was cut off.
        os.write(self._journal, b"\n")

    @property
    def done_bytes(self) -> int:
        """Bytes that are noted."""
        with self.changed:
            return sum(end - start for start, (end, _) in self._extents.items())

    # Fetching

    def claim(self, most_bytes: int) -> tuple[int, int] | None:
        """The first range that is neither there nor being fetched, of `most_bytes` at most; None when there is none."""
        with self.changed:
            taken = sorted([*((start, end) for start, (end, _) in self._extents.items()), *self._claimed])
            position = 0
            for start, end in [*taken, (self.file.size, self.file.size)]:
                if start > position:
                    claim = (position, min(start, position + most_bytes))
                    self._claimed.append(claim)
                    return claim
                position = max(position, end)
            return None

    def release(self, claim: tuple[int, int]) -> None:
        """Gives back what `claim` took; what was written of it stays."""
        with self.changed:
            self._claimed.remove(claim)
            self.changed.notify_all()

    def note(self, start: int, end: int, crc: int) -> None:
        """Notes that the bytes from `start` to `end` are written, unless the part is closed."""
        with self.changed:
            if self._closed:
                return
            os.write(self._journal, f"{start} {end} {crc:08x}\n".encode())
            self._extents[start] = (end, crc)
            self.changed.notify_all()

    def sync(self) -> None:
        """Makes what is written and noted outlive a power cut."""
        with self._syncing:
            if not self._closed:
                os.fsync(self._file)
                os.fsync(self._journal)

    # Hashing and the end

    def hash_all(self, ended: Callable[[], bool]) -> str | None:
        """The checksum of the whole file, hashed as its bytes come; None when `ended()` is true before."""
        digest = self.file.digest()
        hashed = 0
        while hashed < self.file.size:
            if ended():
                return None
            with self.changed:
                extent = self._extents.get(hashed)
                if extent is None:
                    self.changed.wait(POLL_SECONDS)
                    continue
            end, crc = extent
            piece = os.pread(self._file, end - hashed, hashed)
            if len(piece) != end - hashed or zlib.crc32(piece) != crc:
                with self.changed:
                    del self._extents[hashed]
                    os.write(self._journal, f"x {hashed}\n".encode())
                    self.changed.notify_all()
                continue
            digest.update(piece)
            hashed = end
        return str(digest.hexdigest())

    def finish(self) -> None:
        """Gives the file its name; its bytes were found to be right."""
        os.ftruncate(self._file, self.file.size)
        self.sync()
        self.close()
        self.path.rename(self.target)
        self._journal_path.unlink()
        sync_folder(self.target.parent)

    def close(self) -> None:
        """Leaves it for another time; what a thread that is still at work notes then is not heard any more."""
        with self._syncing, self.changed:
            if not self._closed:
                self._closed = True
                os.close(self._file)
                os.close(self._journal)

    def discard(self) -> None:
        """Removes what is there."""
        self._extents.clear()
        self._journal_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _read_journal(self) -> bool:
        """Takes over the journal of an earlier process; False when there is none of this file."""
        try:
            lines = self._journal_path.read_text(encoding="ascii").splitlines()
            header = json.loads(lines[0])
            size = self.path.stat().st_size
        except (OSError, ValueError, IndexError):
            return False
        if header != {"size": self.file.size, "checksum": self.file.checksum}:
            return False
        for line in lines[1:]:
            words = line.split()
            try:
                if words[:1] == ["x"]:
                    self._extents.pop(int(words[1]), None)
                elif len(words) == 3 and len(words[2]) == 8:
                    start, end, crc = int(words[0]), int(words[1]), int(words[2], 16)
                    if 0 <= start < end <= min(size, start + EXTENT_BYTES):
                        self._extents[start] = (end, crc)
            except (ValueError, IndexError):
                # The last line of a process that was killed while it wrote.
                continue
        self._drop_overlaps()
        return True

    def _drop_overlaps(self) -> None:
        position = 0
        for start in sorted(self._extents):
            if start < position:
                del self._extents[start]
            else:
                position = self._extents[start][0]


class Writer:
    """Writes one claimed range of a part, from its beginning on, through a descriptor of its own."""

    def __init__(self, part: Part, start: int) -> None:
        self._part = part
        self._file = os.open(part.path, os.O_WRONLY)
        self._noted = start
        self.position = start
        """Where the next byte goes."""
        self._crc = 0

    def write(self, data: memoryview) -> None:
        """Writes `data`, and notes each MiB that is full."""
        while data:
            count = min(len(data), self._noted + EXTENT_BYTES - self.position)
            piece = data[:count]
            while piece:
                written = os.pwrite(self._file, piece, self.position)
                self._crc = zlib.crc32(piece[:written], self._crc)
                self.position += written
                piece = piece[written:]
            if self.position - self._noted == EXTENT_BYTES:
                self._note()
            data = data[count:]

    def close(self) -> None:
        """Notes the rest."""
        if self.position > self._noted:
            self._note()
        os.close(self._file)

    def _note(self) -> None:
        self._part.note(self._noted, self.position, self._crc)
        self._noted, self._crc = self.position, 0
