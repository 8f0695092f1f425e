"""Which model a folder holds, in 32 bytes: two folders with the same identity give the same keys and values.

A converted folder's manifest holds the sha256 of every file, so its content tells the model. Of any other checkpoint,
reading all weights would take longer than what the identity is for: there it is config.json, and of each weights file
the name, the size, the time of its last change, and samples from its beginning to its end. Copied to another place,
such a folder counts as another model.
"""

import hashlib
from pathlib import Path
from typing import Final

from gptoss_mlx.manifest import MANIFEST_NAME

SAMPLES: Final = 64
"""Places in a weights file that are looked at."""

SAMPLE_BYTES: Final = 4096
"""Bytes at each."""


def model_identity(folder: Path) -> str:
    """The identity of the model in `folder`, in hexadecimal. Raises OSError when a file cannot be read."""
    return fingerprint(folder, times=True)


def fingerprint(folder: Path, *, times: bool = False) -> str:
    """What the model in `folder` is known by wherever it lies, in hexadecimal; with `times`, in this place only.

    Raises OSError when a file cannot be read.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    manifest = folder / MANIFEST_NAME
    if manifest.is_file():
        digest.update(manifest.read_bytes())
        return digest.hexdigest()
    for file in sorted(folder.glob("*.safetensors")):
        status = file.stat()
        changed = f" {status.st_mtime_ns}" if times else ""
        digest.update(f"\n{file.name} {status.st_size}{changed}\n".encode())
        with file.open("rb") as content:
            for sample in range(SAMPLES):
                content.seek(max(0, status.st_size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()
