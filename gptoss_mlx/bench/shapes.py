"""Models of a shape without their weights: to look at what a step would do, not at what comes out.

Every array has its shape and dtype and takes no memory: one zero, broadcast. Nothing here may be evaluated.

Owns: making such models and caches, ours and mlx-lm's. Does not own: what is looked at (`graph`).
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, cast

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.cache import GROWTH_TOKENS, RECENT_TOKENS, FullLayerCache, KVCache, SlidingLayerCache
from gptoss_mlx.config import LayerType, ModelConfig
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.model import Model
from gptoss_mlx.moe import Experts
from gptoss_mlx.ops import ExpertLinear, Heads, Linear, Norm, Projection, QuantizedLinear


@dataclass(frozen=True, slots=True)
class Shape:
    """What the graph of a step depends on."""

    config: ModelConfig
    dense_bits: int | None = None
    """Bits of the projections, embedding and lm_head; None: they are `dtype`."""
    group_size: int = 64
    """Values that share a scale, where those are quantised."""
    dtype: mx.Dtype = mx.bfloat16
    """Of activations and the KV cache."""

    def with_layers(self, kinds: Sequence[LayerType]) -> "Shape":
        """The same with these layers."""
        config = replace(self.config, layer_types=tuple(kinds), num_hidden_layers=len(kinds))
        return replace(self, config=config)


class Stepping(Protocol):
    """A model that stands somewhere in a text, and can be asked for one decode step after the other."""

    def step(self, token: mx.array) -> tuple[mx.array, ...]:
        """What a decode step gives to evaluate, for the token `[1, 1]` before it: the next one `[1, 1]` first."""
        ...


class OurStep:
    """Our decode step."""

    def __init__(self, shape: Shape, position: int) -> None:
        """`position` tokens have been read."""
        self._model = make_model(shape)
        self._cache = make_cache(shape, position)

    def step(self, token: mx.array) -> tuple[mx.array, ...]:
        return (self._model.most_probable(token, self._cache),)


class MlxLmStep:
    """mlx-lm's decode step, as its `generate_step` does it without a sampler: the token and the log-probabilities."""

    def __init__(self, shape: Shape, position: int) -> None:
        from mlx_lm.models.cache import make_prompt_cache

        self._model = make_mlx_lm_model(shape)
        self._cache = make_prompt_cache(self._model)
        config = shape.config
        for kind, cache in zip(config.layer_types, self._cache, strict=True):
            # As its caches are after a prompt: a ring of the window, or a buffer that grows by 256.
            sliding = kind == "sliding_attention"
            capacity = config.sliding_window if sliding else _capacity(position)
            cache.keys = cache.values = blank(
                1, config.num_key_value_heads, capacity, config.head_dim, dtype=shape.dtype
            )
            cache.offset = position
            if sliding:
                cache._idx = position % config.sliding_window or config.sliding_window

    def step(self, token: mx.array) -> tuple[mx.array, ...]:
        logits = self._model(token, cache=self._cache)[:, -1, :]
        logprobs = logits - mx.logsumexp(logits, keepdims=True)
        return mx.argmax(logprobs, axis=-1, keepdims=True), logprobs


def blank(*shape: int, dtype: mx.Dtype) -> mx.array:
    """An array of this shape and dtype that takes no memory."""
    array = mx.broadcast_to(mx.array(0, dtype=dtype), shape)
    # Evaluated, it is a leaf of every graph; the broadcast copies nothing.
    mx.eval(array)
    return array


def make_model(shape: Shape) -> Model:
    """Our model of this shape."""
    config, dtype = shape.config, shape.dtype
    hidden, width, experts = config.hidden_size, config.intermediate_size, config.num_experts
    query = config.num_attention_heads * config.head_dim
    rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim

    def projection(out: int, into: int, bias: bool = True) -> Projection:
        offset = blank(out, dtype=dtype) if bias else None
        bits, group = shape.dense_bits, shape.group_size
        if bits is None:
            return Linear(blank(out, into, dtype=dtype), offset)
        # Two arrays: a trace takes what is done twice to one as done once.
        scales, offsets = (blank(out, into // group, dtype=dtype) for _ in range(2))
        codes = blank(out, into * bits // 32, dtype=mx.uint32)
        return QuantizedLinear(codes, scales, offsets, bits, group, offset)

    def expert_linear(out: int, into: int) -> ExpertLinear:
        return ExpertLinear(
            blank(experts, out, into // 8, dtype=mx.uint32),
            blank(experts, out, into // 32, dtype=mx.uint8),
            blank(experts, out, dtype=dtype),
        )

    norm = Norm(blank(hidden, dtype=dtype), config.rms_norm_eps)
    layers = [
        DecoderLayer(
            Attention(
                norm=norm,
                qkv=projection(rows, hidden),
                output=projection(hidden, query),
                sinks=blank(config.num_attention_heads, dtype=dtype),
                heads=Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim),
            ),
            Experts(
                norm=norm,
                router=projection(experts, hidden),
                gate_up=expert_linear(2 * width, hidden),
                down=expert_linear(hidden, width),
                experts_per_token=config.num_experts_per_tok,
                swiglu_limit=config.swiglu_limit,
                swiglu_alpha=config.swiglu_alpha,
            ),
        )
        for _ in config.layer_types
    ]
    table = projection(config.vocab_size, hidden, bias=False)
    return Model(config, embedding=table, layers=layers, norm=norm, lm_head=table, dtype=dtype)


def make_cache(shape: Shape, position: int) -> KVCache:
    """Our KV cache after `position` tokens."""
    config = shape.config
    cache = KVCache(config)

    def rows(capacity: int) -> mx.array:
        return blank(1, 2 * config.num_key_value_heads, capacity, config.head_dim, dtype=shape.dtype)

    flushed = position - position % RECENT_TOKENS
    cache.layers = [
        FullLayerCache.holding(rows(_capacity(position)), rows(RECENT_TOKENS), flushed, position)
        if kind == "full_attention"
        else SlidingLayerCache.holding(rows(config.sliding_window), position)
        for kind in config.layer_types
    ]
    return cache


def make_mlx_lm_model(shape: Shape) -> Any:
    """mlx-lm's model of this shape."""
    from mlx.utils import tree_map
    from mlx_lm.models import gpt_oss

    # Not typed.
    nn: Any = importlib.import_module("mlx.nn")
    config = shape.config
    model = gpt_oss.Model(
        gpt_oss.ModelArgs(
            num_hidden_layers=config.num_hidden_layers,
            num_local_experts=config.num_local_experts,
            num_experts_per_tok=config.num_experts_per_tok,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            head_dim=config.head_dim,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            sliding_window=config.sliding_window,
            # Annotated as an int there, and read as any number.
            rope_theta=cast(int, config.rope.theta),
            rope_scaling=_rope_scaling(config),
            layer_types=list(config.layer_types),
        )
    )

    def quantizes(experts: bool) -> Callable[[str, Any], bool]:
        return lambda path, module: hasattr(module, "to_quantized") and ("experts." in path) == experts

    nn.quantize(model, group_size=32, bits=4, mode="mxfp4", class_predicate=quantizes(experts=True))
    if shape.dense_bits is not None:
        group_size, bits = shape.group_size, shape.dense_bits
        nn.quantize(model, group_size=group_size, bits=bits, class_predicate=quantizes(experts=False))

    def emptied(array: mx.array) -> mx.array:
        return blank(*array.shape, dtype=shape.dtype if mx.issubdtype(array.dtype, mx.floating) else array.dtype)

    # What initialised the weights was never evaluated, and goes; the rotary frequencies are made once, not in a step.
    model.update(tree_map(emptied, model.parameters()))
    mx.eval([layer.self_attn.rope._freqs for layer in model.layers])
    return model


def _rope_scaling(config: ModelConfig) -> dict[str, Any]:
    """What mlx-lm reads of the rotary positions."""
    rope = asdict(config.rope)
    names = ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings")
    return {"rope_type": "yarn", **{name: rope[name] for name in names}}


def _capacity(position: int) -> int:
    """Positions that a growing buffer has room for once one more than `position` is in it."""
    return -(-(position + 1) // GROWTH_TOKENS) * GROWTH_TOKENS
