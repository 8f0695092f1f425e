"""What a checkpoint's config.json says about the model, checked key by key.

Owns: the model's dimensions, the YaRN parameters, and the sizes that follow from them. A key that would change the
model and that this code does not carry out is refused, never ignored. Does not own: tokens, sampling, or any array.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from gptoss_mlx.errors import ConfigError
from gptoss_mlx.original_config import in_huggingface_words, is_original

LayerType = Literal["sliding_attention", "full_attention"]
"""How far a decoder layer looks back: `sliding_window` tokens, or all of them."""

MXFP4_GROUP: Final = 32
"""Values that share one scale in MXFP4, along the input dimension."""

HARMLESS_KEYS: Final = frozenset(
    {
        # Bookkeeping of transformers.
        "_attn_implementation",
        "_name_or_path",
        "architectures",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        # Training only.
        "attention_dropout",
        "initializer_range",
        "output_router_logits",
        "router_aux_loss_coef",
        # Text: the tokenizer and the harmony format know these better.
        "bos_token_id",
        "pad_token_id",
        # The original context length: `original_max_position_embeddings` of the YaRN parameters is what counts.
        "initial_context_length",
    }
)
"""Keys of config.json that do not change what the model computes; `model_type` is checked all the same."""

_FIXED_KEYS: Final[Mapping[str, object]] = MappingProxyType(
    {"attention_bias": True, "hidden_act": "silu", "tie_word_embeddings": False}
)
"""Keys that have one legal value in every gpt-oss."""

_ROPE_HARMLESS: Final = frozenset({"type"})
"""The name that `rope_type` had before; read as that."""

_QUANTIZATION_KEYS: Final = frozenset({"quant_method", "modules_to_not_convert", "dequantize"})
"""What an MXFP4 checkpoint says about its quantization; the tensors' dtypes are checked when they are loaded."""


_MLX_MODES: Final = ("mxfp4", "affine")
"""Kinds of quantisation in an mlx-community folder that this code computes with."""


@dataclass(frozen=True, slots=True)
class YarnParameters:
    """How rotary positions are stretched past the length the model was first trained at."""

    theta: float
    """Base of the geometric series of wavelengths."""
    factor: float
    """How many times longer the context became."""
    original_max_position_embeddings: int
    """Context length in tokens before the stretch."""
    beta_fast: float
    """Rotations over the original context above which a dimension is left alone."""
    beta_slow: float
    """Rotations over the original context below which a dimension is stretched by the whole factor."""
    truncate: bool
    """Whether the range between the two is rounded outwards to whole dimensions; false in gpt-oss."""
    attention_factor: float
    """What cos and sin are multiplied by: 0.1 ln(factor) + 1 unless the config says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of one gpt-oss model, under the names of the Hugging Face config.json."""

    vocab_size: int
    """Rows of the embedding and of lm_head."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width inside one expert."""
    num_hidden_layers: int
    """Decoder layers."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key/value heads; each serves `num_attention_heads / num_key_value_heads` query heads."""
    head_dim: int
    """Width of one head; even, because rotary positions turn pairs."""
    num_local_experts: int
    """Experts in every decoder layer."""
    num_experts_per_tok: int
    """Experts that each token visits."""
    sliding_window: int
    """Tokens that a sliding layer sees, the current one included."""
    layer_types: tuple[LayerType, ...]
    """One entry per decoder layer."""
    max_position_embeddings: int
    """The longest context, in tokens."""
    rms_norm_eps: float
    """Added to the mean square inside every RMSNorm."""
    rope: YarnParameters
    """Rotary positions (`rope_parameters`, or `rope_scaling` and `rope_theta` in older files)."""
    swiglu_limit: float = 7.0
    """Clamp inside the experts: gate from above, up from both sides."""
    swiglu_alpha: float = 1.702
    """Gain of the sigmoid inside the experts."""
    eos_token_ids: tuple[int, ...] = ()
    """What config.json calls the end of a sequence; the stop ids of a conversation are harmony's."""

    @property
    def num_experts(self) -> int:
        """Experts in every decoder layer (`num_local_experts`)."""
        return self.num_local_experts

    @property
    def experts_per_token(self) -> int:
        """Experts that each token visits (`num_experts_per_tok`)."""
        return self.num_experts_per_tok

    @property
    def parameters(self) -> int:
        """Trained values in all, as OpenAI counts them."""
        return self._dense_parameters + self.num_hidden_layers * self.num_local_experts * self._expert_parameters

    @property
    def active_parameters(self) -> int:
        """Trained values that one token meets: all but the embedding and the experts that it does not visit."""
        visited = self.num_hidden_layers * self.num_experts_per_tok * self._expert_parameters
        return self._dense_parameters - self.vocab_size * self.hidden_size + visited

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors in the checkpoint as published: MXFP4 experts, bfloat16 for everything else."""
        return 2 * self._dense_parameters + self.num_hidden_layers * self.expert_layer_bytes

    @property
    def expert_layer_bytes(self) -> int:
        """Bytes of one decoder layer's experts: 4.25 bits a weight, bfloat16 biases."""
        weights = 3 * self.intermediate_size * self.hidden_size
        biases = 2 * self.intermediate_size + self.hidden_size
        return self.num_local_experts * (weights // 2 + weights // MXFP4_GROUP + 2 * biases)

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes of KV cache that each further token takes: the full layers' keys and values."""
        return self.layer_types.count("full_attention") * self._kv_row_values * bytes_per_value

    def kv_window_bytes(self, bytes_per_value: int = 2) -> int:
        """Bytes of KV cache that do not grow: the sliding layers' rings."""
        return self.layer_types.count("sliding_attention") * self.sliding_window * self._kv_row_values * bytes_per_value

    @property
    def _kv_row_values(self) -> int:
        return 2 * self.num_key_value_heads * self.head_dim

    @property
    def _expert_parameters(self) -> int:
        gate_up = 2 * self.intermediate_size * (self.hidden_size + 1)
        return gate_up + self.hidden_size * (self.intermediate_size + 1)

    @property
    def _dense_parameters(self) -> int:
        query, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = (
            (query + 2 * kv) * (self.hidden_size + 1) + self.hidden_size * (query + 1) + self.num_attention_heads
        )
        router = self.num_local_experts * (self.hidden_size + 1)
        layer = 2 * self.hidden_size + attention + router
        return 2 * self.vocab_size * self.hidden_size + self.hidden_size + self.num_hidden_layers * layer

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The config in the file `path`. Raises `ConfigError` when it is missing, not JSON, or not a gpt-oss."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.strerror or error}); a model folder needs its config.json"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON ({error}); fetch the file again") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds {type(values).__name__}; expected a JSON object of gpt-oss's config")
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "config") -> Self:
        """The config that `values` describe in Hugging Face's words, or in those of OpenAI's original/config.json.

        `source` names them in errors.

        Raises `ConfigError` for a missing key, a value of the wrong kind, dimensions that do not fit together, and
        every key that this code does not know to be harmless.
        """
        keys = _Keys(in_huggingface_words(values, source) if is_original(values) else values, source)
        keys.equals("model_type", "gpt_oss")
        for key, expected in _FIXED_KEYS.items():
            if key in keys.values:
                keys.equals(key, expected)
        layers = keys.integer("num_hidden_layers")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            hidden_size=keys.integer("hidden_size"),
            intermediate_size=keys.integer("intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=keys.integer("num_attention_heads"),
            num_key_value_heads=keys.integer("num_key_value_heads"),
            head_dim=keys.integer("head_dim"),
            num_local_experts=keys.either("num_local_experts", "num_experts"),
            num_experts_per_tok=keys.either("num_experts_per_tok", "experts_per_token"),
            sliding_window=keys.integer("sliding_window"),
            layer_types=_read_layer_types(keys, layers),
            max_position_embeddings=keys.integer("max_position_embeddings"),
            rms_norm_eps=keys.number("rms_norm_eps"),
            rope=_read_rope(keys),
            swiglu_limit=keys.number("swiglu_limit", default=7.0),
            swiglu_alpha=keys.number("swiglu_alpha", default=1.702),
            eos_token_ids=_read_token_ids(keys, "eos_token_id"),
        )
        _check_quantization(keys)
        _check_dimensions(config, source)
        keys.refuse_unread(HARMLESS_KEYS)
        return config


class _Keys:
    """One JSON object, read key by key, that knows which keys nobody asked for."""

    def __init__(self, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
        self.values = values
        self.source = source
        self._prefix = prefix
        self._read: set[str] = set()

    def error(self, key: str, expected: str) -> ConfigError:
        found = f"is {self.values[key]!r}" if key in self.values else "is missing"
        return ConfigError(f"{self.source}: {self._prefix}{key} {found}; expected {expected}")

    def raw(self, key: str) -> Any:
        self._read.add(key)
        return self.values.get(key)

    def equals(self, key: str, expected: object) -> None:
        if self.raw(key) != expected or isinstance(expected, bool) is not isinstance(self.raw(key), bool):
            raise self.error(key, f"{expected!r}, as in every gpt-oss")

    def integer(self, key: str) -> int:
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, "a whole number of at least 1")
        return value

    def either(self, key: str, other: str) -> int:
        """A whole number that goes by two names; when both are there they must agree."""
        if key not in self.values and other in self.values:
            return self.integer(other)
        value = self.integer(key)
        if other in self.values and self.raw(other) != value:
            raise self.error(other, f"{value}, the same as {key}")
        return value

    def number(self, key: str, *, default: float | None = None, minimum: float = 0.0) -> float:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value <= minimum
        ):
            raise self.error(key, f"a number above {minimum:g}")
        return float(value)

    def inner(self, key: str) -> "_Keys":
        value = self.raw(key)
        if not isinstance(value, dict):
            raise self.error(key, "a JSON object")
        return _Keys(value, self.source, f"{self._prefix}{key}.")

    def refuse_unread(self, harmless: frozenset[str]) -> None:
        for key in sorted(set(self.values) - self._read - harmless):
            # A key that transformers writes out as null asks for nothing.
            if self.values[key] is not None:
                raise self.error(key, "no such key: it may change the model, and this version does not carry it out")


def _read_layer_types(keys: _Keys, layers: int) -> tuple[LayerType, ...]:
    value = keys.raw("layer_types")
    if value is None:
        return tuple("full_attention" if layer % 2 else "sliding_attention" for layer in range(layers))
    kinds = ("sliding_attention", "full_attention")
    if not isinstance(value, list) or len(value) != layers or any(kind not in kinds for kind in value):
        raise keys.error("layer_types", f"a list of {layers}, each 'sliding_attention' or 'full_attention'")
    return tuple(value)


def _read_token_ids(keys: _Keys, key: str) -> tuple[int, ...]:
    value = keys.raw(key)
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
        raise keys.error(key, "a token id or a list of them")
    return tuple(ids)


def _read_rope(keys: _Keys) -> YarnParameters:
    """YaRN under its new name (`rope_parameters`, theta inside) or its old one (`rope_scaling`, theta beside)."""
    named = [name for name in ("rope_parameters", "rope_scaling") if keys.values.get(name) is not None]
    if len(named) > 1 and keys.raw("rope_parameters") != keys.raw("rope_scaling"):
        raise keys.error("rope_scaling", "the same values as rope_parameters, or only one of the two")
    rope = keys.inner(named[0] if named else "rope_parameters")
    kinds = [rope.raw(name) for name in ("rope_type", "type") if name in rope.values]
    if not kinds or any(kind != "yarn" for kind in kinds):
        raise rope.error(
            "type" if "rope_type" not in rope.values and kinds else "rope_type", "'yarn', as in every gpt-oss"
        )
    theta = (rope if "rope_theta" in rope.values else keys).number("rope_theta")
    if "rope_theta" in keys.values and keys.number("rope_theta") != theta:
        raise keys.error("rope_theta", f"{theta:g}, the same as inside {named[0]}")
    factor = rope.number("factor")
    truncate = rope.raw("truncate")
    if truncate is None:
        # The YaRN paper rounds, and so does transformers when the key is absent; gpt-oss always says false.
        truncate = True
    if not isinstance(truncate, bool):
        raise rope.error("truncate", "true or false")
    parameters = YarnParameters(
        theta=theta,
        factor=factor,
        original_max_position_embeddings=rope.integer("original_max_position_embeddings"),
        beta_fast=rope.number("beta_fast", default=32.0),
        beta_slow=rope.number("beta_slow", default=1.0),
        truncate=truncate,
        attention_factor=rope.number("attention_factor", default=0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0),
    )
    if parameters.theta <= 1:
        raise ConfigError(f"{keys.source}: rope_theta is {theta!r}; expected a number above 1")
    if parameters.beta_fast < parameters.beta_slow:
        raise rope.error("beta_fast", f"at least beta_slow, {parameters.beta_slow:g}")
    rope.refuse_unread(_ROPE_HARMLESS)
    return parameters


def _check_quantization(keys: _Keys) -> None:
    """Raises `ConfigError` unless the experts are MXFP4, as transformers or as mlx-lm says it."""
    mlx = keys.raw("quantization")
    if mlx is not None:
        # mlx-lm writes the same object under both names; older versions wrote this one only.
        if keys.raw("quantization_config") not in (None, mlx):
            raise keys.error("quantization_config", "the same values as quantization, or only one of the two")
        _check_mlx_quantization(keys.inner("quantization"))
        return
    quantization = keys.inner("quantization_config")
    quantization.equals("quant_method", "mxfp4")
    quantization.refuse_unread(_QUANTIZATION_KEYS)


def _check_mlx_quantization(quantization: _Keys) -> None:
    """Raises `ConfigError` for a mode that is neither MXFP4 nor affine; bits and groups are read off the tensors."""
    default = quantization.raw("mode")
    modes = {"mode": "affine" if default is None else default}
    for path, settings in quantization.values.items():
        if isinstance(settings, dict):
            modes[path] = settings.get("mode", "affine")
    for path, mode in modes.items():
        if mode not in _MLX_MODES:
            raise quantization.error(path, f"the mode {' or '.join(map(repr, _MLX_MODES))}")


def _check_dimensions(config: ModelConfig, source: str) -> None:
    """Raises `ConfigError` when the sizes do not fit together."""
    faults = (
        (config.head_dim % 2, "head_dim", config.head_dim, "an even number: rotary positions turn pairs"),
        (config.num_attention_heads % config.num_key_value_heads, "num_attention_heads", config.num_attention_heads,
         f"a multiple of num_key_value_heads, {config.num_key_value_heads}"),
        (config.num_experts_per_tok > config.num_local_experts, "num_experts_per_tok", config.num_experts_per_tok,
         f"at most num_local_experts, {config.num_local_experts}"),
        (config.hidden_size % MXFP4_GROUP, "hidden_size", config.hidden_size, "a multiple of 32, the MXFP4 group"),
        (config.intermediate_size % MXFP4_GROUP, "intermediate_size", config.intermediate_size,
         "a multiple of 32, the MXFP4 group"),
    )  # fmt: skip
    for fault, key, value, expected in faults:
        if fault:
            raise ConfigError(f"{source}: {key} is {value}; expected {expected}")


def _preset(layers: int, experts: int) -> Mapping[str, Any]:
    """config.json of a published size, as a dict."""
    return MappingProxyType(
        {
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": True,
            "eos_token_id": 200002,
            "experts_per_token": 4,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
            "max_position_embeddings": 131072,
            "model_type": "gpt_oss",
            "num_attention_heads": 64,
            "num_experts_per_tok": 4,
            "num_hidden_layers": layers,
            "num_key_value_heads": 8,
            "num_local_experts": experts,
            "pad_token_id": 199999,
            "quantization_config": {"quant_method": "mxfp4"},
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "rope_type": "yarn",
                "truncate": False,
            },
            "rope_theta": 150000,
            "sliding_window": 128,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": False,
            "vocab_size": 201088,
        }
    )


PRESETS: Final[Mapping[str, ModelConfig]] = MappingProxyType(
    {
        "20b": ModelConfig.from_dict(_preset(layers=24, experts=32), source="preset 20b"),
        "120b": ModelConfig.from_dict(_preset(layers=36, experts=128), source="preset 120b"),
    }
)
"""The two published sizes, without a checkpoint at hand."""
