"""gpt-oss in float64 numpy, written from the description of the model and sharing no code with the package.

Slow and plain on purpose: one function per operation, one loop per thing that the description says in words. Arrays
have no batch dimension: `[seq, …]`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
"""E2M1 without its sign."""


def to_float64(stored: np.ndarray) -> np.ndarray:
    """A dense tensor's values: uint16 is the bits of bfloat16."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) * 65536).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def mxfp4_values(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float64 `[..., groups * 32]` of `blocks` `[..., groups, 16]` and `scales` `[..., groups]`."""
    codes = np.stack([blocks % 16, blocks // 16], axis=-1).reshape(*scales.shape, 32)
    values = FP4[codes % 8] * np.where(codes >= 8, -1.0, 1.0)
    return (values * 2.0 ** (scales.astype(np.float64)[..., None] - 127)).reshape(*scales.shape[:-1], -1)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """`[seq, hidden]`, each row divided by its root mean square."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def yarn_frequencies(head_dim: int, theta: float, rope: Mapping[str, Any]) -> np.ndarray:
    """Radians a position of each pair, `[head_dim / 2]`, one pair at a time."""
    original = rope["original_max_position_embeddings"]

    def pair_with(rotations: float) -> float:
        return head_dim / 2 * math.log(original / (2 * math.pi * rotations)) / math.log(theta)

    low, high = pair_with(rope["beta_fast"]), pair_with(rope["beta_slow"])
    if rope["truncate"]:
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, head_dim - 1.0)
    frequencies = []
    for pair in range(head_dim // 2):
        own = 1.0 / theta ** (2 * pair / head_dim)
        share = min(max((pair - low) / (high - low), 0.0), 1.0)
        frequencies.append(own * (1 - share) + own / rope["factor"] * share)
    return np.array(frequencies)


def rotate(x: np.ndarray, positions: np.ndarray, frequencies: np.ndarray, factor: float) -> np.ndarray:
    """`x` `[seq, heads, dim]` with each pair (d, d + dim/2) turned by its position, as complex numbers."""
    half = x.shape[-1] // 2
    spin = factor * np.exp(1j * positions[:, None] * frequencies[None, :])
    turned = (x[..., :half] + 1j * x[..., half:]) * spin[:, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, sinks: np.ndarray, window: int | None) -> np.ndarray:
    """Causal attention of the last queries, `[queries, heads, dim]`, to keys and values `[keys, kv_heads, dim]`.

    With a `window`, a query sees that many positions, its own included. A sink takes part in the denominator only.
    """
    queries, heads, dim = q.shape
    keys, kv_heads, _ = k.shape
    here = np.arange(keys - queries, keys)[:, None]
    there = np.arange(keys)[None, :]
    seen = there <= here
    if window is not None:
        seen &= here - there < window
    out = np.empty_like(q)
    for head in range(heads):
        kv_head = head // (heads // kv_heads)
        scores = np.where(seen, q[:, head] @ k[:, kv_head].T / math.sqrt(dim), -np.inf)
        top = np.maximum(scores.max(axis=-1), sinks[head])[:, None]
        weights = np.exp(scores - top)
        out[:, head] = weights @ v[:, kv_head] / (weights.sum(axis=-1, keepdims=True) + np.exp(sinks[head] - top))
    return out


def route(logits: np.ndarray, experts_per_token: int) -> tuple[np.ndarray, np.ndarray]:
    """Each token's strongest experts and the softmax over them, `[seq, experts_per_token]`; of equals the lower."""
    chosen = np.array([sorted(range(len(row)), key=lambda e: (-row[e], e))[:experts_per_token] for row in logits])
    strength = np.take_along_axis(logits, chosen, axis=-1)
    weights = np.exp(strength - strength.max(axis=-1, keepdims=True))
    return chosen, weights / weights.sum(axis=-1, keepdims=True)


def swiglu(gate_up: np.ndarray, limit: float, alpha: float = 1.702) -> np.ndarray:
    """`[..., intermediate]` of interleaved gate (even) and up (odd), `[..., 2 * intermediate]`."""
    gate, up = np.minimum(gate_up[..., ::2], limit), np.clip(gate_up[..., 1::2], -limit, limit)
    return gate / (1 + np.exp(-alpha * gate)) * (up + 1)


class ReferenceModel:
    """The whole model over tensors as a checkpoint stores them."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
        self.config = config
        self._tensors = tensors
        self._rope = config.get("rope_scaling") or config["rope_parameters"]
        self._theta = self._rope.get("rope_theta", config.get("rope_theta"))

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float64 `[seq, vocab]`."""
        eps = self.config["rms_norm_eps"]
        x = self.dense("model.embed_tokens.weight")[tokens]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            x = x + self.attend(rms_norm(x, self.dense(prefix + "input_layernorm.weight"), eps), layer)
            x = x + self.experts(rms_norm(x, self.dense(prefix + "post_attention_layernorm.weight"), eps), layer)
        return rms_norm(x, self.dense("model.norm.weight"), eps) @ self.dense("lm_head.weight").T

    def dense(self, name: str) -> np.ndarray:
        """A dense tensor in float64."""
        return to_float64(self._tensors[name])

    def expert_weights(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Weights `[experts, out, in]` and biases `[experts, out]` of `name`."""
        weights = mxfp4_values(self._tensors[f"{name}_blocks"], self._tensors[f"{name}_scales"])
        return weights, self.dense(f"{name}_bias")

    def qkv(self, x: np.ndarray, layer: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rotated queries and keys, and values, `[seq, heads, dim]`, of the normed `x`."""
        prefix, dim = f"model.layers.{layer}.self_attn.", self.config["head_dim"]
        q, k, v = (
            (x @ self.dense(f"{prefix}{name}_proj.weight").T + self.dense(f"{prefix}{name}_proj.bias")).reshape(
                len(x), -1, dim
            )
            for name in "qkv"
        )
        frequencies = yarn_frequencies(dim, self._theta, self._rope)
        factor = 0.1 * math.log(self._rope["factor"]) + 1
        return rotate(q, positions, frequencies, factor), rotate(k, positions, frequencies, factor), v

    def attend(self, x: np.ndarray, layer: int) -> np.ndarray:
        """What attention adds to the residual stream, `[seq, hidden]`."""
        prefix = f"model.layers.{layer}.self_attn."
        q, k, v = self.qkv(x, layer, np.arange(len(x)))
        sliding = self.config["layer_types"][layer] == "sliding_attention"
        window = self.config["sliding_window"] if sliding else None
        out = attention(q, k, v, self.dense(prefix + "sinks"), window).reshape(len(x), -1)
        return out @ self.dense(prefix + "o_proj.weight").T + self.dense(prefix + "o_proj.bias")

    def experts(self, x: np.ndarray, layer: int) -> np.ndarray:
        """What the experts add to the residual stream, `[seq, hidden]`, one expert at a time."""
        prefix = f"model.layers.{layer}.mlp."
        logits = x @ self.dense(prefix + "router.weight").T + self.dense(prefix + "router.bias")
        chosen, weights = route(logits, self.config["num_experts_per_tok"])
        gate_up, gate_up_bias = self.expert_weights(prefix + "experts.gate_up_proj")
        down, down_bias = self.expert_weights(prefix + "experts.down_proj")
        out = np.zeros_like(x)
        for expert in range(len(gate_up)):
            token, choice = np.nonzero(chosen == expert)
            inner = swiglu(x[token] @ gate_up[expert].T + gate_up_bias[expert], self.config["swiglu_limit"])
            out[token] += weights[token, choice][:, None] * (inner @ down[expert].T + down_bias[expert])
        return out
