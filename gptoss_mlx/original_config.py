"""OpenAI's original/config.json, told in the words of Hugging Face's config.json.

Source: https://github.com/openai/gpt-oss, gpt_oss/torch/model.py, `ModelConfig` and `RotaryEmbedding`: layers with an
even number slide, RMSNorm's epsilon is 1e-5, and YaRN's range is not rounded.
"""

from collections.abc import Mapping
from typing import Any, Final

from gptoss_mlx.errors import ConfigError

_SAME_IN_BOTH: Final = (
    "num_hidden_layers",
    "experts_per_token",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "swiglu_limit",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "sliding_window",
    "rope_theta",
    "initial_context_length",
)
"""Keys with one name and one meaning."""

_OTHERS: Final = ("num_experts", "rope_scaling_factor", "rope_ntk_alpha", "rope_ntk_beta")
"""Keys that Hugging Face's file names otherwise."""


def is_original(values: Mapping[str, Any]) -> bool:
    """Whether `values` are the original's: it names no model type, and YaRN by its own keys."""
    return "model_type" not in values and "rope_scaling_factor" in values


def in_huggingface_words(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`values` of original/config.json as Hugging Face's keys; unknown keys stay, so that they are refused by name.

    Raises `ConfigError`, naming `source`, for a missing key and for lengths that are no numbers.
    """
    for key in (*_SAME_IN_BOTH, *_OTHERS):
        if key not in values:
            raise ConfigError(f"{source}: {key} is missing; expected it in OpenAI's original config.json")
    length, factor = values["initial_context_length"], values["rope_scaling_factor"]
    for key, value in (("initial_context_length", length), ("rope_scaling_factor", factor)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 1 << 30:
            raise ConfigError(f"{source}: {key} is {value!r}; expected a number of at least 1")
    return {
        **{key: value for key, value in values.items() if key not in _OTHERS},
        "model_type": "gpt_oss",
        "max_position_embeddings": int(length * factor),
        "num_local_experts": values["num_experts"],
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": length,
            "beta_fast": values["rope_ntk_beta"],
            "beta_slow": values["rope_ntk_alpha"],
            "truncate": False,
        },
        "quantization_config": {"quant_method": "mxfp4"},
    }
