"""`gptoss.json`: what a folder in our own format consists of, file by file, and where it came from.

    {
      "format": "gptoss-mlx", "version": 1,
      "dense_bits": null,                        8, 6 or 4 when conversion quantised the dense weights
      "weights": ["embedding.safetensors", …],   the files with tensors, in the order in which a model reads them
      "files": {"config.json": {"bytes": 1805, "sha256": "…"}, …},   every file but this one
      "source": {"layout": "huggingface", "name": "gpt-oss-20b", "repository": "openai/gpt-oss-20b" or null,
                 "revision": "…" or null,
                 "files": {"model-00000-of-00002.safetensors": {"bytes": …, "header_sha256": "…",
                                                                "sha256": "…" or null}, …}}
    }

It holds no time and no path, so that converting the same source again gives the same bytes. A folder without it is not
in our format. Owns: this file's form. Does not own: the tensors (`layouts`), checking the bytes (`convert.verify`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from gptoss_mlx.errors import WeightsError

MANIFEST_NAME: Final = "gptoss.json"
"""The manifest's file name."""

FORMAT: Final = "gptoss-mlx"
"""What the manifest calls the format."""

VERSION: Final = 1
"""The version that this code writes, and the newest that it reads."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it was written."""

    bytes: int
    sha256: str
    """Of its content, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of tensors that a conversion read."""

    bytes: int
    header_sha256: str
    """Of its safetensors header: names, shapes, dtypes and places of all its tensors."""
    sha256: str | None = field(default=None, compare=False)
    """Of the whole file, as the hub gives it; None where nobody told. A download was compared with it; a conversion
    takes it from what huggingface_hub noted beside its source."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a folder was converted from."""

    layout: str
    name: str
    """The source folder's name."""
    repository: str | None
    """The repository on the hub, where the source's own files tell it."""
    revision: str | None
    """The commit there."""
    files: Mapping[str, SourceFile]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of gptoss.json."""

    dense_bits: int | None
    """Bits of the dense weights when conversion quantised them; None when it left them as they were."""
    weights: tuple[str, ...]
    """The files that hold tensors, in the order in which they are read."""
    files: Mapping[str, FileRecord]
    """Every file of the folder but the manifest."""
    source: Source

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(record.bytes for record in self.files.values())

    def to_json(self) -> str:
        """The text of gptoss.json; the same for the same content."""
        values = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None where there is none.

    Raises `WeightsError` when it cannot be read, is of a newer version, or names files outside the folder. Whether the
    files are there is not looked at.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON ({error}); expected a manifest; convert the model again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise WeightsError(f"{path} is no manifest of {FORMAT}; expected one; convert the model again")
    version = values.get("version")
    if version != VERSION:
        raise WeightsError(
            f"{path} is version {version!r} of the format; expected {VERSION}: update gptoss-mlx, or convert the model "
            "again with this version"
        )
    try:
        return _from_json(values, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged ({error}); convert the model again") from error


def _from_json(values: Mapping[str, Any], path: Path) -> Manifest:
    source = values["source"]
    manifest = Manifest(
        dense_bits=values["dense_bits"],
        weights=tuple(values["weights"]),
        files={name: FileRecord(**record) for name, record in values["files"].items()},
        source=Source(
            layout=source["layout"],
            name=source["name"],
            repository=source["repository"],
            revision=source["revision"],
            files={name: SourceFile(**record) for name, record in source["files"].items()},
        ),
    )
    for name in (*manifest.files, *manifest.weights):
        if Path(name).name != name or name in ("", ".", "..", MANIFEST_NAME):
            raise WeightsError(f"{path} names the file {name!r}; expected the name of a file in the same folder")
    if unlisted := set(manifest.weights) - set(manifest.files):
        raise WeightsError(f"{path} lists no size and sha256 for {sorted(unlisted)[0]}; convert the model again")
    return manifest
