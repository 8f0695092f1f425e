"""A model from a checkpoint's folder, in whichever of the four layouts it lies.

Owns: what dtype a model computes in, what it takes, and the order in which it is read: as `tensor_file` gives its
tensors, a decoder layer at a time, already stacked and in order, so that loading never holds a tensor twice. Experts
are taken as stored, and so are quantised dense weights. Does not own: which tensors become which arrays
(`model_parts`), names and shapes (`layouts`), files (`checkpoint`, `tensor_source`), the number format (`mxfp4`).
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import mlx.core as mx

from gptoss_mlx.checkpoint import Checkpoint, open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.errors import NotEnoughMemory, UsageError
from gptoss_mlx.file_pages import LARGE_BYTES, read_ahead
from gptoss_mlx.layouts import FLOAT_DTYPES, OURS, Recipe
from gptoss_mlx.memory import Needs
from gptoss_mlx.model import Model
from gptoss_mlx.model_parts import EMBEDDING, PartReader, Progress
from gptoss_mlx.ops import Heads
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tensor_file import TensorReader
from gptoss_mlx.tensor_source import TensorSource

COMPUTE_DTYPES: Final = (mx.float32, mx.bfloat16, mx.float16)
"""What a model may compute in."""

FLOAT32_MEMORY_SHARE: Final = 0.75
"""Without a GPU the dense weights become float32 when the model then takes at most this share of the memory."""

_LAYERS: Final = OURS.layer.split(".", 1)[0] + "."
"""How the names of all decoder layers' tensors begin."""


def choose_dtype(recipes: Mapping[str, Recipe], device: Device) -> mx.Dtype:
    """What to compute in: bfloat16 on a GPU; else float32, or bfloat16 when float32 weights would crowd the memory.

    A processor multiplies float32 faster than bfloat16, and the published weights lose nothing by it.
    """
    return _choose_dtype(loaded_bytes(recipes, mx.float32), device)


def loaded_bytes(recipes: Mapping[str, Recipe], dtype: mx.Dtype) -> int:
    """Bytes that the tensors of `recipes` take in memory when the model computes in `dtype`, float32 without a GPU."""
    return _held_bytes(_stored_tensors(recipes), dtype)


def needs_of(checkpoint: Checkpoint, device: Device, *, dtype: mx.Dtype | None = None) -> Needs:
    """What the checkpoint takes of the memory once it is loaded on `device`; of weights only headers were read."""
    return tensor_needs(checkpoint.config, _stored_tensors(checkpoint.recipes), device, dtype=dtype)


def tensor_needs(
    config: ModelConfig,
    tensors: Iterable[tuple[str, str, int]],
    device: Device,
    *,
    dtype: mx.Dtype | None = None,
) -> Needs:
    """The same of a model whose tensors are to have these names of ours, stored dtypes, and numbers of values."""
    tensors = list(tensors)
    dtype = dtype or _choose_dtype(_held_bytes(tensors, mx.float32), device)
    return Needs(config, _held_bytes(tensors, dtype), dtype.size)


def _choose_dtype(float32_bytes: int, device: Device) -> mx.Dtype:
    roomy = float32_bytes <= FLOAT32_MEMORY_SHARE * device.memory_bytes
    return mx.float32 if roomy and not device.gpu else mx.bfloat16


def _stored_tensors(recipes: Mapping[str, Recipe]) -> list[tuple[str, str, int]]:
    """Name, stored dtype and number of values of each tensor of ours."""
    return [
        # Bytes of blocks are held four to a word.
        (name, "U32" if name.endswith(".blocks") else recipe.parts[0].dtypes[0], math.prod(recipe.shape))
        for name, recipe in recipes.items()
    ]


def _held_bytes(tensors: Iterable[tuple[str, str, int]], dtype: mx.Dtype) -> int:
    total = 0
    for name, stored, values in tensors:
        as_stored = (
            stored not in FLOAT_DTYPES or name == EMBEDDING or (dtype == mx.float32 and 2 * values >= LARGE_BYTES)
        )
        total += values * (ITEM_BYTES[stored] if as_stored else dtype.size)
    return total


def load_model(folder: str | Path, *, dtype: mx.Dtype | None = None, progress: Progress | None = None) -> Model:
    """The model in `folder`, ready to compute: its weights are in memory, or mapped there (`file_pages`).

    `folder` is in our own format, or as Hugging Face, OpenAI's original/ or mlx-community ship it. `dtype` is what
    activations, dense weights and KV cache are computed and held in (float32, bfloat16 or float16); None chooses by
    the machine, as `choose_dtype` says. Experts stay MXFP4, quantised dense weights as they are; without a GPU, so do
    large bfloat16 weights where the model computes in float32, in which they are exact. All arrays belong to the
    calling thread's streams, so the thread that loads a model is the one to run it.

    Raises `ConfigError` for config.json, `ModelNotFound` when there are no weights, `WeightsError` that names file,
    tensor, found and expected for everything wrong with them, and `NotEnoughMemory` when they cannot fit this machine
    at all. Headers are checked before the first tensor is read.
    """
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise UsageError(f"dtype is {dtype}; expected mlx.core.float32, bfloat16 or float16")
    checkpoint = open_checkpoint(folder)
    config, device = checkpoint.config, this_device()
    dtype = dtype or choose_dtype(checkpoint.recipes, device)
    needed = loaded_bytes(checkpoint.recipes, dtype)
    if needed > device.memory_bytes:
        raise NotEnoughMemory(
            f"the weights in {folder} take {needed / 2**30:.1f} GiB and this machine has "
            f"{device.memory_bytes / 2**30:.1f} GiB of memory; use a smaller model or a larger machine"
        )
    source = TensorSource(checkpoint)
    with closing(
        TensorReader(source, float32=dtype == mx.float32, as_stored=frozenset({EMBEDDING}), on_gpu=device.gpu)
    ) as reader:
        parts = PartReader(checkpoint, reader, dtype, progress)
        # The largest tensors come before the decoder layers: there is room should one be needed in two dtypes at once.
        embedding = parts.embedding()
        norm, lm_head = parts.norm_and_head()
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        layers = [parts.layer(number, heads) for number in range(config.num_hidden_layers)]
        model = Model(config, embedding=embedding, layers=layers, norm=norm, lm_head=lm_head, dtype=dtype)
        # In the order of a forward pass; of the embedding only rows are ever looked at.
        layers_first = sorted(reader.mapped, key=lambda name: not name.startswith(_LAYERS))
        read_ahead([reader.mapped[name] for name in layers_first if name != EMBEDDING])
        return model
