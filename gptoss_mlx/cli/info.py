"""`gptoss info`: what a model's folder holds, from its config and headers; no weights are read."""

import argparse
import json
import platform
from dataclasses import asdict
from typing import Any

from gptoss_mlx.checkpoint import Checkpoint, open_checkpoint
from gptoss_mlx.cli.terminal import shown_bytes, shown_count
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import this_device
from gptoss_mlx.memory import MemoryEstimate
from gptoss_mlx.models import find_model
from gptoss_mlx.weights import needs_of


def run(arguments: argparse.Namespace) -> int:
    """Prints the table or the JSON object; gives the exit code."""
    found = find_model(arguments.model)
    checkpoint = open_checkpoint(found.folder)
    config = checkpoint.config
    needs, device = needs_of(checkpoint, this_device()), this_device()
    fitting = needs.longest_context(device)
    estimate = needs.estimate(device, fitting or config.max_position_embeddings)
    files = {entry.file for entry in checkpoint.entries.values()}
    facts: dict[str, Any] = {
        "name": found.name,
        "folder": str(found.folder.resolve()),
        "layout": checkpoint.layout,
        "dense_bits": sorted({affine.bits for affine in checkpoint.quantised.values()}),
        "parameters": config.parameters,
        "active_parameters": config.active_parameters,
        "layers": config.num_hidden_layers,
        "experts": config.num_experts,
        "experts_per_token": config.experts_per_token,
        "hidden_size": config.hidden_size,
        "attention_heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "sliding_window": config.sliding_window,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "weight_files": len(files),
        "weight_bytes_on_disk": sum(file.stat().st_size for file in files),
        "weight_bytes_expected": config.weight_bytes,
        "kv_bytes_per_token": config.kv_bytes_per_token(),
        "kv_window_bytes": config.kv_window_bytes(),
        "context_that_fits": fitting,
        "memory": {**asdict(estimate), "needed_bytes": estimate.needed_bytes},
        "kernels": _kernels(checkpoint),
    }
    if arguments.json:
        print(json.dumps(facts))
        return 0
    for label, text in _rows(config, facts, estimate):
        print(f"{label:<12}{text}")
    return 0


def _rows(config: ModelConfig, facts: dict[str, Any], estimate: MemoryEstimate) -> list[tuple[str, str]]:
    sliding = config.layer_types.count("sliding_attention")
    full = config.num_hidden_layers - sliding
    context = config.max_position_embeddings
    cache = config.kv_bytes_per_token() * context + config.kv_window_bytes()
    return [
        ("model", f"{facts['name']} in {facts['folder']}"),
        (
            "parameters",
            f"{shown_count(config.parameters)} in all, {shown_count(config.active_parameters)} active per token",
        ),
        ("layers", f"{config.num_hidden_layers}: {sliding} sliding (window {config.sliding_window}), {full} full"),
        ("experts", f"{config.num_experts} a layer, {config.experts_per_token} per token, MXFP4"),
        (
            "attention",
            f"{config.num_attention_heads} query heads, {config.num_key_value_heads} key/value heads "
            f"of {config.head_dim}; hidden size {config.hidden_size}",
        ),
        ("vocabulary", f"{config.vocab_size:,} tokens"),
        (
            "context",
            f"{context:,} tokens; KV cache {shown_bytes(config.kv_bytes_per_token())} a token, "
            f"{shown_bytes(cache)} when full",
        ),
        ("memory", _memory(facts["context_that_fits"], estimate)),
        (
            "weights",
            f"{shown_bytes(facts['weight_bytes_on_disk'])} on disk in {facts['weight_files']} file(s), "
            f"layout {facts['layout']}, dense weights {_dense(facts['dense_bits'])}",
        ),
        *([] if facts["kernels"] is None else [("kernels", kernels_line(facts["kernels"]))]),
    ]


def _memory(fitting: int, estimate: MemoryEstimate) -> str:
    """What a run takes with the longest context that fits, reckoned."""
    sentence = estimate.sentence("it")
    if not estimate.fits:
        return f"DOES NOT FIT: {sentence}"
    return f"{fitting:,} tokens of context fit here: {sentence}"


def _dense(bits: list[int]) -> str:
    return "of " + " and ".join(map(str, bits)) + " bits" if bits else "not quantised"


def _kernels(checkpoint: Checkpoint) -> dict[str, str] | None:
    """What is known of each kernel on this machine; None where it cannot have any."""
    if platform.system() != "Darwin":
        return None
    from gptoss_mlx.device import this_device
    from gptoss_mlx.kernel_check.choice import known_verdicts

    device = this_device()
    if not device.metal:
        return None
    return {str(verdict.kernel): verdict.outcome.value for verdict in known_verdicts(checkpoint, device)}


def kernels_line(outcomes: dict[str, str]) -> str:
    """In a few words what is known of the kernels."""
    if not outcomes:
        return "not checked on this machine yet: the first load does it, or `gptoss check`"
    others = [f"{name} ({outcome})" for name, outcome in outcomes.items() if outcome != "kept"]
    used = f"{len(outcomes) - len(others)} of {len(outcomes)} are right and faster here"
    return f"{used}; left out: {', '.join(others)}" if others else used
