"""A conversion from beginning to end.

    DST.partial/    everything until the last byte is on the disk: finished files, notes about them, a lock
    DST/            the finished model, which appears by one rename

Whatever stops it (Ctrl-C, kill -9, a full disk, a power cut), DST is either whole or not there; the same command goes
on with the files that were finished, as long as source and options are the same, and gives the same bytes as a
conversion that was never stopped. Each file is written by one thread; two are written at a time.
"""

import errno
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import Checkpoint, find_tokenizer, open_checkpoint
from gptoss_mlx.convert.config_file import config_json
from gptoss_mlx.convert.destination import (
    SPARE_BYTES,
    Progress,
    begin,
    finish,
    finished_files,
    locked,
    tidy,
    write_files,
)
from gptoss_mlx.convert.origin import describe_source, fingerprint, model_name
from gptoss_mlx.convert.plan import PlannedFile, make_plan
from gptoss_mlx.convert.writer import Notes
from gptoss_mlx.errors import GptOssError, NotEnoughDisk, TokenizerError, UsageError
from gptoss_mlx.manifest import MANIFEST_NAME, FileRecord, Manifest, read_manifest
from gptoss_mlx.settings import DOWNLOAD_NAME, PARTIAL_SUFFIX, models_folder
from gptoss_mlx.tensor_source import TensorSource
from gptoss_mlx.tokenizer import Tokenizer

COPIED_NAMES: Final = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Small files that are taken along where the source has them."""


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did."""

    folder: Path
    """The finished model."""
    layout: str
    """The source's layout."""
    total_bytes: int
    """Bytes of all files of the finished model."""
    resumed_bytes: int
    """Bytes of tensors that an earlier, stopped conversion had written."""
    seconds: float
    already_there: bool = False
    """True when the destination held this conversion already, and nothing was done."""


def convert_model(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    dense_bits: int | None = None,
    overwrite: bool = False,
    tokenizer: str | Path | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Converts the checkpoint in folder `source`, in any layout, to our own format in folder `destination`.

    Without `destination`, a folder of the model's name among the user's models, with `-8bit` or the like when
    `dense_bits` (8, 6 or 4) quantises the dense weights; the default keeps every value exactly. `overwrite` replaces
    a converted model at `destination`, once the new one is whole. `tokenizer` names a tokenizer.json for sources
    without one. Takes less than 2 GiB of memory, whatever the model's size.

    Raises what `open_checkpoint` raises for the source, `TokenizerError` when it has no tokenizer, `UsageError` for the
    destination and options, `NotEnoughDisk` before anything is written, or when somebody else fills the disk meanwhile.
    After any error the same call goes on where this one ended.
    """
    started = time.monotonic()
    checkpoint = open_checkpoint(source)
    target = _destination(checkpoint.folder, destination, dense_bits)
    tensors = TensorSource(checkpoint)
    plan = make_plan(tensors, checkpoint.config.num_hidden_layers, dense_bits)
    origin = describe_source(checkpoint)
    if (there := already_there(target, overwrite)) is not None:
        same = there.source == origin and there.dense_bits == dense_bits
        if not same:
            raise UsageError(
                f"{target} holds another conversion already; expected a new destination; choose another one or replace "
                "it with --overwrite"
            )
        tidy(target)
        return ConvertReport(target, checkpoint.layout, there.total_bytes, 0, time.monotonic() - started, True)
    small = read_small_files(checkpoint, tokenizer)
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    if (partial / DOWNLOAD_NAME).is_dir():
        raise UsageError(
            f"{partial} holds a download that was stopped; go on with it (gptoss pull), remove it "
            f"(gptoss rm {target.name}), or choose another destination"
        )
    with locked(partial):
        notes = begin(partial, fingerprint(checkpoint, origin, dense_bits))
        done = finished_files(notes, plan)
        resumed = sum(record.bytes for record in done.values())
        _check_disk(partial, plan, done)
        try:
            done |= _write_missing(partial, plan, tensors, notes, done, progress or _no_progress)
            weights = {file.name: done[file.name] for file in plan}
            manifest = finish(partial, target, weights=weights, small=small, source=origin, dense_bits=dense_bits)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NotEnoughDisk(
                f"the disk of {partial} is full; what is finished is kept: free some space and run the same command "
                "again"
            ) from error
        finally:
            tensors.close()
    return ConvertReport(target, checkpoint.layout, manifest.total_bytes, resumed, time.monotonic() - started)


def default_destination(source: Path, dense_bits: int | None) -> Path:
    """Where a conversion of `source` goes when nobody says: among the user's models."""
    return models_folder() / (model_name(source) + ("" if dense_bits is None else f"-{dense_bits}bit"))


def _destination(source: Path, given: str | Path | None, dense_bits: int | None) -> Path:
    target = default_destination(source, dense_bits) if given is None else Path(given).expanduser()
    target = target.parent.resolve() / target.name
    if not target.name or target.name.endswith(PARTIAL_SUFFIX):
        raise UsageError(
            f"{str(given)!r} is no destination; expected the path of a folder to make, not ending in {PARTIAL_SUFFIX}"
        )
    resolved = source.resolve()
    if target == resolved or resolved.is_relative_to(target):
        raise UsageError(f"{target} holds the source; expected another folder as the destination")
    return target


def already_there(target: Path, overwrite: bool) -> Manifest | None:
    """The manifest of a whole model at `target` that is to stay. Raises `UsageError` for anything else in the way."""
    if not target.exists():
        return None
    if overwrite and (target / MANIFEST_NAME).is_file():
        return None
    manifest = read_manifest(target) if target.is_dir() else None
    if manifest is not None:
        try:
            open_checkpoint(target)
        except GptOssError as error:
            raise UsageError(f"{target} is a damaged conversion: {error}, replacing it with --overwrite") from error
        return manifest
    if target.is_dir() and not any(target.iterdir()):
        return None
    raise UsageError(
        f"{target} is there already and is no converted model; expected a new destination; choose another one, or "
        "remove it yourself"
    )


def read_small_files(checkpoint: Checkpoint, tokenizer: str | Path | None) -> dict[str, bytes]:
    """Every file without tensors but the manifest, by name. Raises `TokenizerError` when there is no good tokenizer."""
    path = find_tokenizer(checkpoint.folder) if tokenizer is None else Path(tokenizer).expanduser()
    if not path.is_file():
        raise TokenizerError(
            f"{path} is missing; expected the model's tokenizer.json there; download it, or name one with --tokenizer"
        )
    Tokenizer.from_file(path, vocab_size=checkpoint.config.vocab_size)
    files = {"config.json": config_json(checkpoint.config), "tokenizer.json": path.read_bytes()}
    for name in COPIED_NAMES:
        found = path.with_name(name)
        if found.is_file():
            files[name] = found.read_bytes()
    return files


def _check_disk(partial: Path, plan: Sequence[PlannedFile], done: Mapping[str, FileRecord]) -> None:
    """Raises `NotEnoughDisk` when the files that are missing do not fit."""
    missing = [file for file in plan if file.name not in done]
    # What a stopped conversion left of a file is written over.
    needed = sum(file.nbytes for file in missing) + SPARE_BYTES
    reused = sum(file.stat().st_size for file in partial.glob("*.tmp"))
    free = shutil.disk_usage(partial).free + reused
    if needed > free:
        raise NotEnoughDisk(
            f"converting to {partial.parent} takes {needed / 1e9:.1f} GB more and the disk has {free / 1e9:.1f} GB "
            f"free; free {(needed - free) / 1e9:.1f} GB, name a destination on another disk, or use --dense-bits"
        )


def _write_missing(
    partial: Path,
    plan: Sequence[PlannedFile],
    tensors: TensorSource,
    notes: Notes,
    done: Mapping[str, FileRecord],
    progress: Progress,
) -> dict[str, FileRecord]:
    """Writes the files of `plan` that are not `done`; their records."""
    total = sum(file.nbytes for file in plan)
    written = sum(record.bytes for record in done.values())
    counting = threading.Lock()
    progress(written, total)

    def wrote(count: int) -> None:
        nonlocal written
        with counting:
            written += count
            progress(written, total)

    missing = [file for file in plan if file.name not in done]
    return write_files(partial, missing, tensors, notes, threading.Event(), wrote)


def _no_progress(done_bytes: int, total_bytes: int) -> None:
    """For a caller that asked for none."""
