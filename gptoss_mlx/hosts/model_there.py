"""Whether a host has the model that is asked for: the same one, whole, byte for byte.

What a folder holds is told by its fingerprint: of a converted model, whose manifest has the sha256 of every file, that
of the manifest; of any other checkpoint, config.json and, of each weights file, name, size and samples. Unlike
`model_identity`, it is the same for a copy on another machine.

That the files are what the manifest says is checked once, by reading them all, and noted with size and time of each:
only what changed since is read again. Owns: these checks. Does not own: bringing a model to a host (`delivery`).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.verify import hash_files
from gptoss_mlx.errors import ChecksumError, GptOssError
from gptoss_mlx.manifest import Manifest, read_manifest
from gptoss_mlx.model_identity import fingerprint
from gptoss_mlx.models import find_model
from gptoss_mlx.settings import home_folder
from gptoss_mlx.whole_file import write_whole

VERIFIED_FOLDER: Final = "verified"
"""In the folder of everything that gptoss keeps: which files were found to be as their manifest says."""


@dataclass(frozen=True, slots=True)
class ModelThere:
    """What a host has under the name of a model."""

    folder: str | None
    """Where; None where there is nothing of that name."""
    fingerprint: str = ""
    missing: tuple[str, ...] = ()
    """Files that the manifest lists and that are not there, or not of their size."""
    why: str = ""
    """What is wrong, one sentence; "" when nothing is."""


def look_for(names: list[str]) -> ModelThere:
    """What is here under the first of `names` that names something: a model's name, or the path of a folder."""
    why = ""
    for name in names:
        try:
            folder = find_model(name).folder
        except GptOssError as error:
            why = why or str(error)
            continue
        try:
            return _look_at(folder)
        except (GptOssError, OSError) as error:
            return ModelThere(str(folder), why=str(error))
    return ModelThere(None, why=why)


def _look_at(folder: Path) -> ModelThere:
    manifest = read_manifest(folder)
    missing = () if manifest is None else tuple(missing_files(folder, manifest))
    why = f"{missing[0]} is missing in {folder}, or not whole" if missing else ""
    return ModelThere(str(folder), fingerprint(folder), missing, why)


def missing_files(folder: Path, manifest: Manifest) -> list[str]:
    """The files of the manifest that are not there, or not of their size."""
    return [
        name
        for name, record in manifest.files.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != record.bytes
    ]


def verify_once(folder: Path, *, progress: Callable[[int, int], None]) -> None:
    """Reads the files of a converted model that were not verified as they are, and notes that they were.

    Raises `ChecksumError` that names those that are not as they were written. Of a model that was never converted there
    is nothing to compare with.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return
    known = _verified(folder)
    unknown = {name: rec for name, rec in manifest.files.items() if known.get(name) != _state(folder / name)}
    total, done = sum(record.bytes for record in unknown.values()), 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done, total), total)

    found = hash_files(folder, unknown, read)
    damaged = [name for name, record in unknown.items() if found[name] != record.sha256]
    if damaged:
        raise ChecksumError(
            f"{', '.join(damaged)} in {folder} {'is' if len(damaged) == 1 else 'are'} not as converted (sha256 "
            f"{found[damaged[0]]}, expected {unknown[damaged[0]].sha256})"
        )
    if unknown:
        note_verified(folder, manifest)


def note_verified(folder: Path, manifest: Manifest) -> None:
    """Notes that all files of the manifest are in `folder` as it says."""
    states = {name: _state(folder / name) for name in manifest.files}
    path = _note(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(states))
    except OSError:
        # They are read once more the next time, and that is all.
        return


def _verified(folder: Path) -> dict[str, list[int]]:
    try:
        states = json.loads(_note(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return states if isinstance(states, dict) else {}


def _note(folder: Path) -> Path:
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    # Together with what it is to hold: another model in the same folder is another matter.
    return home_folder() / VERIFIED_FOLDER / f"{folder.name}-{key}-{fingerprint(folder)[:16]}.json"


def _state(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ino]
