"""The trained network as a checkpoint in the Hugging Face layout: `python -m gptoss_mlx.pocket.export STATE OUT`.

Experts as MXFP4, everything else bfloat16, names and shapes of `openai/gpt-oss-20b`. Needs the `train` extra.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptoss_mlx.pocket.dimensions import Dimensions
from gptoss_mlx.pocket.network import DecoderLayer, Network
from gptoss_mlx.pocket.quantise import pack_mxfp4
from gptoss_mlx.tokenizer import Tokenizer


def interleave(gate_up: Tensor) -> Tensor:
    """Rows gate 0, up 0, gate 1, up 1, ... of `[experts, gate rows then up rows, ...]`."""
    gate, up = gate_up.chunk(2, 1)
    return torch.stack((gate, up), 2).flatten(1, 2)


def layer_tensors(layer: DecoderLayer, prefix: str, dims: Dimensions) -> dict[str, Tensor]:
    """One decoder layer's tensors by their Hugging Face names, float32 where not packed."""
    heads, kv_heads, size = dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim
    attention, experts = layer.attention, layer.experts
    tensors = {
        "input_layernorm.weight": layer.attention_norm.weight,
        "post_attention_layernorm.weight": layer.experts_norm.weight,
        "self_attn.sinks": attention.sinks,
        "self_attn.o_proj.weight": attention.out.weight,
        "self_attn.o_proj.bias": attention.out.bias,
        "mlp.router.weight": experts.router.weight,
        "mlp.router.bias": experts.router.bias,
        "mlp.experts.gate_up_proj_bias": interleave(experts.gate_up_bias),
        "mlp.experts.down_proj_bias": experts.down_bias,
    }
    rows = (heads * size, kv_heads * size, kv_heads * size)
    for name, weight, bias in zip("qkv", attention.qkv.weight.split(rows), attention.qkv.bias.split(rows), strict=True):
        tensors[f"self_attn.{name}_proj.weight"] = weight
        tensors[f"self_attn.{name}_proj.bias"] = bias
    for name, weight in (("gate_up_proj", interleave(experts.gate_up)), ("down_proj", experts.down)):
        blocks, scales = pack_mxfp4(weight)
        tensors[f"mlp.experts.{name}_blocks"] = blocks
        tensors[f"mlp.experts.{name}_scales"] = scales
    return {prefix + name: tensor.detach() for name, tensor in tensors.items()}


def checkpoint_tensors(network: Network) -> dict[str, Tensor]:
    """Every tensor of the checkpoint: bfloat16, or uint8 where packed."""
    tensors = {
        "model.embed_tokens.weight": network.embedding.detach(),
        "model.norm.weight": network.norm.weight.detach(),
        "lm_head.weight": network.head.detach(),
    }
    for index, layer in enumerate(network.layers):
        assert isinstance(layer, DecoderLayer)
        tensors |= layer_tensors(layer, f"model.layers.{index}.", network.dims)
    return {
        name: (tensor if tensor.dtype == torch.uint8 else tensor.to(torch.bfloat16)).contiguous()
        for name, tensor in tensors.items()
    }


def model_config(dims: Dimensions, tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of config.json, key for key as gpt-oss has it."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": tokenizer.special.return_,
        "experts_per_token": dims.experts_per_token,
        "head_dim": dims.head_dim,
        "hidden_act": "silu",
        "hidden_size": dims.hidden_size,
        "initial_context_length": dims.initial_context_length,
        "initializer_range": 0.02,
        "intermediate_size": dims.intermediate_size,
        "layer_types": ["sliding_attention", "full_attention"] * (dims.num_layers // 2),
        "max_position_embeddings": dims.max_position_embeddings,
        "model_type": "gpt_oss",
        "num_attention_heads": dims.num_attention_heads,
        "num_experts_per_tok": dims.experts_per_token,
        "num_hidden_layers": dims.num_layers,
        "num_key_value_heads": dims.num_key_value_heads,
        "num_local_experts": dims.num_experts,
        "output_router_logits": False,
        "pad_token_id": tokenizer.special.endoftext,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": dims.rms_norm_eps,
        "rope_scaling": {
            "beta_fast": dims.rope_beta_fast,
            "beta_slow": dims.rope_beta_slow,
            "factor": dims.rope_factor,
            "original_max_position_embeddings": dims.initial_context_length,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": int(dims.rope_theta),
        "router_aux_loss_coef": 0.9,
        "sliding_window": dims.sliding_window,
        "swiglu_limit": dims.swiglu_limit,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": dims.vocab_size,
    }


def write_checkpoint(network: Network, tokenizer_file: Path, out: Path) -> None:
    """Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and model.safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(tokenizer_file)
    special = tokenizer.special
    generation = {
        "bos_token_id": special.startoftext,
        "do_sample": True,
        "eos_token_id": [special.return_, special.endoftext, special.call],
        "pad_token_id": special.endoftext,
    }
    names = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": network.dims.max_position_embeddings,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for file, content in (
        ("config.json", model_config(network.dims, tokenizer)),
        ("generation_config.json", generation),
        ("tokenizer_config.json", names),
    ):
        (out / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if tokenizer_file.resolve() != (out / "tokenizer.json").resolve():
        (out / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    weights = out / "model.safetensors"
    save_file(checkpoint_tensors(network), weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def load_network(state: Path, tokenizer_file: Path) -> Network:
    """The network that a training run saved."""
    network = Network(Dimensions(Tokenizer.from_file(tokenizer_file).vocab_size))
    network.load_state_dict(torch.load(state, weights_only=True)["network"])
    return network


def main() -> None:
    """Reads the arguments and exports."""
    parser = argparse.ArgumentParser(description="Write a trained state as a Hugging Face checkpoint.")
    parser.add_argument("state", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path(__file__).parent / "checkpoint" / "tokenizer.json")
    arguments = parser.parse_args()
    write_checkpoint(load_network(arguments.state, arguments.tokenizer), arguments.tokenizer, arguments.out)


if __name__ == "__main__":
    main()
