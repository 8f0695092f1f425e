"""What is at the place where a download goes: nothing, the model that is asked for, a damaged one, or something else.

Something else is never touched.
"""

import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.convert.conversion import COPIED_NAMES
from gptoss_mlx.convert.destination import tidy
from gptoss_mlx.convert.hub import list_repository
from gptoss_mlx.convert.verify import hash_files
from gptoss_mlx.errors import GptOssError, UsageError, WeightsError
from gptoss_mlx.manifest import MANIFEST_NAME, FileRecord, Manifest, read_manifest

_OUR_WEIGHTS: Final = re.compile(r"(embedding|head|layer-\d+)\.safetensors")
"""Names that only a converted model has."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a model."""

    faults: tuple[str, ...]
    """Which file, and what it is."""
    good: Mapping[str, FileRecord]
    """Files that are as they were written."""
    manifest: Manifest | None
    """None when that cannot be read, or is of no use: then nobody knows which files are good."""

    @property
    def commit(self) -> str | None:
        """What the model was made of, where it tells."""
        return None if self.manifest is None else self.manifest.source.revision

    def without(self, names: Collection[str]) -> "Damage":
        """With those files no longer taken for good."""
        return replace(self, good={name: record for name, record in self.good.items() if name not in names})


def examine(folder: Path, *, thorough: bool, read: Callable[[int, int], None]) -> Manifest | Damage:
    """The manifest of the model in `folder` when it is whole, else what is wrong with it.

    Names, sizes and headers are looked at; every byte only if they are not right, or when `thorough`. `read` is called
    with the bytes read and those in all, from several threads, and what it raises ends it. Raises `UsageError` for a
    folder that is none of our models.
    """
    manifest, unread = None, f"{MANIFEST_NAME} is missing"
    try:
        manifest = read_manifest(folder)
    except WeightsError as error:
        unread = str(error).removeprefix(f"{folder}/")
    if manifest is None:
        _check_ours(folder)
        return Damage((unread,), {}, None)
    faults = {name: fault for name, record in manifest.files.items() if (fault := _fault(folder / name, record))}
    unopened: GptOssError | None = None
    if not faults:
        try:
            open_checkpoint(folder)
        except GptOssError as error:
            unopened = error
    if not faults and unopened is None and not thorough:
        return manifest
    there = [name for name in manifest.files if name not in faults]
    total, done, counting = sum(manifest.files[name].bytes for name in there), 0, threading.Lock()

    def count(size: int) -> None:
        nonlocal done
        with counting:
            done += size
            read(min(done, total), total)

    for name, found in hash_files(folder, there, count).items():
        if found != manifest.files[name].sha256:
            faults[name] = f"{name} is not as it was written"
    if not faults and unopened is None:
        return manifest
    if not faults:
        raise UsageError(
            f"{folder} is as it was written and cannot be used: {unopened}; remove it: gptoss rm {folder.name}"
        )
    good = {name: record for name, record in manifest.files.items() if name not in faults}
    return Damage(tuple(faults[name] for name in manifest.files if name in faults), good, manifest)


def _fault(path: Path, record: FileRecord) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != record.bytes:
        return f"{path.name} has {size} of {record.bytes} bytes"
    return None


def _check_ours(folder: Path) -> None:
    """Raises `UsageError` unless the folder holds what a converted model holds, and nothing else."""
    known = {MANIFEST_NAME, "config.json", "tokenizer.json", *COPIED_NAMES}
    names = {path.name for path in folder.iterdir()}
    weights = {name for name in names if _OUR_WEIGHTS.fullmatch(name)}
    if names - known - weights or not weights:
        raise _unknown(folder)


def _unknown(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} is there already and is no converted model; remove it yourself, or name another folder with --path"
    )


def find_there(
    target: Path,
    repository: str,
    revision: str | None,
    dense_bits: int | None,
    *,
    thorough: bool,
    read: Callable[[int, int], None],
) -> Manifest | Damage | None:
    """What `examine` finds at `target`, if it is what is asked for; None when there is nothing.

    Raises `UsageError` when something else is there.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not target.is_dir():
        raise _unknown(target)
    found = examine(target, thorough=thorough, read=read)
    there = found.manifest if isinstance(found, Damage) else found
    if there is None:
        return found
    source = there.source
    of_hub = source.repository == repository
    same = of_hub or (source.repository is None and source.name == repository.rsplit("/", 1)[-1])
    if not same or there.dense_bits != dense_bits or not _is_commit(source.revision, repository, revision):
        origin = source.repository or source.name
        dense = "as published" if there.dense_bits is None else f"of {there.dense_bits} bits"
        raise UsageError(
            f"{target} holds another model already ({origin} at {source.revision or 'an unknown commit'}, dense "
            f"weights {dense}); remove it first: gptoss rm {target.name}, or name another folder with --path"
        )
    if isinstance(found, Manifest):
        tidy(target)
    elif not of_hub or source.revision is None:
        # Made of a folder on this machine: its checksums are not of files that the hub has to have.
        return Damage(found.faults, {}, None)
    return found


def _is_commit(commit: str | None, repository: str, revision: str | None) -> bool:
    """Whether `revision`, if one is asked for, means `commit`; only a branch or a tag has to be asked for."""
    if revision is None:
        return True
    if commit is None:
        return False
    return commit.startswith(revision) or list_repository(repository, revision).commit == commit
