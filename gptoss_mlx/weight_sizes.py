"""What a model's weights cost on disk and for each decoded token, of checkpoints and of conversions yet to be made.

Knows headers and plans; reads no weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert.plan import PlannedFile, make_plan
from gptoss_mlx.layouts import OURS, make_recipes
from gptoss_mlx.safetensors_file import ITEM_BYTES, TensorEntry
from gptoss_mlx.tensor_source import TensorSource


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model's weights cost."""

    weight_bytes: int
    """Bytes of the files that hold them, headers included."""
    bytes_per_token: int
    """Bytes of them that are read for each decoded token; computed from the tensors' sizes, not measured."""


def stored_sizes(checkpoint: Checkpoint) -> Sizes:
    """The sizes of a checkpoint on disk, in any layout."""
    files = {entry.file for entry in checkpoint.entries.values()}
    tensors = {name: tensor.nbytes for name, tensor in TensorSource(checkpoint).tensors.items()}
    return Sizes(sum(file.stat().st_size for file in files), bytes_per_token(checkpoint.config, tensors))


def planned_sizes(config: ModelConfig, dense_bits: int | None) -> Sizes:
    """The sizes that a conversion of a published model of this shape has, to the byte; `dense_bits` as there."""
    plan = planned_files(config, dense_bits)
    tensors = {tensor.name: tensor.nbytes for file in plan for tensor in file.tensors}
    return Sizes(sum(file.nbytes for file in plan), bytes_per_token(config, tensors))


def planned_files(config: ModelConfig, dense_bits: int | None) -> tuple[PlannedFile, ...]:
    """The files that a conversion of a published model of this shape writes; `dense_bits` as there."""
    recipes, quantised = make_recipes("gptoss", config, {})
    entries = {
        part.name: TensorEntry(
            part.name, part.dtypes[0], part.shape, math.prod(part.shape) * ITEM_BYTES[part.dtypes[0]], Path(), 0
        )
        for recipe in recipes.values()
        for part in recipe.parts
    }
    source = TensorSource(Checkpoint(Path(), config, "gptoss", entries, recipes, quantised, None))
    return make_plan(source, config.num_hidden_layers, dense_bits)


def bytes_per_token(config: ModelConfig, tensors: Mapping[str, int]) -> int:
    """Bytes of weights that one decoded token reads, of tensors with these sizes in bytes by our own names.

    One row of the embedding, the experts that a token visits, and everything else whole.
    """
    total = 0
    for name, nbytes in tensors.items():
        if name.startswith(f"{OURS.embedding}."):
            total += nbytes // config.vocab_size
        elif name.endswith(_OF_EXPERTS):
            total += nbytes * config.num_experts_per_tok // config.num_experts
        else:
            total += nbytes
    return total


_OF_EXPERTS: Final = tuple(
    name for names in (OURS.gate_up, OURS.down) for name in (*names.blocks, *names.scales, *names.bias)
)
"""How the names of tensors end that hold a part for each expert; the router is none of them."""
