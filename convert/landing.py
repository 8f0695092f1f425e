"""Carries out a download plan: shards land, are verified, become files of the result.

One thread brings the shards, two fill and finish the result's files; the caller's thread watches and tells how far they
are. Whatever stops them, everything that is there is noted, and the next plan begins there.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Literal

from gptoss_mlx.convert.conversion import read_small_files
from gptoss_mlx.convert.destination import begin
from gptoss_mlx.convert.download_plan import LISTING_NAME, DownloadPlan, read_listing
from gptoss_mlx.convert.fetch import FetchOptions, Limiter, Stopped, fetch_file, fetch_to_places
from gptoss_mlx.convert.finishing import Finisher
from gptoss_mlx.convert.homes import HELD_SUFFIX, header_run
from gptoss_mlx.convert.hub import RemoteFile, cached_file
from gptoss_mlx.convert.hub_cache import keep_file, link_file, note_reference
from gptoss_mlx.convert.mend import take_over
from gptoss_mlx.convert.part import JOURNAL_SUFFIX, PART_SUFFIX, GivenGone, Part
from gptoss_mlx.convert.remote_shards import DISTRUSTED_NAME, HEADER_SUFFIX, Shard
from gptoss_mlx.convert.writer import UNFINISHED_SUFFIX, sync_folder, write_small_file
from gptoss_mlx.errors import Cancelled, ChecksumError
from gptoss_mlx.manifest import FileRecord

PIECE_BYTES: Final = 4 << 20
"""Of a file in the hub's cache that is hashed, read at a time."""

REPORT_SECONDS: Final = 0.1
"""How often progress is told."""

WORKERS: Final = 2
"""Files that are filled at a time."""

State = Literal["waiting", "downloading", "verifying", "here", "done"]
"""What happens to a file: `here` is verified, `done` when all that is made of it is finished, too."""


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

    state: Literal["checking", "waiting", "working", "done"]
    """`checking`: a model that is here is read, `converted_bytes` of `convert_bytes`; `waiting`: another process
    downloads the same model."""
    files: tuple[FileProgress, ...]
    """Shards, in the order in which they come."""
    downloaded_bytes: int
    download_bytes: int
    converted_bytes: int
    convert_bytes: int
    stalled: str | None = None
    """Why nothing has come from the network for some seconds; None while something does, or nothing has to."""


class PlanStale(Exception):
    """Something that the plan relies on turned out to be otherwise; a new plan knows better."""

    def __init__(self, message: str, files: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.files = files
        """Finished files of the result that were relied on."""


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
        self._failure: BaseException | None = None
        self._halt = Stopped()
        """Ends all threads: the caller's wish, or a failure."""
        self._parts: dict[str, Part] = {}
        self._checked: dict[str, int] = {}
        self._states: dict[Path, State] = {step.shard.path: "waiting" for step in plan.steps}
        """As they were told last."""
        self._moves: SimpleQueue[tuple[Path, State] | None] = SimpleQueue()
        """States that are to be told yet, each of them; None when a thread ends."""

    def run(self) -> tuple[dict[str, FileRecord], dict[str, bytes]]:
        """The records of the result's files and the small files' content.

        Raises what ended it, `PlanStale`, or `Cancelled`.
        """
        notes = begin(self._plan.partial, self._plan.identity)
        self._finisher = Finisher(self._plan, notes, self._halt, self._drop)
        take_over(self._plan.good, self._plan.target, self._plan.partial, notes)
        self._prepare_folder()
        self._bring_small_files()
        small = read_small_files(self._plan.checkpoint, None)
        work = {"bring": self._bring, **{f"finish-{number}": self._finisher.work for number in range(WORKERS)}}
        threads = [
            threading.Thread(target=self._guarded, args=(function,), name=f"gptoss-{name}", daemon=True)
            for name, function in work.items()
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and self._failure is None:
                self._stopped.check()
                self._tell(REPORT_SECONDS)
        finally:
            self._halt.set()
            for thread in threads:
                thread.join(5)
        if self._failure is not None:
            raise self._failure
        while not self._moves.empty():
            self._tell(REPORT_SECONDS)
        if self._plan.keep_download:
            note_reference(self._plan.listing)
        return {file.name: self._finisher.records[file.name] for file in self._plan.files}, small

    # The threads

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            if self._failure is None and not (self._halt() and isinstance(error, Cancelled)):
                self._failure = error
            self._halt.set()
        finally:
            self._moves.put(None)

    def _bring(self) -> None:
        """Shard after shard; while one is made durable, the next one comes."""
        ahead = 1 if self._plan.overlap else 0
        with ThreadPoolExecutor(1, thread_name_prefix="gptoss-seal") as sealer:
            for number, step in enumerate(self._plan.steps):
                while self._finisher.finished_steps < number - ahead:
                    self._halt.check()
                    with self._finisher.changed:
                        self._finisher.changed.wait(REPORT_SECONDS)
                part = self._bring_shard(step.shard)
                sealer.submit(self._guarded, partial(self._seal, step.shard, part))

    def _bring_shard(self, shard: Shard) -> Part | None:
        if shard.cached:
            self._moves.put((shard.path, "verifying"))
            self._check_cached(shard)
            if self._plan.keep_download:
                link_file(self._plan.listing, shard.file, shard.path)
            return None
        self._moves.put((shard.path, "verifying" if shard.path in self._plan.whole else "downloading"))
        if shard.kept:
            self._fetch_to_cache(shard)
            return None
        return self._fetch_shard(shard)

    def _seal(self, shard: Shard, part: Part | None) -> None:
        """Makes a shard that has the hub's checksum durable, and lets it count."""
        if part is not None:
            part.note_verified()
        header_file = shard.path if shard.stays else header_run(shard.path, len(shard.header)).path
        with header_file.open("rb") as opened:
            if opened.read(len(shard.header)) != shard.header:
                # Only the whole file is verified; its beginning came by itself before, and not as it is.
                self._forget(shard)
                raise PlanStale(f"the header of {shard.file.name} was not the one that it has")
        self._moves.put((shard.path, "here"))
        self._finisher.verified(shard.path)

    def _fetch(self, file: RemoteFile, stopped: Stopped) -> Path:
        def begun(part: Part) -> None:
            self._parts[file.name] = part

        url, folder = self._plan.listing.url(file), self._plan.folder
        return fetch_file(url, folder, file, self._options, self._limiter, stopped, begun)

    def _fetch_to_cache(self, shard: Shard) -> None:
        self._finisher.begun(shard.path)
        keep_file(self._plan.listing, shard.file, self._fetch(shard.file, self._halt), move=True)
        # Whatever copy was damaged there, this one is not.
        trusted = self._plan.folder / DISTRUSTED_NAME
        if trusted.is_file():
            names = trusted.read_text(encoding="utf-8").split("\n")
            trusted.write_text("\n".join(name for name in names if name != shard.file.name), encoding="utf-8")
        self._finisher.passed(shard.path, shard.file.size)

    def _fetch_shard(self, shard: Shard) -> Part | None:
        def begun(part: Part) -> None:
            self._parts[shard.file.name] = part
            self._finisher.begun(shard.path)

        runs = self._plan.runs(shard)
        given = {run.path for run in runs if run.given}
        try:
            return fetch_to_places(
                self._plan.listing.url(shard.file),
                self._plan.folder,
                shard.file,
                runs,
                self._options,
                self._limiter,
                self._halt,
                begun,
                lambda count: self._finisher.passed(shard.path, count),
            )
        except (GivenGone, ChecksumError) as error:
            if not given:
                raise
            # Perhaps it is not what came that is wrong, but what was finished earlier.
            for path in given:
                path.unlink(missing_ok=True)
            raise PlanStale(
                f"what an earlier download left of {shard.file.name} is not as it was",
                frozenset(path.name for path in given),
            ) from error

    def _check_cached(self, shard: Shard) -> None:
        """Hashes a file of the hub's cache, which nobody did so far. Raises `PlanStale` when it is damaged."""
        self._finisher.begun(shard.path)
        digest = shard.file.digest()
        done = 0
        with shard.path.open("rb", buffering=0) as opened:
            while piece := opened.read(PIECE_BYTES):
                self._halt.check()
                digest.update(piece)
                done += len(piece)
                self._checked[shard.file.name] = done
                self._finisher.passed(shard.path, done)
        if digest.hexdigest() != shard.file.checksum:
            with (self._plan.folder / DISTRUSTED_NAME).open("a", encoding="utf-8") as distrusted:
                distrusted.write(f"{shard.file.name}\n")
            self._forget(shard)
            raise PlanStale(f"{shard.path} is damaged")

    def _drop(self, path: Path) -> None:
        """No file needs the shard at `path` any more."""
        self._moves.put((path, "done"))
        for suffix in (PART_SUFFIX, JOURNAL_SUFFIX):
            (self._plan.folder / (path.name + suffix)).unlink(missing_ok=True)

    def _forget(self, shard: Shard) -> None:
        """Removes every note about a shard, so that the next plan asks anew."""
        for suffix in (HEADER_SUFFIX, PART_SUFFIX, JOURNAL_SUFFIX):
            (self._plan.folder / (shard.file.name + suffix)).unlink(missing_ok=True)

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
                keep |= {file.name + suffix for suffix in ("", PART_SUFFIX, JOURNAL_SUFFIX)}
        unfinished = [file.name for file in self._plan.files if file.name not in self._plan.done]
        keep |= {name + HELD_SUFFIX for name in unfinished}
        for path in folder.iterdir():
            if path.name not in keep:
                path.unlink()
        for name in unfinished:
            # Named and not noted: killed in between. The journals say what of it is right.
            named = self._plan.partial / name
            if named.exists():
                named.rename(self._plan.partial / (name + UNFINISHED_SUFFIX))
        for name in self._plan.done:
            (self._plan.partial / (name + UNFINISHED_SUFFIX)).unlink(missing_ok=True)
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
            cached = cached_file(self._plan.listing, file)
            in_cache = cached is not None and file.matches(cached.read_bytes())
            if not path.is_file() or not file.matches(path.read_bytes()):
                path.unlink(missing_ok=True)
                others = (other for other in (cached, self._plan.target / name) if other is not None)
                contents = (content, *(other.read_bytes() for other in others if other.is_file()))
                good = next((known for known in contents if known is not None and file.matches(known)), None)
                if good is not None:
                    write_small_file(self._plan.folder, name, good)
                else:
                    self._fetch(file, self._stopped)
            if self._plan.keep_download and cached is not None and in_cache:
                link_file(self._plan.listing, file, cached)
            elif self._plan.keep_download:
                keep_file(self._plan.listing, file, path, move=False)

    # Progress

    def _tell(self, seconds: float) -> None:
        """Tells how far it is, after so long at most, at once when the state of a file changes."""
        with suppress(Empty):
            if (move := self._moves.get(timeout=seconds)) is not None:
                self._states[move[0]] = move[1]
        self._report(self._progress("working"))

    def _progress(self, state: Literal["waiting", "working", "done"]) -> DownloadProgress:
        files = tuple(self._file_progress(step.shard) for step in self._plan.steps)
        fetched = [file for file, step in zip(files, self._plan.steps, strict=True) if not step.shard.cached]
        gone = sum(
            shard.file.size for shard in self._plan.shards if not shard.cached and shard.path not in self._states
        )
        return DownloadProgress(
            state=state,
            files=files,
            downloaded_bytes=gone + sum(file.done_bytes for file in fetched),
            download_bytes=gone + sum(file.total_bytes for file in fetched),
            converted_bytes=self._finisher.converted_bytes,
            convert_bytes=sum(file.nbytes for file in self._plan.files),
            stalled=self._limiter.stalled if any(file.state == "downloading" for file in files) else None,
        )

    def _file_progress(self, shard: Shard) -> FileProgress:
        name, size = shard.file.name, shard.file.size
        state = self._states[shard.path]
        if state in ("here", "done") or (shard.path in self._plan.whole and not shard.cached):
            return FileProgress(name, size, size, state)
        if shard.cached:
            return FileProgress(name, size, self._checked.get(name, 0), state)
        part = self._parts.get(name)
        if part is None:
            return FileProgress(name, size, 0, state)
        done = part.done_bytes
        return FileProgress(name, size, done, "verifying" if done == size else state)
