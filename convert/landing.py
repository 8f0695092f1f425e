"""Carries out a download plan: shards land, are verified, become files of the result, and go.

Two threads: one brings the shards, one converts; the caller's thread watches both and tells how far they are. Whatever
stops them, everything that is finished is noted, and the next plan begins there.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gptoss_mlx.convert.conversion import read_small_files
from gptoss_mlx.convert.destination import begin, write_files
from gptoss_mlx.convert.download_plan import (
    DISTRUSTED_NAME,
    HEADER_SUFFIX,
    LISTING_NAME,
    DownloadPlan,
    Shard,
    read_listing,
)
from gptoss_mlx.convert.fetch import FetchOptions, Limiter, Stopped, fetch_file
from gptoss_mlx.convert.hub import RemoteFile, cached_file
from gptoss_mlx.convert.part import Part
from gptoss_mlx.convert.writer import sync_folder, write_small_file
from gptoss_mlx.errors import Cancelled
from gptoss_mlx.manifest import FileRecord
from gptoss_mlx.tensor_source import TensorSource

PIECE_BYTES: Final = 4 << 20
"""Of a file in the hub's cache that is hashed, read at a time."""

REPORT_SECONDS: Final = 0.1
"""How often progress is told."""

State = Literal["waiting", "downloading", "verifying", "here", "done"]
"""What happens to a file: `here` is verified and waits to be converted, `done` is no longer needed."""


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How far one file of the hub is."""

    name: str
    total_bytes: int
    done_bytes: int
    """Downloaded, or, for a file of the hub's cache, hashed."""
    state: State


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is. The totals cover what earlier, stopped ones did."""

    state: Literal["waiting", "working", "done"]
    """`waiting`: another process downloads the same model."""
    files: tuple[FileProgress, ...]
    """Shards, in the order in which they come."""
    downloaded_bytes: int
    download_bytes: int
    converted_bytes: int
    convert_bytes: int


class PlanStale(Exception):
    """Something that the plan relies on turned out to be otherwise; a new plan knows better."""


class Landing:
    """One attempt to carry out a plan, under the lock of its folder."""

    def __init__(
        self,
        plan: DownloadPlan,
        options: FetchOptions,
        stopped: Stopped,
        report: Callable[[DownloadProgress], None],
    ) -> None:
        self._plan = plan
        self._options = options
        self._limiter = Limiter(options.bytes_per_second)
        self._stopped = stopped
        self._report = report
        self._changed = threading.Condition()
        self._landed = 0
        """Steps whose shard is there."""
        self._converted = 0
        """Steps that are done."""
        self._failure: BaseException | None = None
        self._halt = Stopped()
        """Ends both threads: the caller's wish, or a failure."""
        self._parts: dict[str, Part] = {}
        self._checked: dict[str, int] = {}
        self._states: dict[str, State] = {step.shard.file.name: "waiting" for step in plan.steps}
        self._converted_bytes = sum(record.bytes for record in plan.done.values())

    def run(self) -> tuple[dict[str, FileRecord], dict[str, bytes]]:
        """The records of the result's files and the small files' content.

        Raises what ended it, `PlanStale`, or `Cancelled`.
        """
        notes = begin(self._plan.partial, self._plan.identity)
        self._prepare_folder()
        self._bring_small_files()
        small = read_small_files(self._plan.checkpoint, None)
        records = dict(self._plan.done)

        def convert() -> None:
            for number, step in enumerate(self._plan.steps):
                self._wait_until(lambda number=number: self._landed > number)  # type: ignore[misc]
                tensors = TensorSource(self._plan.checkpoint)
                try:
                    records.update(
                        write_files(self._plan.partial, step.writes, tensors, notes, self._halt.event, self._wrote)
                    )
                finally:
                    tensors.close()
                for shard in step.drops:
                    self._drop(shard)
                with self._changed:
                    self._converted += 1
                    self._changed.notify_all()

        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"gptoss-{name}", daemon=True)
            for name, work in (("bring", self._bring), ("convert", convert))
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and self._failure is None:
                self._stopped.check()
                self._report(self._progress("working"))
                with self._changed:
                    self._changed.wait(REPORT_SECONDS)
        finally:
            self._halt.set()
            for thread in threads:
                thread.join(5)
        if self._failure is not None:
            raise self._failure
        self._report(self._progress("working"))
        return {file.name: records[file.name] for file in self._plan.files}, small

    # The threads

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self._changed:
                # That one was told to end says nothing; why it was, the other knows.
                if self._failure is None and not isinstance(error, Cancelled):
                    self._failure = error
                self._changed.notify_all()

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            while not condition():
                self._halt.check()
                self._changed.wait(REPORT_SECONDS)
        self._halt.check()

    def _bring(self) -> None:
        ahead = 1 if self._plan.overlap else 0
        for number, step in enumerate(self._plan.steps):
            self._wait_until(lambda number=number: number <= self._converted + ahead)  # type: ignore[misc]
            self._bring_shard(step.shard)
            with self._changed:
                self._landed += 1
                self._changed.notify_all()

    def _bring_shard(self, shard: Shard) -> None:
        name = shard.file.name
        if shard.cached:
            self._states[name] = "verifying"
            self._check_cached(shard)
        elif not shard.there:
            self._states[name] = "downloading"
            self._fetch(shard.file, self._halt)
        with shard.path.open("rb") as opened:
            if opened.read(len(shard.header)) != shard.header:
                # Only the whole file is verified; its beginning came by itself before, and not as it is.
                (self._plan.folder / (name + HEADER_SUFFIX)).unlink(missing_ok=True)
                raise PlanStale(f"the header of {name} was not the one that it has")
        self._states[name] = "here"

    def _fetch(self, file: RemoteFile, stopped: Stopped) -> None:
        def begun(part: Part) -> None:
            self._parts[file.name] = part

        fetch_file(self._plan.listing.url(file), self._plan.folder, file, self._options, self._limiter, stopped, begun)

    def _check_cached(self, shard: Shard) -> None:
        """Hashes a file of the hub's cache, which nobody did so far. Raises `PlanStale` when it is damaged."""
        digest = shard.file.digest()
        done = 0
        with shard.path.open("rb", buffering=0) as opened:
            while piece := opened.read(PIECE_BYTES):
                self._halt.check()
                digest.update(piece)
                done += len(piece)
                self._checked[shard.file.name] = done
        if digest.hexdigest() != shard.file.checksum:
            with (self._plan.folder / DISTRUSTED_NAME).open("a", encoding="utf-8") as distrusted:
                distrusted.write(f"{shard.file.name}\n")
            (self._plan.folder / (shard.file.name + HEADER_SUFFIX)).unlink(missing_ok=True)
            raise PlanStale(f"{shard.path} is damaged")

    def _drop(self, shard: Shard) -> None:
        self._states[shard.file.name] = "done"
        if not shard.cached:
            shard.path.unlink(missing_ok=True)

    def _wrote(self, count: int) -> None:
        with self._changed:
            self._converted_bytes += count

    # The folder

    def _prepare_folder(self) -> None:
        """Keeps what is of use of an earlier download, removes the rest, and notes what this one is about."""
        folder = self._plan.folder
        folder.mkdir(exist_ok=True)
        old = read_listing(folder)
        mine = set(self._plan.listing.files) & (set() if old is None else set(old.files))
        wanted = {step.shard.file.name for step in self._plan.steps}
        keep = {LISTING_NAME, DISTRUSTED_NAME}
        for file in mine:
            keep.add(file.name + HEADER_SUFFIX)
            if file.name in wanted or not file.name.endswith(".safetensors"):
                keep |= {file.name, file.name + ".part", file.name + ".journal"}
        for path in folder.iterdir():
            if path.name not in keep:
                path.unlink()
        for shard in self._plan.shards:
            write_small_file(folder, shard.file.name + HEADER_SUFFIX, shard.header)
        # Last, and by a rename: whoever reads it can rely on what lies beside it.
        write_small_file(folder, LISTING_NAME + ".new", self._plan.listing.to_json().encode())
        (folder / (LISTING_NAME + ".new")).rename(folder / LISTING_NAME)
        sync_folder(folder)

    def _bring_small_files(self) -> None:
        for name, content in self._plan.small.items():
            file = self._plan.listing.file(name)
            assert file is not None
            path = self._plan.folder / name
            if path.is_file() and file.matches(path.read_bytes()):
                continue
            path.unlink(missing_ok=True)
            if content is None and (cached := cached_file(self._plan.listing, file)) is not None:
                content = cached.read_bytes()
            if content is not None and file.matches(content):
                write_small_file(self._plan.folder, name, content)
            else:
                self._fetch(file, self._stopped)

    # Progress

    def _progress(self, state: Literal["waiting", "working", "done"]) -> DownloadProgress:
        files = tuple(self._file_progress(step.shard) for step in self._plan.steps)
        fetched = [file for file, step in zip(files, self._plan.steps, strict=True) if not step.shard.cached]
        gone = sum(
            shard.file.size for shard in self._plan.shards if not shard.cached and shard.file.name not in self._states
        )
        return DownloadProgress(
            state=state,
            files=files,
            downloaded_bytes=gone + sum(file.done_bytes for file in fetched),
            download_bytes=gone + sum(file.total_bytes for file in fetched),
            converted_bytes=self._converted_bytes,
            convert_bytes=sum(file.nbytes for file in self._plan.files),
        )

    def _file_progress(self, shard: Shard) -> FileProgress:
        name, size = shard.file.name, shard.file.size
        state = self._states[name]
        if state in ("here", "done") or (shard.there and not shard.cached):
            return FileProgress(name, size, size, state)
        if shard.cached:
            return FileProgress(name, size, self._checked.get(name, 0), state)
        part = self._parts.get(name)
        if part is None:
            return FileProgress(name, size, 0, state)
        done = part.done_bytes
        return FileProgress(name, size, done, "verifying" if done == size else state)
