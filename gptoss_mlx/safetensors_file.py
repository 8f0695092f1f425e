"""Which tensors a folder of safetensors files holds, from their headers alone.

A file is an 8-byte little-endian length, a JSON header of that length, then the tensors' bytes without gaps:

    [n: u64][{"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …}: n bytes][data]

Owns: reading and checking headers and the index, in milliseconds and before any tensor is read. Does not own: which
tensors a model needs (`weights`). Source: https://huggingface.co/docs/safetensors (format).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from gptoss_mlx.errors import ModelNotFound, WeightsError

INDEX_NAME: Final = "model.safetensors.index.json"
"""Says which file of several holds which tensor."""

PICKLE_PATTERNS: Final = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
"""Names that PyTorch's own files have."""

PICKLE_STARTS: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How PyTorch's files begin: a zip archive with a pickle inside, or the pickle itself."""

MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit; a longer one means that the first eight bytes are not a length."""

ITEM_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one value of each dtype that a header may name."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as its file's header describes it."""

    name: str
    dtype: str
    """As the header spells it: `BF16`, `U8`, …"""
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    """The file that holds it."""
    offset: int
    """Where its bytes begin in the file."""


def read_tensor_entries(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of the checkpoint in `folder` by name: of the files in its index, or of all safetensors files there.

    Raises `ModelNotFound` when there is no checkpoint, `WeightsError` when an index, a header or a file's size is
    wrong, or when a tensor is in two files.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        return _read_by_index(index)
    entries = read_headers(sorted(folder.glob("*.safetensors")))
    if entries:
        return entries
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if pickles:
        raise WeightsError(
            f"{folder / pickles[0]} is a pickle, which can run any code when it is read; expected safetensors files; "
            "download those instead"
        )
    raise ModelNotFound(
        f"{folder} holds no weights; expected {INDEX_NAME} with the files that it names, or *.safetensors; "
        "download the model again"
    )


def read_headers(paths: Iterable[Path]) -> dict[str, TensorEntry]:
    """The tensors in all `paths` by name. Raises `WeightsError` as `read_header` does, and for a name in two files."""
    return unite(read_header(path) for path in paths)


def unite(headers: Iterable[Iterable[TensorEntry]]) -> dict[str, TensorEntry]:
    """The tensors of several files by name. Raises `WeightsError` for a name in two files."""
    entries: dict[str, TensorEntry] = {}
    for entry in (entry for header in headers for entry in header):
        if entry.name in entries:
            raise WeightsError(
                f"{entry.file}: tensor {entry.name} is also in {entries[entry.name].file.name}; expected every tensor "
                "once; remove the file that does not belong here"
            )
        entries[entry.name] = entry
    return entries


def read_header(path: Path) -> list[TensorEntry]:
    """The tensors in the safetensors file `path`. Raises `WeightsError` when the header or the file's size is wrong."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = header_length(path, start, size)
            text = file.read(length)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_header(path, text, size)


def header_length(path: Path, start: bytes, size: int) -> int:
    """Bytes of the header that follows `start`, the first 8 bytes of a file of `size` bytes. Raises `WeightsError`."""
    length = int.from_bytes(start[:8], "little")
    if start.startswith(PICKLE_STARTS) and length > size:
        raise WeightsError(
            f"{path} is a pickle under a wrong name, which can run any code when it is read; expected "
            "safetensors; download the model again from a place that you trust"
        )
    if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise WeightsError(
            f"{path}: its first 8 bytes announce a header of {length} bytes in a file of {size}; expected a "
            "safetensors file, so this one is damaged, cut off, or of another kind; download it again"
        )
    return length


def parse_header(path: Path, text: bytes, size: int) -> list[TensorEntry]:
    """The tensors of a file of `size` bytes whose header is `text`; `path` is where it lies, or will."""
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path))
    except ValueError as error:
        raise WeightsError(
            f"{path}: its header is not JSON ({error}); expected safetensors; download the file again"
        ) from error
    if not isinstance(header, dict):
        raise WeightsError(
            f"{path}: its header is a JSON {type(header).__name__}; expected an object; download the file again"
        )
    header.pop("__metadata__", None)
    data_start = 8 + len(text)
    return _check_layout(path, header, data_start, size - data_start)


def _check_layout(path: Path, header: dict[str, Any], data_start: int, data_bytes: int) -> list[TensorEntry]:
    """The header's entries, whose bytes must follow each other without a gap and fill the file to its end."""
    placed: list[tuple[int, int, TensorEntry]] = []
    for name, described in header.items():
        start, stop, entry = _read_entry(path, name, described, data_start)
        placed.append((start, stop, entry))
    placed.sort(key=lambda item: item[:2])
    end = 0
    for start, stop, entry in placed:
        if start != end:
            raise WeightsError(
                f"{path}: tensor {entry.name} starts at byte {start} of the data; expected {end}, where the one "
                "before it ends; download the file again"
            )
        end = stop
    if end != data_bytes:
        raise WeightsError(
            f"{path} holds {data_bytes} bytes of tensors; expected {end} by its header: the file is "
            f"{'cut off' if data_bytes < end else 'too long'}; download it again"
        )
    return [entry for _, _, entry in placed]


def _read_entry(path: Path, name: str, described: Any, data_start: int) -> tuple[int, int, TensorEntry]:
    """One header entry with its first byte and the one after its last."""
    fields = described if isinstance(described, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise WeightsError(
            f"{path}: the header says {described!r} of tensor {name}; expected dtype, shape and data_offsets; "
            "download the file again"
        )
    if dtype not in ITEM_BYTES:
        raise WeightsError(
            f"{path}: tensor {name} has dtype {dtype!r}; expected one of {', '.join(sorted(ITEM_BYTES))}"
        )
    start, stop = offsets
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if stop - start != expected:
        raise WeightsError(
            f"{path}: tensor {name} has {stop - start} bytes; expected {expected} for {dtype} {shape}; "
            "download the file again"
        )
    return start, stop, TensorEntry(name, dtype, tuple(shape), expected, path, data_start + start)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether `value` is a list of whole numbers, none below zero."""
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise WeightsError(f"{path}: {twice!r} is there twice; expected every name once; download the file again")
    return values


def _read_by_index(index: Path) -> dict[str, TensorEntry]:
    """The tensors that `index` maps to its files; every one must be where the index says."""
    try:
        listing = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, index))
        weight_map = listing["weight_map"]
    except OSError as error:
        raise WeightsError(f"{index} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{index} is no index of a checkpoint ({error}); expected JSON with a weight_map; download it again"
        ) from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise WeightsError(f"{index}: weight_map is no map of tensor names to file names; download the index again")
    entries: dict[str, TensorEntry] = {}
    shards = {file: _shard(index, file) for file in sorted(set(weight_map.values()))}
    for file, path in shards.items():
        for entry in read_header(path):
            if weight_map.get(entry.name) != file:
                found = weight_map.get(entry.name, "nothing")
                raise WeightsError(f"{index} maps tensor {entry.name} to {found}; expected {file}, which holds it")
            entries[entry.name] = entry
    for name, file in weight_map.items():
        if name not in entries:
            raise WeightsError(
                f"{shards[file]} holds no tensor {name}; expected it by {index.name}; download the file again"
            )
    return entries


def _shard(index: Path, file: str) -> Path:
    """The file of that name beside `index`, and nowhere else."""
    if Path(file).name != file or not file.endswith(".safetensors"):
        raise WeightsError(
            f"{index} names the file {file!r}; expected the name of a .safetensors file in the same folder"
        )
    path = index.parent / file
    if not path.is_file():
        raise WeightsError(f"{path} is missing; expected it by {index.name}; download the model again")
    return path
