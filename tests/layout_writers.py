"""The same weights in the other layouts, written from their description and sharing no code with the package.

`random_checkpoint` writes Hugging Face's; here are OpenAI's original/ and mlx-community's without quantised dense
weights. Those with quantised ones are mlx-lm's own work: `python -m tests.mlx_community SOURCE DESTINATION BITS`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.random_checkpoint import Tensors, write_checkpoint, write_safetensors

_ORIGINAL_NAMES = {
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "self_attn.sinks": "attn.sinks",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}


def original_tensors(config: Mapping[str, Any], tensors: Tensors) -> Tensors:
    """OpenAI's tensors for those of a Hugging Face checkpoint."""
    out: Tensors = {
        "embedding.weight": tensors["model.embed_tokens.weight"],
        "norm.scale": tensors["model.norm.weight"],
        "unembedding.weight": tensors["lm_head.weight"],
    }
    for layer in range(config["num_hidden_layers"]):
        theirs, ours = f"model.layers.{layer}.", f"block.{layer}."
        for part in ("weight", "bias"):
            rows = [tensors[f"{theirs}self_attn.{name}_proj.{part}"] for name in "qkv"]
            out[f"{ours}attn.qkv.{part}"] = np.concatenate(rows)
        out |= {ours + name: tensors[theirs + hf] for hf, name in _ORIGINAL_NAMES.items()}
    return out


def original_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """original/config.json for a Hugging Face config."""
    rope = config["rope_scaling"]
    same = (
        "num_hidden_layers", "experts_per_token", "vocab_size", "hidden_size", "intermediate_size", "swiglu_limit",
        "head_dim", "num_attention_heads", "num_key_value_heads", "sliding_window", "rope_theta",
    )  # fmt: skip
    return {
        **{key: config[key] for key in same},
        "num_experts": config["num_local_experts"],
        "initial_context_length": rope["original_max_position_embeddings"],
        "rope_scaling_factor": rope["factor"],
        "rope_ntk_alpha": rope["beta_slow"],
        "rope_ntk_beta": rope["beta_fast"],
    }


def write_original(folder: Path, config: Mapping[str, Any], tensors: Tensors, *, files: int = 1) -> Path:
    """OpenAI's layout: the tensors in as many files, with no index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(original_config(config)))
    stored = original_tensors(config, tensors)
    names = list(stored)
    for number in range(files):
        part = names[number * len(names) // files : (number + 1) * len(names) // files]
        name = "model.safetensors" if files == 1 else f"model--{number + 1:05d}-of-{files:05d}.safetensors"
        write_safetensors(folder / name, {key: stored[key] for key in part})
    return folder


def mlx_tensors(config: Mapping[str, Any], tensors: Tensors) -> Tensors:
    """mlx-lm's tensors for those of a Hugging Face checkpoint: gate and up apart, MXFP4 codes as words."""
    out: Tensors = {}
    for name, array in tensors.items():
        words = array.view("<u4").reshape(*array.shape[:2], -1) if name.endswith("_blocks") else array
        stem, _, kind = name.rpartition("_")
        kind = {"blocks": "weight", "scales": "scales", "bias": "bias"}.get(kind, "")
        if name.endswith(("gate_up_proj_blocks", "gate_up_proj_scales", "gate_up_proj_bias")):
            layer = stem.removesuffix("gate_up_proj")
            out[f"{layer}gate_proj.{kind}"] = np.ascontiguousarray(words[:, 0::2])
            out[f"{layer}up_proj.{kind}"] = np.ascontiguousarray(words[:, 1::2])
        elif name.endswith(("down_proj_blocks", "down_proj_scales", "down_proj_bias")):
            out[f"{stem}.{kind}"] = words
        else:
            out[name] = array
    return out


def write_mlx(folder: Path, config: Mapping[str, Any], tensors: Tensors, *, shards: int = 1) -> Path:
    """mlx-community's MXFP4 layout with dense weights as published, in one file, or in `shards` files and an index."""
    mode = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    values = {**config, "quantization": mode, "quantization_config": mode}
    return write_checkpoint(folder, values, mlx_tensors(config, tensors), shards=shards)
