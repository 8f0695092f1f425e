"""Every byte of a converted model against its manifest, offline."""

import hashlib
import shlex
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.errors import ChecksumError, UsageError
from gptoss_mlx.manifest import Manifest, Source
from gptoss_mlx.models import PUBLISHED
from gptoss_mlx.settings import models_folder

PIECE_BYTES: Final = 8 << 20
READERS: Final = 2
"""Files that are read at a time."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked and found whole."""

    folder: Path
    files: int
    total_bytes: int
    source: Source
    """What it was made of, by its manifest."""


def verify_model(folder: str | Path, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Reads every file of the converted model in `folder` and compares size and sha256.

    Raises `ChecksumError` that names each file that is not as it was written, and what `open_checkpoint` raises for a
    folder that is no whole model; `UsageError` for a model that was never converted and so has nothing to compare with.
    `progress` is called with the bytes read and the bytes in all, from several threads.
    """
    checkpoint = open_checkpoint(folder)
    manifest = checkpoint.manifest
    if manifest is None:
        raise UsageError(
            f"{checkpoint.folder} is a checkpoint as published, with no checksums of its own to compare with; convert "
            "it first: gptoss convert"
        )
    done, counting = 0, threading.Lock()

    def read(count: int) -> None:
        nonlocal done
        with counting:
            done += count
            if progress is not None:
                progress(min(done, manifest.total_bytes), manifest.total_bytes)

    found = hash_files(checkpoint.folder, manifest.files, read)
    if damaged := [name for name, record in manifest.files.items() if found[name] != record.sha256]:
        raise ChecksumError(
            f"{checkpoint.folder}: {', '.join(damaged)} {'is' if len(damaged) == 1 else 'are'} not as converted "
            f"(sha256 {found[damaged[0]]}, expected {manifest.files[damaged[0]].sha256}); "
            f"{_remedy(checkpoint.folder, manifest)}"
        )
    return VerifyReport(checkpoint.folder, len(found), manifest.total_bytes, manifest.source)


def hash_files(folder: Path, names: Iterable[str], read: Callable[[int], None]) -> dict[str, str]:
    """The sha256 of each file in `folder`, or what is wrong with reading it. `read` hears of every piece's size.

    What `read` raises ends it.
    """

    def sha256_of(name: str) -> str:
        digest = hashlib.sha256()
        try:
            with (folder / name).open("rb", buffering=0) as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                    read(len(piece))
        except OSError as error:
            return error.strerror or str(error)
        return digest.hexdigest()

    names = list(names)
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(names, pool.map(sha256_of, names), strict=True))


def _remedy(folder: Path, manifest: Manifest) -> str:
    """What mends the model in `folder`."""
    repository = manifest.source.repository
    if repository is None:
        return "convert the model again with --overwrite"
    words = ["gptoss", "pull", next((short for short, known in PUBLISHED.items() if known == repository), repository)]
    if manifest.dense_bits is not None:
        words += ["--dense-bits", str(manifest.dense_bits)]
    if folder.absolute().parent != models_folder().absolute():
        words += ["--path", str(folder)]
    return f"{shlex.join(words)} gets what is damaged anew"
