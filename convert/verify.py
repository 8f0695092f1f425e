"""Every byte of a converted model against its manifest, offline."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.errors import ChecksumError, UsageError

PIECE_BYTES: Final = 8 << 20
READERS: Final = 2
"""Files that are read at a time."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked and found whole."""

    folder: Path
    files: int
    total_bytes: int


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

    def sha256_of(name: str) -> str:
        nonlocal done
        digest = hashlib.sha256()
        try:
            with (checkpoint.folder / name).open("rb", buffering=0) as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                    with counting:
                        done += len(piece)
                        if progress is not None:
                            progress(min(done, manifest.total_bytes), manifest.total_bytes)
        except OSError as error:
            return error.strerror or str(error)
        return digest.hexdigest()

    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(manifest.files, pool.map(sha256_of, manifest.files), strict=True))
    if damaged := [name for name, record in manifest.files.items() if found[name] != record.sha256]:
        raise ChecksumError(
            f"{checkpoint.folder}: {', '.join(damaged)} {'is' if len(damaged) == 1 else 'are'} not as converted "
            f"(sha256 {found[damaged[0]]}, expected {manifest.files[damaged[0]].sha256}); convert the model again with "
            "--overwrite"
        )
    return VerifyReport(checkpoint.folder, len(found), manifest.total_bytes)
