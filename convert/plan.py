"""What a conversion writes: files, the tensors in them, and every size to the byte, before anything is written.

The embedding, each decoder layer, and the last norm with lm_head are a file each: a conversion that is interrupted goes
on at the file where it was. Inside a file wider dtypes come first, so that every tensor lies at a multiple of its
dtype's size.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.layouts import AFFINE_GROUPS, OURS, Affine
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tensor_source import SourceTensor, TensorSource

DENSE_BITS: Final = (8, 6, 4)
"""What the dense weights may be quantised to."""

PREFERRED_GROUP: Final = 64
"""Values that share a scale and an offset; the next smaller where a row is no multiple of it."""

HEADER_ALIGNMENT: Final = 64
"""The tensors begin at a multiple of this in a file."""


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor as it will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: SourceTensor
    """What it is made of."""
    affine: Affine | None = None
    """How `source` is quantised on the way; None when it is written as it is."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file as it will be written."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    """In the order of their bytes."""
    header: bytes
    """Its first bytes, up to the first tensor's."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def make_plan(source: TensorSource, layers: int, dense_bits: int | None) -> tuple[PlannedFile, ...]:
    """The files of a model of that many decoder layers, in the order in which a model reads them.

    `dense_bits` quantises the embedding, lm_head and attention's projections; None leaves them as they are. Raises
    `UsageError` when they cannot be quantised so.
    """
    if dense_bits is not None and dense_bits not in DENSE_BITS:
        raise UsageError(f"dense_bits is {dense_bits!r}; expected {', '.join(map(str, DENSE_BITS))} or None")
    quantisable = {f"{OURS.embedding}.weight", f"{OURS.lm_head}.weight"}
    groups = {"embedding.safetensors": [f"{OURS.embedding}."]}
    digits = max(2, len(str(layers - 1)))
    for number in range(layers):
        prefix = OURS.layer.format(number)
        groups[f"layer-{number:0{digits}}.safetensors"] = [prefix]
        quantisable |= {f"{prefix}{OURS.qkv[0]}.weight", f"{prefix}{OURS.output}.weight"}
    groups["head.safetensors"] = [OURS.norm, f"{OURS.lm_head}."]
    planned: dict[str, list[PlannedTensor]] = {file: [] for file in groups}
    for tensor in source.tensors.values():
        file = next(file for file, starts in groups.items() if tensor.name.startswith(tuple(starts)))
        if dense_bits is not None and tensor.name in quantisable:
            planned[file] += _quantised(tensor, dense_bits)
        else:
            planned[file].append(PlannedTensor(tensor.name, tensor.dtype, tensor.shape, tensor))
    return tuple(_plan_file(file, tensors) for file, tensors in planned.items())


def _quantised(tensor: SourceTensor, bits: int) -> list[PlannedTensor]:
    """The three tensors that `tensor`, a projection's weight, becomes."""
    if tensor.dtype == "U32":
        raise UsageError(
            f"{tensor.name} is quantised in the source already; quantising it again would lose twice: leave out "
            "--dense-bits, or convert OpenAI's own checkpoint"
        )
    rows, width = tensor.shape
    fitting = [group for group in AFFINE_GROUPS if width % group == 0 and group <= PREFERRED_GROUP]
    if not fitting:
        raise UsageError(
            f"{tensor.name} has {width} values a row; expected a multiple of {min(AFFINE_GROUPS)} to quantise it"
        )
    affine = Affine(bits, max(fitting))
    stem = tensor.name.removesuffix(".weight")
    small = (rows, width // affine.group_size)
    return [
        PlannedTensor(tensor.name, "U32", (rows, affine.packed_width(width)), tensor, affine),
        PlannedTensor(f"{stem}.scales", tensor.dtype, small, tensor, affine),
        PlannedTensor(f"{stem}.biases", tensor.dtype, small, tensor, affine),
    ]


def _plan_file(name: str, tensors: Sequence[PlannedTensor]) -> PlannedFile:
    ordered = tuple(sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor.dtype]))
    described, end = {}, 0
    for tensor in ordered:
        start, end = end, end + tensor.nbytes
        described[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "gptoss-mlx"}, **described}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % HEADER_ALIGNMENT)
    return PlannedFile(name, ordered, len(text).to_bytes(8, "little") + text)
