"""A model from a checkpoint folder as Hugging Face has it: bfloat16 for the dense tensors, MXFP4 for the experts.

Owns: which tensors a gpt-oss needs, checked against the headers before any is read; how they become the model's
arrays. Experts are taken as they lie in the file. q, k and v are stacked into one matrix, a decoder layer at a time,
so that loading never holds the model twice. Does not own: the container (`safetensors_file`), the number format
(`mxfp4`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.config import MXFP4_GROUP, ModelConfig
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.errors import ModelNotFound, NotEnoughMemory, UsageError, WeightsError
from gptoss_mlx.model import DecoderLayer, Model
from gptoss_mlx.moe import Experts
from gptoss_mlx.mxfp4 import NAN_SCALE
from gptoss_mlx.ops import ExpertLinear, Heads, Linear, Norm, Projection, QuantizedLinear
from gptoss_mlx.safetensors_file import TensorEntry, read_tensor_entries

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in all."""

FLOAT_DTYPES: Final = ("BF16", "F16", "F32")
"""How a dense tensor may be stored."""

COMPUTE_DTYPES: Final = (mx.float32, mx.bfloat16, mx.float16)
"""What a model may compute in."""

FLOAT32_MEMORY_SHARE: Final = 0.75
"""Without a GPU the dense weights become float32 when the model then takes at most this share of the memory."""


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """What a tensor of a checkpoint must be."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    """The safetensors dtypes that it may have."""


def expected_tensors(config: ModelConfig) -> dict[str, ExpectedTensor]:
    """Every tensor of a checkpoint of this shape, by its Hugging Face name."""
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_local_experts
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim

    def dense(*shape: int) -> ExpectedTensor:
        return ExpectedTensor(shape, FLOAT_DTYPES)

    def mxfp4(name: str, out: int, width: int) -> dict[str, ExpectedTensor]:
        groups = width // MXFP4_GROUP
        return {
            f"{name}_blocks": ExpectedTensor((experts, out, groups, MXFP4_GROUP // 2), ("U8",)),
            f"{name}_scales": ExpectedTensor((experts, out, groups), ("U8",)),
            f"{name}_bias": dense(experts, out),
        }

    layer = {
        "input_layernorm.weight": dense(hidden),
        "post_attention_layernorm.weight": dense(hidden),
        "self_attn.sinks": dense(config.num_attention_heads),
        "mlp.router.weight": dense(experts, hidden),
        "mlp.router.bias": dense(experts),
        **mxfp4("mlp.experts.gate_up_proj", 2 * inner, hidden),
        **mxfp4("mlp.experts.down_proj", hidden, inner),
    }
    for name, out, width in (("q", query, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, query)):
        layer[f"self_attn.{name}_proj.weight"] = dense(out, width)
        layer[f"self_attn.{name}_proj.bias"] = dense(out)
    return {
        "model.embed_tokens.weight": dense(config.vocab_size, hidden),
        "model.norm.weight": dense(hidden),
        "lm_head.weight": dense(config.vocab_size, hidden),
        **{
            f"model.layers.{n}.{name}": tensor
            for n in range(config.num_hidden_layers)
            for name, tensor in layer.items()
        },
    }


def check_tensors(entries: Mapping[str, TensorEntry], config: ModelConfig, folder: Path) -> None:
    """Raises `WeightsError` unless `entries` are exactly the tensors of `config`, each of its shape and dtype."""
    expected = expected_tensors(config)
    if missing := [name for name in expected if name not in entries]:
        raise WeightsError(
            f"{folder} lacks tensor {_first_of(missing)}; expected {len(expected)} tensors by its config.json; "
            "download the model again, or check that config.json belongs to it"
        )
    for name, entry in entries.items():
        wanted = expected.get(name)
        if wanted is None:
            extra = [other for other in entries if other not in expected]
            raise WeightsError(
                f"{entry.file} holds tensor {_first_of(extra)}, which a gpt-oss of this config.json does not have; "
                "check that config.json belongs to these weights"
            )
        if entry.shape != wanted.shape:
            raise WeightsError(
                f"{entry.file}: tensor {name} has shape {list(entry.shape)}; expected {list(wanted.shape)} by "
                "config.json; check that it belongs to these weights"
            )
        if entry.dtype not in wanted.dtypes:
            raise WeightsError(
                f"{entry.file}: tensor {name} has dtype {entry.dtype}; expected {' or '.join(wanted.dtypes)}"
            )


def choose_dtype(config: ModelConfig, device: Device) -> mx.Dtype:
    """What to compute in: bfloat16 on a GPU; else float32, or bfloat16 when float32 weights would crowd the memory.

    A processor multiplies float32 faster than bfloat16, and the published weights lose nothing by it.
    """
    roomy = loaded_bytes(config, mx.float32) <= FLOAT32_MEMORY_SHARE * device.memory_bytes
    return mx.float32 if roomy and not device.gpu else mx.bfloat16


def loaded_bytes(config: ModelConfig, dtype: mx.Dtype) -> int:
    """Bytes that the weights take in memory when the model computes in `dtype`, from a checkpoint as published."""
    embedding = config.vocab_size * config.hidden_size
    dense = 2 * embedding + (config.dense_parameters - embedding) * dtype.size
    return dense + config.num_hidden_layers * config.expert_layer_bytes


def load_model(folder: str | Path, *, dtype: mx.Dtype | None = None, progress: Progress | None = None) -> Model:
    """The model in `folder`, ready to compute.

    `dtype` is what activations, dense weights and KV cache are computed and held in (float32, bfloat16 or float16);
    None chooses by the machine, as `choose_dtype` says. Experts stay MXFP4. All arrays belong to the calling thread's
    streams, so the thread that loads a model is the one to run it.

    Raises `ConfigError` for config.json, `ModelNotFound` when there are no weights, `WeightsError` that names file,
    tensor, found and expected for everything wrong with them, and `NotEnoughMemory` when they cannot fit this machine
    at all. Headers are checked before the first tensor is read.
    """
    folder = Path(folder)
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise UsageError(f"dtype is {dtype}; expected mlx.core.float32, bfloat16 or float16")
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is not a folder; expected one with config.json and safetensors files")
    config = ModelConfig.from_file(folder / "config.json")
    entries = read_tensor_entries(folder)
    check_tensors(entries, config, folder)
    device = this_device()
    dtype = dtype or choose_dtype(config, device)
    needed = loaded_bytes(config, dtype)
    if needed > device.memory_bytes:
        raise NotEnoughMemory(
            f"the weights in {folder} take {needed / 2**30:.1f} GiB and this machine has "
            f"{device.memory_bytes / 2**30:.1f} GiB of memory; use a smaller model or a larger machine"
        )
    return _Loader(config, entries, dtype, progress or _no_progress).load()


class _Loader:
    """Takes checked tensors out of their files, one decoder layer at a time."""

    def __init__(
        self, config: ModelConfig, entries: Mapping[str, TensorEntry], dtype: mx.Dtype, progress: Progress
    ) -> None:
        self._config = config
        self._entries = entries
        self._dtype = dtype
        self._progress = progress
        self._total_bytes = sum(entry.nbytes for entry in entries.values())
        self._done_bytes = 0
        self._finite: dict[str, mx.array] = {}
        """Of every tensor taken since the last `_finish`: whether its values are finite, not computed yet."""
        self._open_file = cache(_open_lazily)

    def load(self) -> Model:
        config = self._config
        embedding = self._tensor("model.embed_tokens.weight")
        # Only rows of it are ever read, so it may stay as short as it is stored.
        embedding = embedding if embedding.itemsize == 2 else embedding.astype(self._dtype)
        self._finish(embedding)
        # The largest tensor comes before the decoder layers, while there is room for it in two dtypes at once.
        norm, lm_head = self._norm("model.norm"), Linear(self._dense("lm_head.weight"))
        self._finish(norm.weight, lm_head.weight)
        layers = [self._layer(f"model.layers.{number}.") for number in range(config.num_hidden_layers)]
        return Model(config, embedding=Linear(embedding), layers=layers, norm=norm, lm_head=lm_head, dtype=self._dtype)

    def _layer(self, prefix: str) -> DecoderLayer:
        config = self._config
        attention = Attention(
            norm=self._norm(f"{prefix}input_layernorm"),
            qkv=self._stacked([f"{prefix}self_attn.{name}_proj" for name in "qkv"]),
            output=self._stacked([f"{prefix}self_attn.o_proj"]),
            sinks=self._dense(f"{prefix}self_attn.sinks"),
            heads=Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim),
        )
        experts = Experts(
            norm=self._norm(f"{prefix}post_attention_layernorm"),
            router=self._stacked([f"{prefix}mlp.router"]),
            gate_up=self._expert_linear(f"{prefix}mlp.experts.gate_up_proj"),
            down=self._expert_linear(f"{prefix}mlp.experts.down_proj"),
            experts_per_token=config.num_experts_per_tok,
            swiglu_limit=config.swiglu_limit,
            swiglu_alpha=config.swiglu_alpha,
        )
        self._finish(
            attention.norm.weight,
            *_arrays(attention.qkv),
            *_arrays(attention.output),
            attention.sinks,
            experts.norm.weight,
            *_arrays(experts.router),
            *_arrays(experts.gate_up),
            *_arrays(experts.down),
        )
        return DecoderLayer(attention, experts)

    def _tensor(self, name: str) -> mx.array:
        """The tensor as it is stored; read when it is first evaluated."""
        entry = self._entries[name]
        # Taken out, or the file's dict would keep every tensor as it was stored for as long as loading lasts.
        array = self._open_file(entry.file).pop(name)
        if entry.dtype in FLOAT_DTYPES:
            # A sum is NaN or infinite when any of its terms is, and takes one pass without a second array of the size.
            self._finite[name] = mx.isfinite(array.sum(axis=-1)).all()
        elif name.endswith("_scales"):
            self._finite[name] = array.max() != NAN_SCALE
        else:
            self._finite[name] = mx.array(True)
        return array

    def _dense(self, name: str) -> mx.array:
        return self._tensor(name).astype(self._dtype)

    def _norm(self, name: str) -> Norm:
        return Norm(self._dense(f"{name}.weight"), self._config.rms_norm_eps)

    def _stacked(self, names: list[str]) -> Linear:
        """Projections of the same input as one, their outputs one after the other."""
        weights, biases = ([self._dense(f"{name}.{part}") for name in names] for part in ("weight", "bias"))
        return Linear(
            weights[0] if len(names) == 1 else mx.concatenate(weights),
            biases[0] if len(names) == 1 else mx.concatenate(biases),
        )

    def _expert_linear(self, name: str) -> ExpertLinear:
        """A projection of all experts, on the file's own bytes: sixteen of them are four 32-bit words."""
        blocks, scales = self._tensor(f"{name}_blocks"), self._tensor(f"{name}_scales")
        experts, out, groups, _ = blocks.shape
        return ExpertLinear(
            blocks.view(mx.uint32).reshape(experts, out, groups * 4), scales, self._dense(f"{name}_bias")
        )

    def _finish(self, *arrays: mx.array) -> None:
        """Reads `arrays`, refuses values that are not finite, and reports the bytes read."""
        entries = [self._entries[name] for name in self._finite]
        try:
            mx.eval(arrays, list(self._finite.values()))
        except RuntimeError as error:
            files = " or ".join(sorted({str(entry.file) for entry in entries}))
            raise WeightsError(f"{files} cannot be read: {error}") from error
        for entry in entries:
            if not self._finite[entry.name].item():
                found = "a scale byte of 255, which is NaN" if entry.dtype == "U8" else "NaN or infinity"
                raise WeightsError(
                    f"{entry.file}: tensor {entry.name} holds {found}; expected finite values; download the file again"
                )
        self._finite.clear()
        # Hand the memory of the tensors as they were stored back to the system, not to MLX's cache.
        mx.clear_cache()
        self._done_bytes += sum(entry.nbytes for entry in entries)
        self._progress(self._done_bytes, self._total_bytes)


def _arrays(linear: Projection | ExpertLinear) -> list[mx.array]:
    if isinstance(linear, ExpertLinear):
        return [linear.blocks, linear.scales, linear.bias]
    if isinstance(linear, QuantizedLinear):
        return [linear.weight, linear.scales, linear.biases, *([] if linear.bias is None else [linear.bias])]
    return [linear.weight] if linear.bias is None else [linear.weight, linear.bias]


def _open_lazily(file: Path) -> dict[str, mx.array]:
    """The arrays of a safetensors file, each read when it is evaluated."""
    try:
        arrays = mx.load(str(file), format="safetensors")
    except RuntimeError as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    assert isinstance(arrays, dict)
    return arrays


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _no_progress(done_bytes: int, total_bytes: int) -> None:
    """For a caller that asked for none."""
