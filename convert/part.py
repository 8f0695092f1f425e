"""A file that is being downloaded: its bytes at their `Places`, and in `NAME.journal` which of them are there.

    {"size": 4792272488, "checksum": "...", "places": "..."}     of what file, and where
    0 1048576 3f2a91c0                                           bytes 0 to 1048576 are there, with this CRC-32
    x 0                                                          ... and no longer, for they turned out to be others
    verified                                                     all were there, and had the hub's checksum

Nothing in the journal is taken on trust: the thread that hashes the file reads every extent of an earlier process back
and compares its CRC first. So it does not matter in which order the disk saw the files, nor where a kill or a power cut
fell; what does not fit is a gap again. Extents are one MiB, or what is left of a run: that much is lost of each
connection when the process is killed.
"""

import json
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.hub import RemoteFile
from gptoss_mlx.convert.places import Places, Run
from gptoss_mlx.convert.writer import sync_folder

PART_SUFFIX: Final = ".part"
JOURNAL_SUFFIX: Final = ".journal"
VERIFIED_LINE: Final = "verified"

EXTENT_BYTES: Final = 1 << 20
"""What is noted at a time."""

POLL_SECONDS: Final = 0.1
"""How often somebody who waits for bytes looks whether all is over."""


def part_run(folder: Path, file: RemoteFile) -> Run:
    """Where the bytes of a file go that is kept in one piece."""
    return Run(0, file.size, folder / (file.name + PART_SUFFIX), 0)


class Journal:
    """What an earlier process noted about a file of the hub. Reads; never writes."""

    def __init__(self, folder: Path, file: RemoteFile, places: Places) -> None:
        self.path = folder / (file.name + JOURNAL_SUFFIX)
        self.header = {"size": file.size, "checksum": file.checksum, "places": places.identity}
        """Its first line."""
        self._size = file.size
        self._runs = places.runs
        self.extents: dict[int, tuple[int, int]] = {}
        """First byte -> the one after the last, CRC-32."""
        self.verified = False
        """Whether all bytes had the hub's checksum once."""
        self.found = False
        """Whether there is one of this file and these places."""
        try:
            lines = self.path.read_text(encoding="ascii").splitlines()
            self.found = json.loads(lines[0]) == self.header
        except (OSError, ValueError, IndexError):
            return
        if self.found:
            for line in lines[1:]:
                self._take(line.split())
            self._drop_misplaced(places)

    @property
    def missing_bytes(self) -> int:
        """What has to come yet."""
        given = sum(run.end - run.start for run in self._runs if run.given)
        return self._size - given - sum(end - start for start, (end, _) in self.extents.items())

    @property
    def is_whole(self) -> bool:
        """Whether nothing has to come: all is there, or was, and was right."""
        if not self.found:
            return False
        return self.missing_bytes == 0 or (self.verified and self.covers_needed())

    def covers_needed(self) -> bool:
        """Whether every byte that somebody needs yet is noted."""
        noted = sorted((start, end) for start, (end, _) in self.extents.items())
        position = 0
        for run in self._runs:
            position = max(position, run.start)
            while noted and noted[0][0] < run.end:
                start, end = noted.pop(0)
                position = end if start == position else position
            if position < run.end and not (run.given or run.spent):
                return False
        return True

    def _take(self, words: list[str]) -> None:
        try:
            if words == [VERIFIED_LINE]:
                self.verified = True
            elif words[:1] == ["x"]:
                self.extents.pop(int(words[1]), None)
                self.verified = False
            elif len(words) == 3 and len(words[2]) == 8:
                self.extents[int(words[0])] = int(words[1]), int(words[2], 16)
        except (ValueError, IndexError):
            # The last line of a process that was killed while it wrote.
            return

    def _drop_misplaced(self, places: Places) -> None:
        """Drops what overlaps, is too long, crosses a run's end or needs no note."""
        position = 0
        for start, (end, _) in sorted(self.extents.items()):
            run = places.run_at(start) if 0 <= start < self._size else None
            fits = run is not None and not run.given and position <= start < end <= min(run.end, start + EXTENT_BYTES)
            if fits:
                position = end
            else:
                del self.extents[start]


class Part:
    """The unfinished `file`. Several threads may write to it, each through a `Writer` of its own."""

    def __init__(self, folder: Path, file: RemoteFile, runs: Sequence[Run] | None = None) -> None:
        """`runs` say where the bytes go; without them all go to `folder / NAME.part`, which `finish` renames."""
        self.file = file
        self.target = folder / file.name
        self.path = folder / (file.name + PART_SUFFIX)
        self.places = Places([part_run(folder, file)] if runs is None else runs)
        self.changed = threading.Condition()
        """Notified whenever an extent comes or goes."""
        self._claimed: list[tuple[int, int]] = []
        """Ranges that somebody fetches now."""
        self._own: set[int] = set()
        """Extents that this process wrote, by their first byte: the disk did not forget them."""
        self._closed = False
        self._syncing = threading.Lock()
        journal = Journal(folder, file, self.places)
        self._journal_path = journal.path
        if not journal.found:
            self.discard()
        self._extents = journal.extents
        self.was_verified = journal.verified and journal.covers_needed()
        """Whether an earlier process found all of it to be right, and all that is needed of it is noted."""
        self.path.touch()
        self._given = sum(run.end - run.start for run in self.places.runs if run.given)
        self._journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if not journal.found:
            os.write(self._journal, json.dumps(journal.header).encode())
        # On a line of its own even after one that was cut off.
        os.write(self._journal, b"\n")

    @property
    def done_bytes(self) -> int:
        """Bytes that are there."""
        with self.changed:
            return self._given + sum(end - start for start, (end, _) in self._extents.items())

    # Fetching

    def claim(self, most_bytes: int) -> tuple[int, int] | None:
        """The first range that is neither there nor being fetched, of `most_bytes` at most; None when there is none."""
        with self.changed:
            taken = [(start, end) for start, (end, _) in self._extents.items()]
            taken += [(run.start, run.end) for run in self.places.runs if run.given]
            position = 0
            for start, end in [*sorted([*taken, *self._claimed]), (self.file.size, self.file.size)]:
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
            self._own.add(start)
            self.changed.notify_all()

    def sync(self) -> None:
        """Makes what is written and noted outlive a power cut."""
        with self._syncing:
            if not self._closed:
                self.places.sync()
                os.fsync(self._journal)

    # Hashing and the end

    def hash_all(self, ended: Callable[[], bool], passed: Callable[[int], None] | None = None) -> str | None:
        """The checksum of the whole file, hashed as its bytes come; None when `ended()` is true before.

        `passed` is told how far it is.
        """
        digest = self.file.digest()
        hashed = 0
        buffer = memoryview(bytearray(min(EXTENT_BYTES, self.file.size)))
        while hashed < self.file.size:
            if ended():
                return None
            end = self._next_extent(hashed)
            if end is None:
                continue
            piece = buffer[: end - hashed]
            if not self._is_right(hashed, piece):
                self._forget(hashed)
                continue
            digest.update(piece)
            hashed = end
            if passed is not None:
                passed(hashed)
        return str(digest.hexdigest())

    def check_needed(self, ended: Callable[[], bool]) -> bool:
        """Whether all that is needed yet of a part that was verified once is still as it was."""
        buffer = memoryview(bytearray(EXTENT_BYTES))
        whole = True
        for start, (end, _) in sorted(self._extents.items()):
            if ended():
                return False
            if not self.places.run_at(start).spent and not self._is_right(start, buffer[: end - start]):
                self._forget(start)
                whole = False
        return whole

    def note_verified(self) -> None:
        """Notes, durably, that all of it was found to be right, and closes it."""
        self.sync()
        os.write(self._journal, f"{VERIFIED_LINE}\n".encode())
        os.fsync(self._journal)
        self.close()

    def finish(self) -> None:
        """Gives the file its name; its bytes were found to be right, and lie in one file."""
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
                self.places.close()
                os.close(self._journal)

    def discard(self) -> None:
        """Removes what is there; bytes at their places are forgotten and will be written over."""
        self._journal_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _next_extent(self, position: int) -> int | None:
        """Where the bytes that are there from `position` on end, or what may be read of them; waits a little first."""
        run = self.places.run_at(position)
        if run.given:
            return min(run.end, position + EXTENT_BYTES)
        with self.changed:
            extent = self._extents.get(position)
            if extent is None:
                self.changed.wait(POLL_SECONDS)
                return None
            return extent[0]

    def _is_right(self, start: int, piece: memoryview) -> bool:
        """Reads `piece` from `start` on; whether it is what was noted."""
        if not self.places.read(start, piece):
            return False
        if self.places.run_at(start).given or start in self._own:
            return True
        return zlib.crc32(piece) == self._extents[start][1]

    def _forget(self, start: int) -> None:
        with self.changed:
            if start not in self._extents:
                # Of a finished file that is not as long as it was.
                raise GivenGone(self.places.run_at(start).path)
            del self._extents[start]
            self._own.discard(start)
            os.write(self._journal, f"x {start}\n".encode())
            self.changed.notify_all()


class GivenGone(Exception):
    """A finished file that bytes were to be read from is not as it was."""


class Writer:
    """Writes one claimed range of a part, from its beginning on."""

    def __init__(self, part: Part, start: int) -> None:
        self._part = part
        self._noted = start
        self.position = start
        """Where the next byte goes."""
        self._crc = 0
        self._until = self._extent_end()

    def write(self, data: memoryview) -> None:
        """Writes `data`, and notes each extent that is full."""
        while data:
            piece = data[: self._until - self.position]
            self._part.places.write(self.position, piece)
            self._crc = zlib.crc32(piece, self._crc)
            self.position += len(piece)
            if self.position == self._until:
                self._note()
            data = data[len(piece) :]

    def close(self) -> None:
        """Notes the rest."""
        if self.position > self._noted:
            self._note()

    def _extent_end(self) -> int:
        if self._noted >= self._part.file.size:
            return self._noted
        return min(self._part.places.run_at(self._noted).end, self._noted + EXTENT_BYTES)

    def _note(self) -> None:
        self._part.note(self._noted, self.position, self._crc)
        self._noted, self._crc = self.position, 0
        self._until = self._extent_end()
