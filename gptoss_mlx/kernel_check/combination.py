"""What verdicts on kernels hold for: a chip, a system, a version of MLX, the kernels' sources, a shape of model.

Owns: what belongs to it, of a loaded model and of one in a folder. Does not own: the verdicts (`store`).
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import Device
from gptoss_mlx.layouts import OURS
from gptoss_mlx.model import Model
from gptoss_mlx.ops import Projection, QuantizedLinear
from gptoss_mlx.settings import kernels_folder
from gptoss_mlx.weights import choose_dtype

SOURCE_PACKAGES: Final = ("gptoss_mlx.metal", "gptoss_mlx.ops", "gptoss_mlx.kernel_check")
"""Whose files a verdict depends on: the kernels, what chooses and launches them, what they are compared with, how."""


@dataclass(frozen=True, slots=True)
class Combination:
    """What a verdict holds for, and nothing else."""

    chip: str
    """Such as "Apple M3 Max"."""
    architecture: str
    """The GPU's family, such as "applegpu_g15s"."""
    system: str
    """The operating system with its version: the compiler of kernels comes with it."""
    mlx: str
    """MLX's version."""
    sources: str
    """sha256 of the kernels' sources."""
    model: Mapping[str, Any]
    """The model's shape: widths, heads, experts, quantisation, dtype."""

    @property
    def file(self) -> Path:
        """Where the verdicts for this chip and this shape of model are kept."""
        text = json.dumps([self.chip, self.architecture, dict(self.model)], sort_keys=True)
        return kernels_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def make_combination(model: Model, device: Device) -> Combination:
    """What verdicts on `model`'s kernels on `device` hold for."""
    dense = {
        "qkv": _storage(model.layers[0].attention.qkv),
        "output": _storage(model.layers[0].attention.output),
        "router": _storage(model.layers[0].experts.router),
        "lm_head": _storage(model.lm_head),
    }
    return combination_for(model_shape(model.config, dense, model.dtype), device)


def combination_for(shape: Mapping[str, Any], device: Device) -> Combination:
    """The combination of a model's shape with `device`, and with the software that runs now."""
    return Combination(
        chip=device.name,
        architecture=device.architecture,
        system=system_name(),
        mlx=importlib.metadata.version("mlx"),
        sources=sources_digest(),
        model=shape,
    )


def model_shape(config: ModelConfig, dense: Mapping[str, str], dtype: mx.Dtype) -> dict[str, Any]:
    """All of a model that the speed and the code of kernels depend on; `dense` is how projections are stored."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "query_heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "experts": config.num_experts,
        "experts_per_token": config.experts_per_token,
        "window": config.sliding_window,
        "vocabulary": config.vocab_size,
        "dense": dict(dense),
        "dtype": dtype_name(dtype),
    }


def _storage(linear: Projection) -> str:
    """How a projection is stored."""
    if isinstance(linear, QuantizedLinear):
        return quantised_name(linear.bits, linear.group_size)
    return dtype_name(linear.weight.dtype)


def quantised_name(bits: int, group_size: int) -> str:
    """ "8 bits in groups of 64"."""
    return f"{bits} bits in groups of {group_size}"


def dtype_name(dtype: mx.Dtype) -> str:
    """ "float32" for mlx.core.float32."""
    return str(dtype).removeprefix("mlx.core.")


def system_name() -> str:
    """The operating system with its version."""
    release = platform.mac_ver()[0]
    return f"macOS {release}" if release else f"{platform.system()} {platform.release()}"


@cache
def sources_digest() -> str:
    """sha256 of every source that a verdict depends on."""
    digest = hashlib.sha256()
    for package in SOURCE_PACKAGES:
        files = [entry for entry in resources.files(package).iterdir() if entry.name.endswith((".h", ".metal", ".py"))]
        for entry in sorted(files, key=lambda entry: entry.name):
            content = entry.read_bytes()
            digest.update(f"{package}/{entry.name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def combination_of(checkpoint: Checkpoint, device: Device) -> Combination:
    """What `make_combination` gives for the model, once it is loaded."""
    dtype = choose_dtype(checkpoint.recipes, device)
    layer = OURS.layer.format(0)
    names = {
        "qkv": layer + OURS.qkv[0],
        "output": layer + OURS.output,
        "router": layer + OURS.router,
        "lm_head": OURS.lm_head,
    }
    affine = {role: checkpoint.affine_of(name) for role, name in names.items()}
    dense = {
        role: dtype_name(dtype) if found is None else quantised_name(found.bits, found.group_size)
        for role, found in affine.items()
    }
    return combination_for(model_shape(checkpoint.config, dense, dtype), device)
