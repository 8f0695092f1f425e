"""Random gpt-oss checkpoints in exactly the Hugging Face layout: names, shapes, dtypes, shards, config.

Seeded, so that golden data made elsewhere from the same seed belongs to the same weights. Needs numpy only; bfloat16
is made by cutting float32 down to its upper half.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gptoss_mlx.config import ModelConfig

Tensors = dict[str, np.ndarray]
"""Arrays by Hugging Face name: uint16 holds the bits of bfloat16, uint8 the bytes of MXFP4."""


def tiny_config(**changes: Any) -> dict[str, Any]:
    """config.json of a small gpt-oss; `changes` replace keys, and None removes one."""
    layers = changes.get("num_hidden_layers", 4)
    config: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 61,
        "experts_per_token": 4,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "layer_types": [("sliding_attention", "full_attention")[n % 2] for n in range(layers)],
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 8,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "pad_token_id": 63,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
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
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": 64,
    }
    config.update(changes)
    return {key: value for key, value in config.items() if value is not None}


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Every tensor of a checkpoint with this config, of a spread like a trained one's."""
    shape = ModelConfig.from_dict(config)
    rng = np.random.default_rng(seed)
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.num_local_experts
    query, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim

    def normal(*size: int, std: float, mean: float = 0.0) -> np.ndarray:
        return bfloat16_bits(mean + std * rng.standard_normal(size, dtype=np.float32))

    def mxfp4(name: str, out: int, width: int) -> Tensors:
        # Random codes spread like 2.8 scales; the exponent brings that to width^-0.5, as after training.
        exponent = 127 + round(np.log2(width**-0.5 / 2.8))
        return {
            f"{name}_blocks": rng.integers(0, 256, size=(experts, out, width // 32, 16), dtype=np.uint8),
            f"{name}_scales": rng.integers(
                exponent - 1, exponent + 2, size=(experts, out, width // 32), dtype=np.uint8
            ),
            f"{name}_bias": normal(experts, out, std=0.1),
        }

    tensors: Tensors = {"model.embed_tokens.weight": normal(shape.vocab_size, hidden, std=1.0)}
    for n in range(shape.num_hidden_layers):
        layer: Tensors = {
            "input_layernorm.weight": normal(hidden, std=0.05, mean=1.0),
            "post_attention_layernorm.weight": normal(hidden, std=0.05, mean=1.0),
        }
        for name, out, width in (("q", query, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, query)):
            layer[f"self_attn.{name}_proj.weight"] = normal(out, width, std=width**-0.5)
            layer[f"self_attn.{name}_proj.bias"] = normal(out, std=0.1)
        layer["self_attn.sinks"] = normal(shape.num_attention_heads, std=1.0)
        layer["mlp.router.weight"] = normal(experts, hidden, std=hidden**-0.5)
        layer["mlp.router.bias"] = normal(experts, std=0.1)
        layer |= mxfp4("mlp.experts.gate_up_proj", 2 * inner, hidden) | mxfp4("mlp.experts.down_proj", hidden, inner)
        tensors |= {f"model.layers.{n}.{name}": array for name, array in layer.items()}
    tensors["model.norm.weight"] = normal(hidden, std=0.05, mean=1.0)
    tensors["lm_head.weight"] = normal(shape.vocab_size, hidden, std=2 * hidden**-0.5)
    return tensors


def write_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Tensors, *, shards: int = 1) -> Path:
    """`folder` with config.json and the tensors in one file, or in `shards` files and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    names, weight_map = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard:05d}-of-{shards - 1:05d}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        write_safetensors(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    total = sum(array.nbytes for array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def random_checkpoint(folder: Path, *, seed: int = 0, shards: int = 1, **changes: Any) -> Path:
    """A random checkpoint in `folder`, of `tiny_config(**changes)`."""
    config = tiny_config(**changes)
    return write_checkpoint(folder, config, random_tensors(config, seed), shards=shards)


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """A safetensors file; uint16 is written as BF16, every other dtype under its own name."""
    dtypes = {
        "uint16": "BF16", "uint8": "U8", "float32": "F32", "float16": "F16", "int32": "I32", "uint32": "U32"
    }  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": dtypes[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float32 `values` cut down to bfloat16, as the uint16 that holds its bits."""
    return (np.ascontiguousarray(values, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)


def float32_of(array: np.ndarray) -> np.ndarray:
    """A dense tensor's values: bfloat16 bits (uint16) or any float, as float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
