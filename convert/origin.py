"""Where a source checkpoint came from, as far as its folder tells, and whether it is still the same.

A folder of Hugging Face's cache carries repository and commit in its path; one that `hf download --local-dir` filled
carries the commit in notes beside the files.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.manifest import Source, SourceFile

_COMMIT_LENGTH: Final = 40

_NOTES_FOLDER: Final = Path(".cache", "huggingface", "download")
"""Where huggingface_hub notes, for each file of a folder that it filled, commit and checksum."""

_CACHE_PREFIX: Final = "models--"
"""How huggingface_hub's cache names a repository's folder, with -- for the slash."""


def describe_source(checkpoint: Checkpoint) -> Source:
    """The source as a manifest names it: the same for the same files, wherever they lie."""
    folder = checkpoint.folder.resolve()
    repository, revision = _cached(folder)
    files = sorted({entry.file for entry in checkpoint.entries.values()})
    return Source(
        layout=checkpoint.layout,
        name=model_name(folder),
        repository=repository,
        revision=revision or _downloaded_revision(folder),
        files={file.name: SourceFile(file.stat().st_size, _header_sha256(file), _hub_sha256(file)) for file in files},
    )


def model_name(folder: Path) -> str:
    """What the model in `folder` is called: the folder's name, the repository's in a cache, or that of the folder
    around OpenAI's original/.
    """
    folder = folder.resolve()
    repository, _ = _cached(folder)
    if repository is not None:
        return repository.rsplit("/", 1)[-1]
    return folder.parent.name if folder.name == "original" and folder.parent.name else folder.name


def fingerprint(checkpoint: Checkpoint, source: Source, dense_bits: int | None) -> str:
    """What a half-done conversion must have in common with the one that goes on with it: source, its files' times, and
    what is asked for.
    """
    times = {str(entry.file): entry.file.stat().st_mtime_ns for entry in checkpoint.entries.values()}
    facts = [
        source.layout,
        {name: [file.bytes, file.header_sha256] for name, file in source.files.items()},
        sorted(times.items()),
        dense_bits,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _header_sha256(file: Path) -> str:
    with file.open("rb") as opened:
        start = opened.read(8)
        return hashlib.sha256(start + opened.read(int.from_bytes(start, "little"))).hexdigest()


def _hub_sha256(file: Path) -> str | None:
    """The checksum that huggingface_hub noted for `file`: in its cache by the bytes' name, elsewhere beside it."""
    noted = os.path.basename(os.readlink(file)) if file.is_symlink() else ""
    for folder, name in ((file.parent, file.name), (file.parent.parent, f"{file.parent.name}/{file.name}")):
        notes = folder / _NOTES_FOLDER / f"{name}.metadata"
        if not noted and notes.is_file():
            noted = (notes.read_text(encoding="utf-8", errors="replace") + "\n").split("\n")[1].strip()
    return noted if re.fullmatch(r"[0-9a-f]{64}", noted) else None


def _cached(folder: Path) -> tuple[str | None, str | None]:
    """Repository and commit of a folder …/models--owner--name/snapshots/commit, original/ inside it included."""
    for candidate in (folder, folder.parent):
        cache = candidate.parent.parent.name
        if candidate.parent.name == "snapshots" and cache.startswith(_CACHE_PREFIX):
            return cache.removeprefix(_CACHE_PREFIX).replace("--", "/", 1), candidate.name
    return None, None


def _downloaded_revision(folder: Path) -> str | None:
    """The commit that huggingface_hub noted when it filled the folder."""
    for candidate in (folder, folder.parent):
        notes = candidate / _NOTES_FOLDER / "config.json.metadata"
        if notes.is_file():
            first = notes.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].strip()
            if len(first) == _COMMIT_LENGTH and all(character in "0123456789abcdef" for character in first):
                return first
    return None
