"""Makes files of the result out of what lands, as soon as their bytes are here; they count when these were right.

    passed      the bytes of a file have come: it is filled where the download did not, and hashed, under its .tmp name
    verified    all of its shards had the hub's checksum: it is made durable, gets its name, and is noted

A shard that turns out to be wrong comes again, and what was made of it is forgotten. Owns: the unfinished files of the
result. Does not own: the shards (`landing`).
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Final

from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.fetch import Stopped
from gptoss_mlx.convert.homes import HELD_SUFFIX
from gptoss_mlx.convert.pieces import Waiting, tensor_pieces
from gptoss_mlx.convert.plan import PlannedFile
from gptoss_mlx.convert.writer import UNFINISHED_SUFFIX, Notes, give_name
from gptoss_mlx.errors import WeightsError
from gptoss_mlx.manifest import FileRecord
from gptoss_mlx.tensor_source import TensorSource

WAIT_SECONDS: Final = 0.1
"""How often somebody who waits looks whether all is over."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """A file whose bytes are all in place, of shards that may yet turn out to be wrong."""

    result: FileRecord | WeightsError
    attempts: Mapping[Path, int]
    """Which attempt of each shard it was made of."""


class Finisher:
    """What becomes of the plan's files. Several threads `work`; others tell how far the shards are."""

    def __init__(self, plan: DownloadPlan, notes: Notes, halt: Stopped, drop: Callable[[Path], None]) -> None:
        """`drop` is told of each shard that no unfinished file needs any more."""
        self._plan = plan
        self._checkpoint = replace(plan.checkpoint, entries=plan.homes.entries)
        self._notes = notes
        self._halt = halt
        self._drop = drop
        self.changed = Condition()
        """Notified whenever something moves."""
        self.records = dict(plan.done)
        """Of the finished files."""
        self._passed: dict[Path, int] = {}
        self._attempts: dict[Path, int] = {step.shard.path: 0 for step in plan.steps}
        self._verified: set[Path] = set()
        self._open = [file for step in plan.steps for file in step.writes]
        """Files that are not finished, in the order in which they can be."""
        self._busy: set[str] = set()
        self._filled: dict[str, _Filled] = {}
        self._written: dict[str, int] = {}
        """Bytes of each unfinished file that are in place and hashed."""

    @property
    def converted_bytes(self) -> int:
        """Bytes of the result that are in place and hashed."""
        with self.changed:
            return sum(record.bytes for record in self.records.values()) + sum(self._written.values())

    @property
    def finished_steps(self) -> int:
        """How many of the first steps have all their files finished."""
        with self.changed:
            for number, step in enumerate(self._plan.steps):
                if any(file.name not in self.records for file in step.writes) or step.shard.path not in self._verified:
                    return number
            return len(self._plan.steps)

    # What lands

    def begun(self, shard: Path) -> None:
        """An attempt to bring `shard` begins; what was made of the one before is forgotten."""
        with self.changed:
            self._attempts[shard] += 1
            self._passed[shard] = 0

    def passed(self, shard: Path, count: int) -> None:
        """The first `count` bytes of `shard` are where they belong."""
        with self.changed:
            self._passed[shard] = count
            self.changed.notify_all()

    def verified(self, shard: Path) -> None:
        """`shard` has the hub's checksum, durably."""
        with self.changed:
            self._verified.add(shard)
            self.changed.notify_all()

    # What is made of it

    def work(self) -> None:
        """Fills and finishes files until there are none left. Raises what went wrong, or `Cancelled`."""
        while (task := self._next_task()) is not None:
            file, filled = task
            if filled is None:
                attempts = {path: self._attempts[path] for path in self._plan.homes.last_bytes[file.name]}
                result = self._fill(file)
                with self.changed:
                    self._filled[file.name] = _Filled(result, attempts)
            elif isinstance(filled.result, WeightsError):
                raise filled.result
            else:
                self._finish(file, filled.result)
            with self.changed:
                self._busy.discard(file.name)
                self.changed.notify_all()

    def _next_task(self) -> tuple[PlannedFile, _Filled | None] | None:
        """A file to finish, or one to fill; None when all are finished."""
        with self.changed:
            while True:
                self._halt.check()
                if not self._open:
                    return None
                for file in self._open:
                    if file.name in self._busy:
                        continue
                    needs = self._plan.homes.last_bytes[file.name]
                    filled = self._filled.get(file.name)
                    if filled is not None and any(self._attempts[path] != n for path, n in filled.attempts.items()):
                        filled = None
                    ready = (
                        all(self._passed.get(path, 0) >= last for path, last in needs.items())
                        if filled is None
                        else needs.keys() <= self._verified
                    )
                    if ready:
                        self._busy.add(file.name)
                        return file, filled
                self.changed.wait(WAIT_SECONDS)

    def _fill(self, file: PlannedFile) -> FileRecord | WeightsError:
        """Puts what is missing of `file` in its place, and hashes all of it.

        A value that is not finite may be that of a damaged shard, so it is no error yet.
        """
        tensors = TensorSource(self._checkpoint)
        digest = hashlib.sha256(file.header)
        position = len(file.header)
        waiting: Waiting = {}
        out = os.open(self._plan.partial / (file.name + UNFINISHED_SUFFIX), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            _write_at(out, memoryview(file.header), 0)
            for tensor in file.tensors:
                for piece in tensor_pieces(tensor, tensors, waiting):
                    self._halt.check()
                    digest.update(piece.data)
                    if tensor.name not in self._plan.homes.in_place:
                        _write_at(out, piece.data, position)
                    position += len(piece)
                    with self.changed:
                        self._written[file.name] = position
            os.ftruncate(out, file.nbytes)
        except WeightsError as error:
            return error
        finally:
            os.close(out)
            tensors.close()
        assert position == file.nbytes, f"{file.name} has {position} bytes; {file.nbytes} were planned"
        return FileRecord(position, digest.hexdigest())

    def _finish(self, file: PlannedFile, record: FileRecord) -> None:
        give_name(self._plan.partial, file.name)
        self._notes.add(file.name, record)
        (self._plan.folder / (file.name + HELD_SUFFIX)).unlink(missing_ok=True)
        last_bytes = self._plan.homes.last_bytes
        with self.changed:
            self.records[file.name] = record
            self._written.pop(file.name, None)
            self._open.remove(file)
            needed = {path for other in self._open for path in last_bytes[other.name]}
        for path in last_bytes[file.name].keys() - needed:
            self._drop(path)


def _write_at(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
