"""What is tried for each kernel: calls of an operation on random inputs, of the model's own shapes and weights.

A case is one call at one size. The same case goes to any implementation of the operations: to the kernel under trial,
to the stock path, and, with its activations in float32, to the stock path as the reference. Weights are the loaded
model's, so that a trial costs the memory of its activations only.

Owns: the sizes that stand for each class, and the inputs. Does not own: when a result is right (`verdict`), how a call
is timed (`timing`).
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import mlx.core as mx
import numpy as np

from gptoss_mlx.cache import GROWTH_TOKENS, RECENT_TOKENS
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.model import Model
from gptoss_mlx.ops import (
    GrowingKV,
    Linear,
    Ops,
    Position,
    Projection,
    QuantizedLinear,
    ReferenceOps,
    Rotation,
    Routing,
)
from gptoss_mlx.ops.kernel_classes import KernelClass
from gptoss_mlx.rope import YarnRope

Arrays: TypeAlias = tuple[mx.array, ...]
"""Activations: what an operation takes beside its weights, or gives."""

Call: TypeAlias = Callable[[Ops, DecoderLayer, Arrays], Arrays]
"""An operation of an implementation, with a decoder layer's weights, on inputs: its results."""

LM_HEAD_ROWS: Final = 16384
"""Rows of lm_head that the reference takes at once: in float32 the whole of it would not fit a small machine."""

SIZES: Final[dict[str, tuple[int, ...]]] = {
    "norm_qkv_rope@1": (1,),
    # Positions of the token: the ring is partly filled, just full, and was written over.
    "ring_attention@1": (3, 128, 1000),
    "full_attention@1": (1, 129, 700),
    "full_attention@1024": (1024, 4097),
    "linear_residual@1": (1,),
    "norm_router@1": (1,),
    "expert_gate_up@1": (1,),
    "expert_down@1": (1,),
    "norm_lm_head@1": (1,),
    "grouped_experts@2": (2, 8),
    "grouped_experts@32": (33, 64),
    "grouped_experts@128": (131, 256),
    "banded_attention@2": (2, 8, 4),
    "banded_attention@9": (9, 256),
    "causal_attention@2": (2, 8, 4),
    "causal_attention@9": (9, 256),
}
"""By class, the sizes at which a kernel must be right; at the last one it is timed. Each lies inside its class."""

BANDED_HISTORY: Final = 127
"""Positions that a sliding layer has read before a chunk."""

CAUSAL_HISTORY: Final = 500
"""Positions that a full layer has read before a chunk."""


@dataclass(frozen=True, slots=True)
class Case:
    """One operation on inputs of one size."""

    size: int
    """Tokens, keys or position."""
    inputs: Arrays
    """The activations."""
    call: Call
    exact: Call | None = None
    """The reference, where `call` in float32 would take too much memory."""
    carry: Callable[[Arrays, Arrays], Arrays] | None = None
    """From the inputs and the results of one call to the inputs of the next; None ties the first input to them."""

    def in_float32(self, stock: Ops, layer: DecoderLayer) -> Arrays:
        """The reference's results: the stock path with activations in float32."""
        inputs = tuple(x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x for x in self.inputs)
        return (self.exact or self.call)(stock, layer, inputs)

    def next_inputs(self, inputs: Arrays, results: Arrays) -> Arrays:
        """Inputs of the same values as `inputs` that wait for `results`: calls run one after the other, as in a model.

        Costs one small dispatch for each result, in every implementation.
        """
        return tied(inputs, results) if self.carry is None else self.carry(inputs, results)


@dataclass(frozen=True, slots=True)
class Trial:
    """All that one kernel is tried on, at one class of sizes."""

    kernel: KernelClass
    cases: tuple[Case, ...]
    """In each of them it must be right; in the last one it is timed."""

    @property
    def timed(self) -> Case:
        """The case that stands for the class."""
        return self.cases[-1]


def tied(inputs: Arrays, results: Arrays) -> Arrays:
    """`inputs`, the first of which cannot be had before all of `results`; its values stay."""
    first, *others = inputs
    for result in results:
        # A choice that always falls on the first: a multiplication by 0 would let a NaN through.
        # One value, taken as a view: to make the result flat might copy it, and not for every implementation.
        value = result[(0,) * (result.ndim - 1)][:1]
        first = mx.where(_always(), first, value.astype(first.dtype))
    return (first, *others)


def make_trial(model: Model, kernel: KernelClass, seed: int = 0) -> Trial:
    """The trial of `kernel` with the weights of `model`, on inputs that `seed` decides."""
    maker = _Maker(model, seed)
    build = getattr(maker, kernel.op)
    cases: tuple[Case, ...] = tuple(build(size) for size in SIZES[str(kernel)])
    if kernel.op == "norm_lm_head":
        cases = (maker.most_probable(1), *cases)
    return Trial(kernel, cases)


def make_joint_cases(model: Model, seed: int = 0) -> tuple[Case, ...]:
    """Both halves of a decoder layer, for one token and for several: what kernels hand to each other is right, too.

    Experts are chosen by logits of the case's own: the router's would fall either way at a near tie.
    """
    maker = _Maker(model, seed)
    return (
        maker.sliding_half(300),
        maker.full_half(300),
        maker.full_half(1500),
        *(maker.experts_half(tokens) for tokens in (1, 5, 40, 150)),
    )


class _Maker:
    """Makes the cases of one model; a method for each kernel, by its name, takes the size."""

    def __init__(self, model: Model, seed: int) -> None:
        self._model = model
        self._config = model.config
        self._rng = np.random.default_rng(seed)
        self._rope = YarnRope(model.config.head_dim, model.config.rope)

    def norm_qkv_rope(self, tokens: int) -> Case:
        rotation = self._rotation(1000, tokens)

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            attention = layer.attention
            return ops.norm_qkv_rope(inputs[0], attention.norm, attention.qkv, attention.heads, rotation)

        return Case(tokens, (self._hidden(tokens),), call)

    def ring_attention(self, position: int) -> Case:
        place = self._position(position)

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            q, rows, ring = inputs
            return ops.ring_attention(q, rows, ring, place, layer.attention.sinks, layer.attention.heads)

        def carry(inputs: Arrays, results: Arrays) -> Arrays:
            attended, ring = results
            # The next call gets the ring itself: in a model nobody else holds it, so that it is written in place.
            return (*tied(inputs[:2], (attended,)), ring)

        inputs = (self._queries(1), self._rows(1), self._rows(self._config.sliding_window))
        return Case(position, inputs, call, carry=carry)

    def full_attention(self, keys: int) -> Case:
        """One token's attention to all positions, its rows written: as a model has it, with recent rows or without."""
        position, length, flushed = self._position(keys - 1), self._position(keys), self._flushed(keys)
        slot = position.number - flushed.number

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            q, rows, whole, body, recent = inputs
            sinks, heads = layer.attention.sinks, layer.attention.heads
            if ops.keeps_recent(heads, q.dtype, keys):
                return ops.growing_attention(q, rows, GrowingKV(body, recent, flushed), position, sinks, heads)
            # A model writes the rows into `whole`. They are there already: written here, where all implementations
            # write them, they cost the same.
            return ops.full_attention(q, whole, length, sinks, heads), ops.write_rows(recent, rows, slot)

        def carry(inputs: Arrays, results: Arrays) -> Arrays:
            attended, recent = results
            # As with a ring: nobody else holds it, so that it is written in place.
            return (*tied(inputs[:-1], (attended,)), recent)

        # Longer than what counts, as a cache's is; what of the body does not count is something else.
        whole = self._rows(-(-keys // GROWTH_TOKENS) * GROWTH_TOKENS)
        body = self._with_rows(self._rows(whole.shape[2]), whole[:, :, : flushed.number], 0)
        recent = self._with_rows(self._rows(RECENT_TOKENS), whole[:, :, flushed.number : position.number], 0)
        rows = self._rows(1)
        whole = self._with_rows(whole, rows, position.number)
        return Case(keys, (self._queries(1), rows, whole, body, recent), call, carry=carry)

    def causal_attention(self, tokens: int) -> Case:
        length = self._position(CAUSAL_HISTORY + tokens)

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            q, kv = inputs
            return (ops.full_attention(q, kv, length, layer.attention.sinks, layer.attention.heads),)

        # The buffer is longer than what counts, as a cache's is.
        buffer = self._rows(-(-(length.number + 1) // GROWTH_TOKENS) * GROWTH_TOKENS)
        return Case(tokens, (self._queries(tokens), buffer), call)

    def banded_attention(self, tokens: int) -> Case:
        window = self._config.sliding_window

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            q, kv = inputs
            return (ops.banded_attention(q, kv, window, layer.attention.sinks, layer.attention.heads),)

        history = min(BANDED_HISTORY, window - 1)
        return Case(tokens, (self._queries(tokens), self._rows(history + tokens)), call)

    def linear_residual(self, tokens: int) -> Case:
        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            attended, residual = inputs
            return (ops.linear_residual(attended, layer.attention.output, residual),)

        attended = self._normal(1, tokens, self._config.num_attention_heads * self._config.head_dim)
        return Case(tokens, self._with_residual(call, attended), call)

    def norm_router(self, tokens: int) -> Case:
        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            return ops.norm_router(inputs[0], layer.experts.norm, layer.experts.router)

        return Case(tokens, (self._hidden(tokens),), call)

    def expert_gate_up(self, tokens: int) -> Case:
        routing = self._ready_routing(tokens)

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            return (_gate_up(ops, layer, copy(routing), inputs[0]),)

        return Case(tokens, (self._hidden(tokens),), call)

    def expert_down(self, tokens: int) -> Case:
        routing = self._ready_routing(tokens)

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            inner, residual = inputs
            return (ops.expert_down(inner, copy(routing), layer.experts.down, residual),)

        inner = self._normal(routing.pairs, self._config.intermediate_size)
        return Case(tokens, self._with_residual(call, inner), call)

    def grouped_experts(self, tokens: int) -> Case:
        choices = self._config.experts_per_token

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            # Sorting the pairs is part of the work, in this implementation or another.
            logits, normed, residual = inputs
            return _experts(ops, layer, Routing(logits, choices), normed, residual)

        return Case(tokens, self._with_residual(call, self._logits(tokens), self._hidden(tokens)), call)

    def norm_lm_head(self, tokens: int) -> Case:
        norm, lm_head = self._model.norm, self._model.lm_head

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            return (ops.norm_lm_head(inputs[0], norm, lm_head),)

        def exact(stock: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            return (self._exact_logits(stock, inputs[0]),)

        return Case(tokens, (self._hidden(tokens),), call, exact)

    def most_probable(self, tokens: int) -> Case:
        """norm_lm_head_argmax; its results are the exact logits of the tokens that it gives: at a tie, any is right."""
        norm, lm_head = self._model.norm, self._model.lm_head
        x = self._hidden(tokens)
        logits = self._exact_logits(ReferenceOps(), x.astype(mx.float32))

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            chosen = ops.norm_lm_head_argmax(inputs[0], norm, lm_head)[..., None]
            # A token that does not exist must not be read.
            return (mx.take_along_axis(logits, mx.minimum(chosen, logits.shape[-1] - 1), axis=-1),)

        def exact(stock: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            return (logits.max(axis=-1, keepdims=True),)

        return Case(tokens, (x,), call, exact)

    def sliding_half(self, position: int) -> Case:
        """One token through norm_qkv_rope, ring_attention and linear_residual."""
        rotation, place = self._rotation(position, 1), self._position(position)

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            x, ring = inputs
            attention = layer.attention
            q, rows = ops.norm_qkv_rope(x, attention.norm, attention.qkv, attention.heads, rotation)
            attended, ring = ops.ring_attention(q, rows, ring, place, attention.sinks, attention.heads)
            return ops.linear_residual(attended, attention.output, x), ring

        return Case(position, (self._stream(1), self._rows(self._config.sliding_window)), call)

    def full_half(self, keys: int) -> Case:
        """One token through norm_qkv_rope, the cache, attention to all positions and linear_residual."""
        rotation, position, length = self._rotation(keys - 1, 1), self._position(keys - 1), self._position(keys)
        flushed = self._flushed(keys)

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            x, buffer, recent = inputs
            attention = layer.attention
            q, rows = ops.norm_qkv_rope(x, attention.norm, attention.qkv, attention.heads, rotation)
            if ops.keeps_recent(attention.heads, q.dtype, keys):
                kv = GrowingKV(buffer, recent, flushed)
                attended, _ = ops.growing_attention(q, rows, kv, position, attention.sinks, attention.heads)
            else:
                written = ops.write_rows(buffer, rows, keys - 1)
                attended = ops.full_attention(q, written, length, attention.sinks, attention.heads)
            return (ops.linear_residual(attended, attention.output, x),)

        buffer = self._rows(keys + RECENT_TOKENS)
        recent = self._with_rows(self._rows(RECENT_TOKENS), buffer[:, :, flushed.number : keys - 1], 0)
        return Case(keys, (self._stream(1), buffer, recent), call)

    def experts_half(self, tokens: int) -> Case:
        """Tokens through norm_router, expert_gate_up and expert_down."""
        choices = self._config.experts_per_token

        def call(ops: Ops, layer: DecoderLayer, inputs: Arrays) -> Arrays:
            x, logits = inputs
            normed, _ = ops.norm_router(x, layer.experts.norm, layer.experts.router)
            return _experts(ops, layer, Routing(logits, choices), normed, x)

        return Case(tokens, (self._stream(tokens), self._logits(tokens)), call)

    def _exact_logits(self, stock: Ops, x: mx.array) -> mx.array:
        parts = []
        for part in row_parts(self._model.lm_head, LM_HEAD_ROWS):
            parts.append(stock.norm_lm_head(x, self._model.norm, part))
            mx.eval(parts[-1])
        return mx.concatenate(parts, axis=-1)

    def _hidden(self, tokens: int) -> mx.array:
        return self._normal(1, tokens, self._config.hidden_size)

    def _stream(self, tokens: int) -> mx.array:
        """A residual stream that does not drown what half a layer adds to it."""
        return self._normal(1, tokens, self._config.hidden_size, std=0.1)

    def _with_residual(self, call: Call, *inputs: mx.array) -> Arrays:
        """`inputs` and a residual of the size of what `call` adds to it, so that neither hides a fault of the other."""
        tokens = 1 if inputs[0].ndim < 3 else inputs[0].shape[1]
        nothing = mx.zeros((1, tokens, self._config.hidden_size), dtype=self._model.dtype)
        (added,) = call(ReferenceOps(), self._model.layers[0], (*inputs, nothing))
        size = float(mx.sqrt(mx.square(added.astype(mx.float32)).mean()))
        return (*inputs, self._normal(1, tokens, self._config.hidden_size, std=size))

    def _queries(self, tokens: int) -> mx.array:
        # So that scores are of size 1 to 3 and the softmax is neither flat nor a choice of one key.
        return self._normal(1, self._config.num_attention_heads, tokens, self._config.head_dim, std=2.0)

    def _rows(self, positions: int) -> mx.array:
        return self._normal(1, 2 * self._config.num_key_value_heads, positions, self._config.head_dim)

    def _with_rows(self, buffer: mx.array, rows: mx.array, start: int) -> mx.array:
        written = ReferenceOps().write_rows(buffer, rows, start)
        mx.eval(written)
        return written

    def _flushed(self, keys: int) -> Position:
        """How many of `keys` positions lie in a full layer's body, if nothing was ever dropped."""
        return self._position((keys - 1) // RECENT_TOKENS * RECENT_TOKENS)

    def _logits(self, tokens: int) -> mx.array:
        """Router logits of tokens that all choose otherwise, a quarter of them much the same experts."""
        values = self._rng.standard_normal((1, tokens, self._config.num_experts))
        values[:, : tokens // 4, : self._config.experts_per_token] += 3.0
        return mx.array(values.astype(np.float32))

    def _ready_routing(self, tokens: int) -> Routing:
        """A routing whose tables are there: computing them is charged to no kernel of a single token, so that none
        wins by sparing what another operation then needs all the same. To be copied for each call: an implementation
        may note in it what is its own.
        """
        routing = Routing(self._logits(tokens), self._config.experts_per_token)
        mx.eval(routing.logits, routing.experts, routing.weights, routing.pair_experts)
        return routing

    def _position(self, number: int) -> Position:
        position = Position.at(number)
        mx.eval(position.array)
        return position

    def _rotation(self, start: int, tokens: int) -> Rotation:
        rotation = self._rope.rotation(start, tokens)
        mx.eval(*rotation)
        return rotation

    def _normal(self, *shape: int, std: float = 1.0) -> mx.array:
        values = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
        made = mx.array(values).astype(self._model.dtype)
        mx.eval(made)
        return made


def row_parts(linear: Projection, rows: int) -> Sequence[Projection]:
    """`linear`, which has no bias, in parts of at most `rows` rows, as views."""
    return [_rows_of(linear, start, start + rows) for start in range(0, linear.weight.shape[0], rows)]


def _rows_of(linear: Projection, start: int, stop: int) -> Projection:
    if isinstance(linear, QuantizedLinear):
        weight, scales, offsets = linear.weight[start:stop], linear.scales[start:stop], linear.biases[start:stop]
        return QuantizedLinear(weight, scales, offsets, linear.bits, linear.group_size)
    return Linear(linear.weight[start:stop])


def _experts(ops: Ops, layer: DecoderLayer, routing: Routing, normed: mx.array, residual: mx.array) -> Arrays:
    inner = _gate_up(ops, layer, routing, normed)
    return (ops.expert_down(inner, routing, layer.experts.down, residual),)


def _gate_up(ops: Ops, layer: DecoderLayer, routing: Routing, normed: mx.array) -> mx.array:
    experts = layer.experts
    return ops.expert_gate_up(normed, routing, experts.gate_up, experts.swiglu_limit, experts.swiglu_alpha)


@cache
def _always() -> mx.array:
    return mx.array(True)
