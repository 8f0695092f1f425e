"""What a download will do, to the byte, before it does it: files, order, the fullest moment of the disk, the fit.

Everything follows from the listing, config.json and the shards' headers, a few hundred KB. A planned file of the result
is written when the last shard that it needs is there, and a shard is removed when no file needs it any more: so the
disk holds the result and little more than one shard, and the plan knows how much.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import Checkpoint, checkpoint_of
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert.destination import FINGERPRINT_NAME, SPARE_BYTES, finished_files
from gptoss_mlx.convert.fetch import FetchOptions, Stopped, fetch_range
from gptoss_mlx.convert.fit import Fit, make_fit
from gptoss_mlx.convert.hub import Listing, RemoteFile, cached_file, list_repository
from gptoss_mlx.convert.plan import PlannedFile, make_plan
from gptoss_mlx.convert.writer import Notes
from gptoss_mlx.device import this_device
from gptoss_mlx.errors import ChecksumError, DownloadError, UsageError, WeightsError
from gptoss_mlx.manifest import FileRecord, Source, SourceFile
from gptoss_mlx.safetensors_file import INDEX_NAME, header_length, parse_header, unite
from gptoss_mlx.settings import DOWNLOAD_NAME, PARTIAL_SUFFIX
from gptoss_mlx.tensor_source import TensorSource

LISTING_NAME: Final = "listing.json"
"""In the download folder: what is being downloaded."""

DISTRUSTED_NAME: Final = "distrusted"
"""In the download folder: names of files whose copy in the hub's cache was damaged, one a line."""

HEADER_SUFFIX: Final = ".header"
"""In the download folder: a shard's first bytes, which outlive the shard."""

FIRST_BYTES: Final = 128 << 10
"""Of a shard, asked for to read its header; enough for gpt-oss."""


LISTING_SECONDS: Final = 20.0
"""Somebody who is not on the net at all should not wait long to hear it."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of tensors."""

    file: RemoteFile
    header: bytes
    """Its length and text, as the file begins."""
    path: Path
    """Where it lies, or will."""
    cached: bool
    """Whether it lies in the user's cache of the hub, where it stays."""
    there: bool
    """Whether all of it is on this machine."""


@dataclass(frozen=True, slots=True)
class Step:
    """A shard, and what can be done once it is there."""

    shard: Shard
    writes: tuple[PlannedFile, ...]
    drops: tuple[Shard, ...]
    """Shards that no later step needs."""


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What a download will do."""

    target: Path
    """The finished model's folder."""
    listing: Listing
    dense_bits: int | None
    small: Mapping[str, bytes | None]
    """Files without tensors by name, and the content of those that were looked at."""
    shards: tuple[Shard, ...]
    checkpoint: Checkpoint
    files: tuple[PlannedFile, ...]
    """Of the result."""
    done: Mapping[str, FileRecord]
    """Files of the result that an earlier download finished."""
    steps: tuple[Step, ...]
    overlap: bool
    """Whether the disk has room for the next shard while one is converted."""
    fit: Fit

    @property
    def partial(self) -> Path:
        """The folder of the unfinished model."""
        return self.target.with_name(self.target.name + PARTIAL_SUFFIX)

    @property
    def folder(self) -> Path:
        """Where what is downloaded lies meanwhile."""
        return self.partial / DOWNLOAD_NAME

    @property
    def source(self) -> Source:
        """As the manifest names it, the same as of a conversion out of the hub's cache."""
        return Source(
            layout=self.checkpoint.layout,
            name=self.listing.repository.rsplit("/", 1)[-1],
            repository=self.listing.repository,
            revision=self.listing.commit,
            files={
                shard.file.name: SourceFile(shard.file.size, hashlib.sha256(shard.header).hexdigest())
                for shard in self.shards
            },
        )

    @property
    def identity(self) -> str:
        """What a stopped download must have in common with the one that goes on with it."""
        return _identity(self.shards, self.dense_bits)


def plan_download(
    target: Path,
    repository: str,
    revision: str | None,
    *,
    dense_bits: int | None,
    context: int,
    options: FetchOptions,
    stopped: Stopped,
) -> DownloadPlan:
    """The plan for `repository` to become `target`, with what an earlier download left there counted in.

    A download that was stopped goes on with the commit that it began with, unless `revision` says otherwise. Raises
    what `list_repository` raises, `ConfigError` and `WeightsError` for a repository that is no gpt-oss, `UsageError`.
    """
    folder = target.with_name(target.name + PARTIAL_SUFFIX) / DOWNLOAD_NAME
    begun = read_listing(folder)
    if begun is not None and begun.repository == repository and revision in (None, begun.commit):
        listing = begun
    else:
        listing = list_repository(
            repository,
            revision,
            give_up_seconds=min(options.give_up_seconds, LISTING_SECONDS),
            first_wait_seconds=options.first_wait_seconds,
            longest_wait_seconds=options.longest_wait_seconds,
        )
    reader = _Reader(listing, folder, begun, options, stopped)
    small: dict[str, bytes | None] = {
        file.name: None for file in listing.files if not file.name.endswith(".safetensors") and file.name != INDEX_NAME
    }
    small["config.json"] = reader.content("config.json")
    config = ModelConfig.from_dict(_read_json(small["config.json"], "config.json"), source=f"{repository}/config.json")
    if not 1 <= context <= config.max_position_embeddings:
        raise UsageError(f"context is {context}; expected 1 to {config.max_position_embeddings}")
    shards = tuple(reader.shard(file) for file in _weights(listing, reader))
    entries = unite(parse_header(shard.path, shard.header[8:], shard.file.size) for shard in shards)
    checkpoint = checkpoint_of(folder, config, entries)
    tensors = TensorSource(checkpoint)

    def files_of(bits: int | None) -> tuple[PlannedFile, ...]:
        return make_plan(tensors, config.num_hidden_layers, bits)

    files = files_of(dense_bits)
    notes_folder = folder.parent
    same = _noted_identity(notes_folder) == _identity(shards, dense_bits)
    done = finished_files(Notes(notes_folder), files) if same else {}
    steps = _make_steps(files, done, checkpoint, shards)
    present = _used_bytes(folder.parent)
    free = _free_bytes(folder)
    peaks = {
        overlap: max(_peak(steps, done, overlap) + _small_bytes(listing) + SPARE_BYTES - present, 0)
        for overlap in (True, False)
    }
    overlap = peaks[True] <= free
    missing = [step.shard for step in steps if not step.shard.there]
    fit = make_fit(
        target.name,
        config,
        this_device(),
        dense_bits=dense_bits,
        files_of=files_of,
        download_bytes=sum(shard.file.size - _part_bytes(shard) for shard in missing),
        disk_needed_bytes=peaks[overlap],
        disk_free_bytes=free,
        context=context,
    )
    return DownloadPlan(target, listing, dense_bits, small, shards, checkpoint, files, done, steps, overlap, fit)


def read_listing(folder: Path) -> Listing | None:
    """The listing that a stopped download in `folder` goes by."""
    try:
        return Listing.from_json((folder / LISTING_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _noted_identity(partial: Path) -> str | None:
    path = partial / FINGERPRINT_NAME
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _identity(shards: Sequence[Shard], dense_bits: int | None) -> str:
    facts = [[shard.file.name, shard.file.checksum, hashlib.sha256(shard.header).hexdigest()] for shard in shards]
    return hashlib.sha256(json.dumps([facts, dense_bits]).encode()).hexdigest()


def _read_json(content: bytes | None, name: str) -> dict[str, object]:
    try:
        values = json.loads(content or b"")
    except ValueError as error:
        raise DownloadError(f"{name} on the hub is not JSON ({error}); is this the right repository?") from error
    if not isinstance(values, dict):
        raise DownloadError(f"{name} on the hub holds no object; is this the right repository?")
    return values


def _weights(listing: Listing, reader: "_Reader") -> list[RemoteFile]:
    """The safetensors that make up the model: those in the index, or all."""
    files = {file.name: file for file in listing.files if file.name.endswith(".safetensors")}
    if listing.file(INDEX_NAME) is None:
        return list(files.values())
    names = _read_json(reader.content(INDEX_NAME), INDEX_NAME).get("weight_map")
    if not isinstance(names, dict) or not set(names.values()) <= set(files):
        raise DownloadError(
            f"{INDEX_NAME} of {listing.repository} names files that are not there; is this the right repository?"
        )
    return [files[name] for name in sorted(set(names.values()))]


class _Reader:
    """Small things that a plan needs, from the stopped download, the user's cache or the hub, whichever has them."""

    def __init__(
        self, listing: Listing, folder: Path, begun: Listing | None, options: FetchOptions, stopped: Stopped
    ) -> None:
        """`begun` is the listing that the files in `folder` belong to."""
        self._listing = listing
        self._folder = folder
        self._kept = set() if begun is None else set(begun.files)
        self._options = options
        self._stopped = stopped
        distrusted = folder / DISTRUSTED_NAME
        self._distrusted = distrusted.read_text(encoding="utf-8").split("\n") if distrusted.is_file() else []

    def content(self, name: str) -> bytes:
        """The small file's verified content."""
        file = self._listing.file(name)
        assert file is not None
        for path in (self._folder / name, cached_file(self._listing, file)):
            if path is not None and path.is_file():
                content = path.read_bytes()
                if file.matches(content):
                    return content
        for _ in range(2):
            content = self._fetch(file, 0, file.size)
            if file.matches(content):
                return content
        raise ChecksumError(f"{name} arrived with wrong bytes twice; run the same command again later")

    def shard(self, file: RemoteFile) -> Shard:
        """The shard, with its header."""
        cached = None if file.name in self._distrusted else cached_file(self._listing, file)
        path = self._folder / file.name if cached is None else cached
        mine = file in self._kept
        there = cached is not None or (mine and path.is_file() and path.stat().st_size == file.size)
        kept = self._folder / (file.name + HEADER_SUFFIX)
        known = kept if mine and kept.is_file() else path if there else None
        if known is not None:
            with known.open("rb") as opened:
                start = opened.read(8)
                header = start + opened.read(header_length(path, start, file.size))
            return Shard(file, header, path, cached is not None, there)
        try:
            header = self._fetch_header(file, path)
        except WeightsError:
            # Nothing verified these bytes so far. If they are the same again, it is the file that is so.
            header = self._fetch_header(file, path)
        return Shard(file, header, path, False, there)

    def _fetch_header(self, file: RemoteFile, path: Path) -> bytes:
        first = self._fetch(file, 0, min(FIRST_BYTES, file.size))
        length = 8 + header_length(path, first, file.size)
        if len(first) < length:
            first += self._fetch(file, len(first), length)
        parse_header(path, first[8:length], file.size)
        return first[:length]

    def _fetch(self, file: RemoteFile, start: int, end: int) -> bytes:
        return fetch_range(self._listing.url(file), file, start, end, self._options, self._stopped)


def _make_steps(
    files: Sequence[PlannedFile], done: Mapping[str, FileRecord], checkpoint: Checkpoint, shards: Sequence[Shard]
) -> tuple[Step, ...]:
    """In the order in which shards are fetched; shards that only finished files came from are left out."""
    by_path = {shard.path: shard for shard in shards}
    needs = {
        file.name: {
            by_path[checkpoint.entries[part.name].file].file.name
            for tensor in file.tensors
            for part in checkpoint.recipes[tensor.source.name].parts
        }
        for file in files
    }
    pending = [file for file in files if file.name not in done]
    wanted = {name for file in pending for name in needs[file.name]}
    # What is here already comes first: it frees the most, the earliest.
    order = sorted((shard for shard in shards if shard.file.name in wanted), key=lambda shard: not shard.there)
    here: dict[str, Shard] = {}
    seen: set[str] = set()
    steps = []
    for shard in order:
        here[shard.file.name] = shard
        seen.add(shard.file.name)
        writes = tuple(file for file in pending if needs[file.name] <= seen)
        pending = [file for file in pending if file not in writes]
        still = {name for file in pending for name in needs[file.name]}
        drops = tuple(shard for name, shard in here.items() if name not in still)
        here = {name: shard for name, shard in here.items() if name in still}
        steps.append(Step(shard, writes, drops))
    return tuple(steps)


def _peak(steps: Sequence[Step], done: Mapping[str, FileRecord], overlap: bool) -> int:
    """Bytes on the disk at the fullest moment."""
    written = sum(record.bytes for record in done.values())
    held = peak = 0
    for number, step in enumerate(steps):
        held += 0 if step.shard.cached else step.shard.file.size
        written += sum(file.nbytes for file in step.writes)
        following = steps[number + 1].shard if overlap and number + 1 < len(steps) else None
        ahead = 0 if following is None or following.cached else following.file.size
        peak = max(peak, written + held + ahead)
        held -= sum(shard.file.size for shard in step.drops if not shard.cached)
    return peak


def _part_bytes(shard: Shard) -> int:
    """About what an earlier download brought of it."""
    path = shard.path.with_name(shard.path.name + ".part")
    return min(path.stat().st_blocks * 512, shard.file.size) if path.is_file() else 0


def _small_bytes(listing: Listing) -> int:
    # Once as they come, once in the result.
    return 2 * sum(file.size for file in listing.files if not file.name.endswith(".safetensors"))


def _used_bytes(folder: Path) -> int:
    """What the files in `folder` take of the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _free_bytes(folder: Path) -> int:
    """What is free on the disk that `folder` is on, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(there).free
