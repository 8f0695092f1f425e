"""A model of a published shape with few decoder layers of random weights: for trials on a machine without the model."""

from dataclasses import replace
from typing import Final

import mlx.core as mx
import numpy as np

from gptoss_mlx.attention import Attention
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.model import Model
from gptoss_mlx.moe import Experts
from gptoss_mlx.ops import ExpertLinear, Heads, Linear, Norm, Projection, QuantizedLinear

VOCABULARY: Final = 32768
"""Rows of lm_head at most: a sixth of the published one's, so that it fits any machine, and still more than a cache."""

GROUP_SIZE: Final = 64
"""Of quantised dense weights, as conversion makes them."""


def random_model(
    config: ModelConfig, dtype: mx.Dtype, *, layers: int = 1, dense_bits: int | None = None, seed: int = 0
) -> Model:
    """The first `layers`, a norm and a shortened lm_head of `config`'s shape, with values spread like trained ones.

    Dense weights have `dtype`, or `dense_bits` bits as a conversion leaves them (the router is never quantised). About
    670 MB for 20b with one layer, 480 MB more with each further one. It is for its operations only: the embedding is
    lm_head once more.
    """
    config = replace(
        config,
        num_hidden_layers=layers,
        layer_types=config.layer_types[:layers],
        vocab_size=min(config.vocab_size, VOCABULARY),
    )
    weights = _RandomWeights(dtype, dense_bits, seed)
    stack = [_random_layer(config, weights) for _ in range(layers)]
    lm_head = weights.projection(config.vocab_size, config.hidden_size, bias=False)
    norm = weights.norm(config.hidden_size, config.rms_norm_eps)
    return Model(config, embedding=lm_head, layers=stack, norm=norm, lm_head=lm_head, dtype=dtype)


def _random_layer(config: ModelConfig, weights: "_RandomWeights") -> DecoderLayer:
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_experts
    heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    rows = (heads.query + 2 * heads.kv) * heads.dim
    attention = Attention(
        norm=weights.norm(hidden, config.rms_norm_eps),
        qkv=weights.projection(rows, hidden),
        output=weights.projection(hidden, heads.query * heads.dim),
        sinks=weights.normal(heads.query),
        heads=heads,
    )
    return DecoderLayer(
        attention,
        Experts(
            norm=weights.norm(hidden, config.rms_norm_eps),
            router=weights.linear(experts, hidden),
            gate_up=weights.experts(experts, 2 * inner, hidden),
            down=weights.experts(experts, hidden, inner),
            experts_per_token=config.experts_per_token,
            swiglu_limit=config.swiglu_limit,
            swiglu_alpha=config.swiglu_alpha,
        ),
    )


class _RandomWeights:
    """Arrays of one dtype, each computed when it is made, so that no two are in memory in float32."""

    def __init__(self, dtype: mx.Dtype, dense_bits: int | None, seed: int) -> None:
        self._dtype = dtype
        self._dense_bits = dense_bits
        self._key = mx.random.key(seed)
        self._rng = np.random.default_rng(seed)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> mx.array:
        array = mx.random.normal(shape, dtype=self._dtype, loc=mean, scale=std, key=self._next_key())
        mx.eval(array)
        return array

    def norm(self, width: int, eps: float) -> Norm:
        return Norm(self.normal(width, std=0.05, mean=1.0), eps)

    def linear(self, out: int, width: int, *, bias: bool = True) -> Linear:
        return Linear(self.normal(out, width, std=width**-0.5), self.normal(out, std=0.1) if bias else None)

    def projection(self, out: int, width: int, *, bias: bool = True) -> Projection:
        linear = self.linear(out, width, bias=bias)
        if self._dense_bits is None:
            return linear
        codes, scales, offsets = mx.quantize(linear.weight, GROUP_SIZE, self._dense_bits)
        mx.eval(codes, scales, offsets)
        return QuantizedLinear(codes, scales, offsets, self._dense_bits, GROUP_SIZE, linear.bias)

    def experts(self, experts: int, out: int, width: int) -> ExpertLinear:
        # Random codes spread like 2.8 scales; an exponent of -8 brings that near width^-0.5 for 2880, as after
        # training.
        # From numpy: MLX draws no whole words.
        words = self._rng.integers(0, 2**32, size=(experts, out, width // 8), dtype=np.uint32)
        blocks = mx.array(words)
        del words
        scales = mx.random.randint(118, 121, (experts, out, width // 32), dtype=mx.uint8, key=self._next_key())
        mx.eval(blocks, scales)
        return ExpertLinear(blocks, scales, self.normal(experts, out, std=0.1))

    def _next_key(self) -> mx.array:
        self._key, key = mx.random.split(self._key)
        return key
