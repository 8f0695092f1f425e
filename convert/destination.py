"""The folder that a conversion fills, DST.partial, and how it becomes DST.

DST.partial/    everything until the last byte is on the disk: finished files, notes about them, a lock
DST/            the finished model, which appears by one rename
"""

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from gptoss_mlx.convert.pieces import file_pieces
from gptoss_mlx.convert.plan import PlannedFile
from gptoss_mlx.convert.writer import NOTES_NAME, Notes, sync_folder, write_file, write_small_file
from gptoss_mlx.errors import UsageError
from gptoss_mlx.manifest import MANIFEST_NAME, FileRecord, Manifest, Source
from gptoss_mlx.settings import DOWNLOAD_NAME, PARTIAL_SUFFIX
from gptoss_mlx.tensor_source import TensorSource

Progress = Callable[[int, int], None]
"""Called with the bytes of tensors that are on the disk and with those of the whole model; from several threads."""

FINGERPRINT_NAME: Final = "conversion.json"
"""Says, in an unfinished conversion, of what it is one."""

LOCK_NAME: Final = "lock"
"""Held while a conversion or a download writes."""

WRITERS: Final = 2
"""Files that are written at a time."""

SPARE_BYTES: Final = 64 << 20
"""Free space that is left alone, and room for the small files."""


@contextmanager
def locked(partial: Path, *, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Makes `partial` and keeps everybody else out of it; removes it in the end if nothing was put there.

    Somebody who is at work there already is waited for, with `wait` called again and again, or without it a
    `UsageError`, as is a folder that holds something else than a conversion.
    """
    with contextlib.ExitStack() as stack:
        while True:
            _check_partial(partial)
            partial.mkdir(parents=True, exist_ok=True)
            try:
                lock = stack.enter_context((partial / LOCK_NAME).open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                # Whoever was at work has just finished, and the folder has another name.
                continue
            except BlockingIOError as error:
                stack.close()
                if wait is None:
                    raise UsageError(
                        f"another conversion is writing {partial}; wait for it, or choose another destination"
                    ) from error
                wait()
                continue
            if _is_at(lock, partial / LOCK_NAME):
                break
            stack.close()
        try:
            yield
        finally:
            if partial.is_dir() and [path.name for path in partial.iterdir()] == [LOCK_NAME]:
                (partial / LOCK_NAME).unlink()
                partial.rmdir()


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open `file` is the one that has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _check_partial(partial: Path) -> None:
    if partial.exists() and not (partial / FINGERPRINT_NAME).is_file():
        others = [path for path in (partial.iterdir() if partial.is_dir() else [partial]) if path.name != LOCK_NAME]
        if others:
            raise UsageError(
                f"{partial} is there already and is no stopped conversion; choose another destination, or remove it "
                "yourself"
            )


def begin(partial: Path, identity: str) -> Notes:
    """The notes of the conversion in `partial`; files that another source or other options left there are removed."""
    path = partial / FINGERPRINT_NAME
    if not path.is_file() or path.read_text(encoding="utf-8") != identity:
        for old in partial.iterdir():
            if old.name not in (LOCK_NAME, DOWNLOAD_NAME):
                old.unlink()
        write_small_file(partial, FINGERPRINT_NAME, identity.encode())
        sync_folder(partial)
    return Notes(partial)


def finished_files(notes: Notes, plan: Sequence[PlannedFile]) -> dict[str, FileRecord]:
    """Those of `plan` that are on the disk."""
    records = notes.read()
    return {file.name: records[file.name] for file in plan if file.name in records}


def write_files(
    partial: Path,
    files: Iterable[PlannedFile],
    tensors: TensorSource,
    notes: Notes,
    stopped: threading.Event,
    wrote: Callable[[int], None],
) -> dict[str, FileRecord]:
    """Writes `files`, two at a time; their records. `wrote` hears of every piece's size, from several threads."""
    records: dict[str, FileRecord] = {}

    def write(file: PlannedFile) -> None:
        record = write_file(partial, file, file_pieces(file, tensors), stopped=stopped, wrote=wrote)
        notes.add(file.name, record)
        records[file.name] = record

    with ThreadPoolExecutor(WRITERS, thread_name_prefix="gptoss-convert") as pool:
        writing = [pool.submit(write, file) for file in files]
        try:
            finished, _ = wait(writing, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        except BaseException:
            # The first failure, or Ctrl-C: nothing new is begun, what runs ends at its next piece.
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return records


def finish(
    partial: Path,
    target: Path,
    *,
    weights: Mapping[str, FileRecord],
    small: Mapping[str, bytes],
    source: Source,
    dense_bits: int | None,
) -> Manifest:
    """Makes the whole model in `partial`, whose `weights` are written, appear as `target`, in place of what is there.

    `weights` are in the order in which they are read. Gives the manifest.
    """
    records = {name: write_small_file(partial, name, content) for name, content in small.items()}
    manifest = Manifest(dense_bits=dense_bits, weights=tuple(weights), files={**weights, **records}, source=source)
    write_small_file(partial, MANIFEST_NAME, manifest.to_json().encode())
    if (partial / DOWNLOAD_NAME).exists():
        shutil.rmtree(partial / DOWNLOAD_NAME)
    sync_folder(partial)
    if target.exists():
        old = _replaced(target)
        if old.exists():
            shutil.rmtree(old)
        target.rename(old)
    partial.rename(target)
    sync_folder(target.parent)
    tidy(target)
    return manifest


def _replaced(target: Path) -> Path:
    """Where the model that `target` was before stands while the new one takes its place."""
    return target.with_name(f"{target.name}.replaced{PARTIAL_SUFFIX}")


def tidy(target: Path) -> None:
    """Removes what nobody needs once `target` is whole; a kill just before leaves it there until the next time."""
    if (old := _replaced(target)).exists():
        shutil.rmtree(old)
    for name in (NOTES_NAME, FINGERPRINT_NAME, LOCK_NAME):
        (target / name).unlink(missing_ok=True)
