"""Takes a converted model that another machine sends: `python -m gptoss_mlx.hosts.receive`, started through ssh.

Files are written beside their place and get their names when their sha256 is that of the manifest; the folder gets its
name when all are there. Where the same model lies there already, whatever of it is damaged is replaced. Owns: the
receiving. Does not own: the sending (`delivery`).
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.verify import hash_files
from gptoss_mlx.errors import ChecksumError, GptOssError, NotEnoughDisk, UsageError
from gptoss_mlx.hosts.frames import FrameReader, FrameWriter
from gptoss_mlx.hosts.model_there import missing_files, note_verified
from gptoss_mlx.manifest import MANIFEST_NAME, Manifest, read_manifest
from gptoss_mlx.memory import gigabytes
from gptoss_mlx.settings import PARTIAL_SUFFIX, models_folder

SPARE_BYTES: Final = 1 << 30
"""Disk that is left free."""

TEMPORARY_SUFFIX: Final = ".arriving"


def main() -> int:
    """Receives one model; gives the exit code."""
    reader, writer = FrameReader(os.dup(0)), FrameWriter(os.dup(1))
    os.dup2(2, 1)
    writer.write_mark()
    try:
        first = reader.read()
        if first is None:
            return 1
        writer.write({"folder": str(_receive(str(first[0]["name"]), str(first[0]["manifest"]), reader, writer))})
    except (GptOssError, OSError) as error:
        writer.write({"error": str(error)})
        return 1
    return 0


def _receive(name: str, manifest_text: str, reader: FrameReader, writer: FrameWriter) -> Path:
    """Where the model is, once it is there."""
    if Path(name).name != name or name.startswith(".") or name.endswith(PARTIAL_SUFFIX):
        raise UsageError(f"{name!r} is no name for a model")
    final = models_folder() / name
    manifest = _read(manifest_text)
    if not final.is_dir():
        partial = models_folder() / (name + PARTIAL_SUFFIX)
        partial.mkdir(parents=True, exist_ok=True)
        with _alone(partial / "lock", name):
            # A file has its name only once it was compared.
            _take(partial, manifest, missing_files(partial, manifest), reader, writer)
            (partial / MANIFEST_NAME).write_text(manifest_text, encoding="utf-8")
            (partial / "lock").unlink()
            partial.rename(final)
    else:
        if not (final / MANIFEST_NAME).is_file() or (final / MANIFEST_NAME).read_text("utf-8") != manifest_text:
            raise UsageError(f"there is another model named {name} in {final}; remove it there first: gptoss rm {name}")
        with _alone(final / ".copying", name):
            _take(final, manifest, _damaged(final, manifest, writer), reader, writer)
            (final / ".copying").unlink()
    note_verified(final, manifest)
    return final


def _read(manifest_text: str) -> Manifest:
    """The manifest, checked as one on disk is. Raises WeightsError."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST_NAME).write_text(manifest_text, encoding="utf-8")
        manifest = read_manifest(Path(folder))
    assert manifest is not None
    return manifest


@contextlib.contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    """Nobody else receives the same model meanwhile. Raises UsageError."""
    opened = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(f"{name} is being made here by another process; wait for that") from error
    finally:
        os.close(opened)


def _damaged(folder: Path, manifest: Manifest, writer: FrameWriter) -> list[str]:
    """The files that are not as the manifest says; all are read for it."""
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        writer.write({"checking": [min(done, manifest.total_bytes), manifest.total_bytes]})

    found = hash_files(folder, manifest.files, read)
    return [name for name, record in manifest.files.items() if found[name] != record.sha256]


def _take(folder: Path, manifest: Manifest, wanted: list[str], reader: FrameReader, writer: FrameWriter) -> None:
    """Asks for the files that are wanted and puts them into `folder`."""
    needed = sum(manifest.files[name].bytes for name in wanted)
    free = shutil.disk_usage(folder).free
    if wanted and needed + SPARE_BYTES > free:
        raise NotEnoughDisk(
            f"{gigabytes(needed)} are missing and {folder} has {gigabytes(free)} free; make room for them and "
            f"{gigabytes(SPARE_BYTES)} more"
        )
    writer.write({"want": wanted})
    for name in wanted:
        _take_file(folder / name, manifest.files[name].sha256, reader)
    if (last := reader.read()) is None or "done" not in last[0]:
        raise UsageError("the line ended before the model was whole; the same command goes on")


def _take_file(path: Path, sha256: str, reader: FrameReader) -> None:
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    digest = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            while True:
                message = reader.read()
                if message is None:
                    raise UsageError(f"the line ended within {path.name}; the same command goes on with that file")
                values, piece = message
                if values.get("end") == path.name:
                    break
                if values.get("piece") != path.name or piece is None:
                    raise UsageError(f"something else came where {path.name} was expected")
                data = piece.tobytes()
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise ChecksumError(
                f"{path.name} arrived with sha256 {digest.hexdigest()}, expected {sha256}: it is damaged where it came "
                "from; `gptoss verify` there says more"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
