"""Where the bytes of a file of the hub lie on this disk: all in one file, or each tensor's where the result has it.

    shard      | header | q | k | v | gate_up blocks | …
                   |      \\   |   /         |
    run            |        one after the other in layer-03.safetensors.tmp
                 SHARD.part

A file is a row of runs without gaps. Written so, a tensor that the result holds as the hub does is written once, and
the disk never holds it twice. Owns: which byte lies where, and the descriptors. Does not own: which bytes are there
(`part`), or which run goes where (`homes`).
"""

import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.convert.writer import UNFINISHED_SUFFIX, sync_folder


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes `start` to `end` of a file of the hub, which lie in `path` from `offset` on."""

    start: int
    end: int
    path: Path
    offset: int
    given: bool = False
    """Whether they are part of a finished file: there already, and never written to."""
    spent: bool = False
    """Whether the file of the result that they were for is finished: nobody needs them any more."""


class Places:
    """All runs of one file of the hub. May be used by several threads at once."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = tuple(sorted(runs, key=lambda run: run.start))
        self._starts = [run.start for run in self.runs]
        self._files: dict[Path, int] = {}
        self._dirty: set[Path] = set()
        self._writing = 0
        """Threads that are inside `write`."""
        self._closed = False
        self._changed = threading.Condition()

    @property
    def identity(self) -> str:
        """The same for the same places, whether the files there are finished or not."""
        facts = [(run.start, run.end, run.path.name.removesuffix(UNFINISHED_SUFFIX), run.offset) for run in self.runs]
        return f"{zlib.crc32(repr(facts).encode()):08x}"

    def run_at(self, position: int) -> Run:
        """The run that holds that byte."""
        return self.runs[bisect_right(self._starts, position) - 1]

    def write(self, position: int, data: memoryview) -> None:
        """Writes `data`, which ends where its run does or before. Raises ValueError once the places are closed."""
        run = self.run_at(position)
        assert not run.given
        assert position + len(data) <= run.end
        with self._changed:
            file = self._open(run)
            # Before the bytes: whoever syncs in between does so once too often, not once too seldom.
            self._dirty.add(run.path)
            self._writing += 1
        try:
            offset = run.offset + position - run.start
            while data:
                written = os.pwrite(file, data, offset)
                data, offset = data[written:], offset + written
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()

    def read(self, start: int, buffer: memoryview) -> bool:
        """Fills `buffer` with the bytes from `start` on, of one run; False when they are not there."""
        run = self.run_at(start)
        try:
            with self._changed:
                file = self._open(run)
        except FileNotFoundError:
            return False
        offset = run.offset + start - run.start
        while buffer:
            count = os.preadv(file, [buffer], offset)
            if count == 0:
                return False
            buffer, offset = buffer[count:], offset + count
        return True

    def sync(self) -> None:
        """Makes what was written outlive a power cut."""
        with self._changed:
            dirty, self._dirty = self._dirty, set()
            files = [self._files[path] for path in dirty]
        for file in files:
            os.fsync(file)
        for folder in {path.parent for path in dirty}:
            sync_folder(folder)

    def close(self) -> None:
        """Closes the files, when whoever writes is through; a thread that comes later does not write any more."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._writing == 0)
            for file in self._files.values():
                os.close(file)
            self._files.clear()
            self._dirty.clear()

    def _open(self, run: Run) -> int:
        if self._closed:
            raise ValueError("the places are closed")
        if run.path not in self._files:
            flags = os.O_RDONLY if run.given else os.O_RDWR | os.O_CREAT
            self._files[run.path] = os.open(run.path, flags, 0o644)
        return self._files[run.path]
