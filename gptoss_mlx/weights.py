"""A model from a checkpoint's folder, in whichever of the four layouts it lies.

Owns: which of our tensors become which arrays of the model, and in what dtype. They are read as `tensor_file` gives
them, a decoder layer at a time: already stacked and in order, so that loading never holds a tensor twice. Experts are
taken as stored, and so are quantised dense weights. Does not own: names and shapes (`layouts`), files (`checkpoint`,
`tensor_source`), the number format (`mxfp4`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, cast

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.checkpoint import Checkpoint, open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.errors import NotEnoughMemory, UsageError
from gptoss_mlx.file_pages import LARGE_BYTES, read_ahead
from gptoss_mlx.layouts import FLOAT_DTYPES, OURS, Recipe
from gptoss_mlx.memory import Needs
from gptoss_mlx.model import Model
from gptoss_mlx.moe import Experts
from gptoss_mlx.ops import ExpertLinear, Heads, Linear, Norm, Projection, QuantizedLinear
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tensor_file import TensorReader
from gptoss_mlx.tensor_source import SourceTensor, TensorSource

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in all."""

COMPUTE_DTYPES: Final = (mx.float32, mx.bfloat16, mx.float16)
"""What a model may compute in."""

FLOAT32_MEMORY_SHARE: Final = 0.75
"""Without a GPU the dense weights become float32 when the model then takes at most this share of the memory."""

_LAYERS: Final = OURS.layer.split(".", 1)[0] + "."
"""How the names of all decoder layers' tensors begin."""

_EMBEDDING: Final = f"{OURS.embedding}.weight"
"""Only rows of it are ever read, so it stays as short as it is stored."""


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
            stored not in FLOAT_DTYPES or name == _EMBEDDING or (dtype == mx.float32 and 2 * values >= LARGE_BYTES)
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
    device = this_device()
    dtype = dtype or choose_dtype(checkpoint.recipes, device)
    needed = loaded_bytes(checkpoint.recipes, dtype)
    if needed > device.memory_bytes:
        raise NotEnoughMemory(
            f"the weights in {folder} take {needed / 2**30:.1f} GiB and this machine has "
            f"{device.memory_bytes / 2**30:.1f} GiB of memory; use a smaller model or a larger machine"
        )
    source = TensorSource(checkpoint)
    with closing(
        TensorReader(source, float32=dtype == mx.float32, as_stored=frozenset({_EMBEDDING}), on_gpu=device.gpu)
    ) as reader:
        model = _Loader(checkpoint, reader, dtype, progress or _no_progress).load()
        # In the order of a forward pass; of the embedding only rows are ever looked at.
        layers_first = sorted(reader.mapped, key=lambda name: not name.startswith(_LAYERS))
        read_ahead([reader.mapped[name] for name in layers_first if name != _EMBEDDING])
        return model


class _Loader:
    """Puts a model together, one decoder layer at a time."""

    def __init__(self, checkpoint: Checkpoint, reader: TensorReader, dtype: mx.Dtype, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._reader = reader
        self._dtype = dtype
        self._progress = progress
        self._arrays: dict[str, mx.array] = {}
        """What was read and is not part of the model yet."""
        self._done_bytes = 0

    def load(self) -> Model:
        config = self._checkpoint.config
        self._read(f"{OURS.embedding}.")
        embedding = self._projection(OURS.embedding, bias=False)
        # The largest tensor comes before the decoder layers: there is room should it be needed in two dtypes at once.
        self._read(OURS.norm, f"{OURS.lm_head}.")
        norm, lm_head = self._norm(OURS.norm), self._projection(OURS.lm_head, bias=False)
        layers = [self._layer(OURS.layer.format(number)) for number in range(config.num_hidden_layers)]
        return Model(config, embedding=embedding, layers=layers, norm=norm, lm_head=lm_head, dtype=self._dtype)

    def _layer(self, prefix: str) -> DecoderLayer:
        config = self._checkpoint.config
        self._read(prefix)
        attention = Attention(
            norm=self._norm(prefix + OURS.attention_norm),
            qkv=self._projection(prefix + OURS.qkv[0]),
            output=self._projection(prefix + OURS.output),
            sinks=self._arrays.pop(prefix + OURS.sinks),
            heads=Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim),
        )
        experts = Experts(
            norm=self._norm(prefix + OURS.experts_norm),
            router=self._projection(prefix + OURS.router),
            gate_up=self._expert_linear(f"{prefix}experts.gate_up"),
            down=self._expert_linear(f"{prefix}experts.down"),
            experts_per_token=config.num_experts_per_tok,
            swiglu_limit=config.swiglu_limit,
            swiglu_alpha=config.swiglu_alpha,
        )
        return DecoderLayer(attention, experts)

    def _read(self, *starts: str) -> None:
        """Reads our tensors whose names begin so, in the dtype that they are computed in, and reports the bytes."""
        tensors = [tensor for tensor in self._reader.source.tensors.values() if tensor.name.startswith(starts)]
        file = self._reader.open(tensor.name for tensor in tensors)
        arrays = mx.load(cast(BinaryIO, file), format="safetensors")
        if file.error is not None:
            raise file.error
        assert isinstance(arrays, dict)
        for tensor in tensors:
            array = arrays.pop(tensor.name)
            if (first := file.first_items.get(tensor.name)) is not None:
                array = array[first : first + math.prod(tensor.shape)].reshape(tensor.shape)
            if tensor.dtype in FLOAT_DTYPES and not self._stays_as_stored(tensor):
                array = array.astype(self._dtype)
            mx.eval(array)
            self._arrays[tensor.name] = array
            self._done_bytes += tensor.nbytes
        # Hand the memory of tensors that changed their dtype back to the system, not to MLX's cache.
        mx.clear_cache()
        self._progress(self._done_bytes, self._checkpoint.stored_bytes)

    def _stays_as_stored(self, tensor: SourceTensor) -> bool:
        """Whether a tensor of two-byte floats is held as it is though the model computes in another dtype."""
        if ITEM_BYTES[tensor.dtype] != 2:
            return False
        return tensor.name == _EMBEDDING or (self._dtype == mx.float32 and not self._reader.widens(tensor))

    def _norm(self, name: str) -> Norm:
        return Norm(self._arrays.pop(name), self._checkpoint.config.rms_norm_eps)

    def _projection(self, name: str, *, bias: bool = True) -> Projection:
        weight = self._arrays.pop(f"{name}.weight")
        affine = self._checkpoint.affine_of(name)
        if affine is None:
            return Linear(weight, self._arrays.pop(f"{name}.bias") if bias else None)
        return QuantizedLinear(
            weight,
            scales=self._arrays.pop(f"{name}.scales"),
            biases=self._arrays.pop(f"{name}.biases"),
            bits=affine.bits,
            group_size=affine.group_size,
            bias=self._arrays.pop(f"{name}.bias") if bias else None,
        )

    def _expert_linear(self, name: str) -> ExpertLinear:
        return ExpertLinear(
            self._arrays.pop(f"{name}.blocks"), self._arrays.pop(f"{name}.scales"), self._arrays.pop(f"{name}.bias")
        )


def _no_progress(done_bytes: int, total_bytes: int) -> None:
    """For a caller that asked for none."""
