"""What a download will do, to the byte, before it does it: files, order, places, how full the disk gets, the fit.

Everything follows from the listing, config.json and the shards' headers, a few hundred KB. A planned file of the result
is finished when the last shard that it needs is there and verified. The bytes lie where `homes` says: those of OpenAI's
own checkpoint at their places in the result, so that the disk never holds more than that.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import Checkpoint, checkpoint_of
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert.destination import FINGERPRINT_NAME, SPARE_BYTES, finished_files
from gptoss_mlx.convert.fetch import FetchOptions, Stopped
from gptoss_mlx.convert.fit import Fit, make_fit
from gptoss_mlx.convert.homes import Homes, header_run, make_homes
from gptoss_mlx.convert.hub import Listing, list_repository
from gptoss_mlx.convert.hub_cache import cache_folder
from gptoss_mlx.convert.part import Journal, part_run
from gptoss_mlx.convert.places import Places, Run
from gptoss_mlx.convert.plan import PlannedFile, make_plan
from gptoss_mlx.convert.remote_shards import Shard, ShardReader, read_json, weight_files
from gptoss_mlx.convert.steps import Step, disk_peak, largest_shard, make_steps
from gptoss_mlx.convert.there import Damage
from gptoss_mlx.convert.writer import Notes
from gptoss_mlx.device import this_device
from gptoss_mlx.errors import UsageError
from gptoss_mlx.manifest import FileRecord, Source, SourceFile
from gptoss_mlx.safetensors_file import INDEX_NAME, parse_header, unite
from gptoss_mlx.settings import DOWNLOAD_NAME, PARTIAL_SUFFIX
from gptoss_mlx.tensor_source import TensorSource

LISTING_NAME: Final = "listing.json"
"""In the download folder: what is being downloaded."""

LISTING_SECONDS: Final = 20.0
"""Somebody who is not on the net at all should not wait long to hear it."""


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
    whole: frozenset[Path]
    """Shards, by their paths, of which nothing has to come."""
    checkpoint: Checkpoint
    """With every tensor in its shard."""
    files: tuple[PlannedFile, ...]
    """Of the result."""
    done: Mapping[str, FileRecord]
    """Files of the result that an earlier download finished."""
    homes: Homes
    steps: tuple[Step, ...]
    overlap: bool
    """Whether the next shard comes while what one finishes is not finished yet."""
    keep_download: bool
    """Whether what comes is kept in the user's cache of the hub."""
    faults: tuple[str, ...]
    """What is wrong with the model at `target`, which this mends."""
    good: Mapping[str, FileRecord]
    """Files of it that are taken over."""
    fit: Fit

    @property
    def partial(self) -> Path:
        """The folder of the unfinished model."""
        return self.target.with_name(self.target.name + PARTIAL_SUFFIX)

    @property
    def folder(self) -> Path:
        """Where what is downloaded, or the notes about it, lie meanwhile."""
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
                shard.file.name: SourceFile(
                    shard.file.size, hashlib.sha256(shard.header).hexdigest(), shard.file.sha256
                )
                for shard in self.shards
            },
        )

    @property
    def identity(self) -> str:
        """What a stopped download must have in common with the one that goes on with it."""
        return _identity(self.shards, self.dense_bits)

    def runs(self, shard: Shard) -> tuple[Run, ...]:
        """Where the bytes of `shard` go."""
        return _runs(shard, self.homes)


def plan_download(
    target: Path,
    repository: str,
    revision: str | None,
    *,
    dense_bits: int | None,
    context: int,
    options: FetchOptions,
    stopped: Stopped,
    keep_download: bool = False,
    damage: Damage | None = None,
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
    reader = ShardReader(listing, folder, begun, options, stopped, keep_download=keep_download)
    small: dict[str, bytes | None] = {
        file.name: None
        for file in listing.files
        if not file.name.endswith(".safetensors") and (keep_download or file.name != INDEX_NAME)
    }
    small["config.json"] = reader.content("config.json")
    config = ModelConfig.from_dict(read_json(small["config.json"], "config.json"), source=f"{repository}/config.json")
    if not 1 <= context <= config.max_position_embeddings:
        raise UsageError(f"context is {context}; expected 1 to {config.max_position_embeddings}")
    with ThreadPoolExecutor(options.connections) as pool:
        shards = tuple(pool.map(reader.shard, weight_files(listing, reader)))
    entries = unite(parse_header(shard.path, shard.header[8:], shard.file.size) for shard in shards)
    checkpoint = checkpoint_of(folder, config, entries)
    tensors = TensorSource(checkpoint)

    def files_of(bits: int | None) -> tuple[PlannedFile, ...]:
        return make_plan(tensors, config.num_hidden_layers, bits)

    files = files_of(dense_bits)
    partial = folder.parent
    same = _noted_identity(partial) == _identity(shards, dense_bits)
    finished = finished_files(Notes(partial), files) if same else {}
    good = {} if damage is None else {file.name: damage.good[file.name] for file in files if file.name in damage.good}
    good = {name: record for name, record in good.items() if name not in finished}
    done = {**good, **finished}
    homes = make_homes(partial, files, done, checkpoint, frozenset(shard.path for shard in shards if shard.stays))
    missing = {shard.path: _missing_bytes(folder, shard, homes) for shard in shards}
    whole = frozenset(path for path, count in missing.items() if count == 0)
    steps = make_steps(files, done, homes, shards, whole)
    begun_shards = [step.shard.path for step in steps if missing[step.shard.path] < step.shard.file.size]
    free, present = _free_bytes(folder), _used_bytes(partial) + sum(record.bytes for record in good.values())
    cache_free = _free_bytes(cache_folder(repository)) if keep_download and _is_elsewhere(folder, repository) else None
    peaks = {
        overlap: disk_peak(
            steps, files, done, homes, begun_shards, overlap=overlap, kept_elsewhere=cache_free is not None
        )
        for overlap in (True, False)
    }
    kept = sum(step.shard.file.size for step in steps if step.shard.kept)
    # Never more than the result and one shard, even where there is room for more.
    most = sum(file.nbytes for file in files) + largest_shard(steps, homes) + kept
    besides = _small_bytes(listing, keep_download) + SPARE_BYTES - present
    overlap = peaks[True] <= most and peaks[True] + besides <= free
    fit = make_fit(
        target.name,
        config,
        this_device(),
        dense_bits=dense_bits,
        files_of=files_of,
        download_bytes=sum(missing[step.shard.path] for step in steps),
        disk_needed_bytes=max(peaks[overlap] + besides, 0),
        disk_free_bytes=free,
        context=context,
    )
    if keep_download:
        fit = replace(fit, kept_bytes=kept, cache_free_bytes=cache_free)
    return DownloadPlan(
        target,
        listing,
        dense_bits,
        small,
        shards,
        whole,
        checkpoint,
        files,
        done,
        homes,
        steps,
        overlap,
        keep_download,
        () if damage is None else damage.faults,
        good,
        fit,
    )


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


def _runs(shard: Shard, homes: Homes) -> tuple[Run, ...]:
    return (header_run(shard.path, len(shard.header)), *homes.runs.get(shard.path, ()))


def _missing_bytes(folder: Path, shard: Shard, homes: Homes) -> int:
    """What has to come of it yet."""
    if shard.cached:
        return 0
    whole = folder / shard.file.name
    if shard.kept and whole.is_file() and whole.stat().st_size == shard.file.size:
        return 0
    runs = [part_run(folder, shard.file)] if shard.kept else _runs(shard, homes)
    journal = Journal(folder, shard.file, Places(runs))
    return 0 if journal.is_whole else journal.missing_bytes


def _is_elsewhere(folder: Path, repository: str) -> bool:
    """Whether the hub's cache is on another disk than `folder`."""
    return _existing(folder).stat().st_dev != _existing(cache_folder(repository)).stat().st_dev


def _small_bytes(listing: Listing, keep_download: bool) -> int:
    # Once as they come, once in the result, once in the hub's cache.
    return (3 if keep_download else 2) * sum(
        file.size for file in listing.files if not file.name.endswith(".safetensors")
    )


def _used_bytes(folder: Path) -> int:
    """What the files in `folder` take of the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _free_bytes(folder: Path) -> int:
    """What is free on the disk that `folder` is on, or will be."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """The nearest folder that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())
