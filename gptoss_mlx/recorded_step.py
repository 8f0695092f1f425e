"""One token's way through the model, recorded once and replayed: what Python does for a step, it does once.

Building the graph of a step call by call takes longer than a fast GPU takes to work it off. `mx.compile` records what
a function does to its arrays and replays it without Python. Where kernels of ours compute the attention of every layer,
that is the whole step: positions are arrays, and what a layer keeps comes in and goes out.

Attention that is not a kernel cuts arrays by numbers that change with every token, and is called anew for each. So a
step is cut there, into stretches from the attention of one such layer to the queries of the next:

    embed ── ... ── queries │ attention │ o_proj ── ... ── queries │ attention │ o_proj ── ... ── lm_head

A stretch is recorded again when shapes change: when a full layer's body grows. How many keys a kernel prepares for
(`most_keys`) is part of the recording, so a step serves lengths up to that.

Owns: where a step is cut, and what passes from one stretch to the next. Does not own: which attention may be recorded
(`ops`), when a step is recorded and for how long it is kept (`model`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.cache import FullLayerCache, KVCache, SlidingLayerCache
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.ops import GrowingKV, Place, Position, Recording, Rotation

Compute: TypeAlias = Callable[..., tuple[mx.array, ...]]

Kept: TypeAlias = tuple[mx.array, ...]
"""What one layer's attention takes from its cache: a ring, or body, recent rows and how many positions are flushed."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What is recorded as one function."""

    run: Compute
    """Takes the position, cos and sin, what comes from before, and what the layers inside keep. Gives the result, or
    `x`, queries and rows of layer `stop`; then, for each layer inside, its new ring or recent rows."""
    inside: range
    """The layers that lie inside it as a whole."""
    stop: int | None
    """The layer whose queries it ends with; None for the last stretch."""


class RecordedStep:
    """One token's way through a model, for one implementation of the operations and up to so many keys."""

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        caches: Sequence[FullLayerCache | SlidingLayerCache],
        recording: Recording,
        most_keys: int,
        embed: Callable[[mx.array], mx.array],
        finish: Callable[[mx.array], mx.array],
    ) -> None:
        """`caches` tell the kinds of the `layers`; `embed` comes before the first, `finish` after the last."""
        self._layers = list(layers)
        recorded = [recording.full if isinstance(cache, FullLayerCache) else recording.ring for cache in caches]
        cuts = [index for index, inside in enumerate(recorded) if not inside]
        self._stretches = [
            self._record(start, stop, most_keys, embed, finish)
            for start, stop in zip([None, *cuts], [*cuts, None], strict=True)
        ]

    def __call__(self, tokens: mx.array, cache: KVCache, place: Place) -> mx.array:
        """The result of `finish` for the one of `tokens`, `[1, 1]`; `cache`, not empty, takes it in."""
        fixed = (place.position.array, *place.rotation)
        before: tuple[mx.array, ...] = (tokens,)
        outputs = before
        for stretch in self._stretches:
            inside = [cache.layers[index] for index in stretch.inside]
            outputs = stretch.run(*fixed, before, [_kept(layer) for layer in inside])
            for layer, new in zip(inside, outputs[len(outputs) - len(inside) :], strict=True):
                if isinstance(layer, FullLayerCache):
                    layer.put_recent(new)
                else:
                    layer.put_ring(new)
            if stretch.stop is None:
                break
            x, q, rows = outputs[:3]
            attention = self._layers[stretch.stop].attention
            before = x, attention.attend(q, rows, cache.layers[stretch.stop], place)
        return outputs[0]

    def _record(
        self,
        start: int | None,
        stop: int | None,
        most_keys: int,
        embed: Callable[[mx.array], mx.array],
        finish: Callable[[mx.array], mx.array],
    ) -> _Stretch:
        """The stretch from what layer `start` attended to, or the embedding, to the queries of `stop`, or the end."""
        layers = self._layers
        inside = range(0 if start is None else start + 1, len(layers) if stop is None else stop)

        def compute(
            position: mx.array, cos: mx.array, sin: mx.array, before: Sequence[mx.array], kept: Sequence[Kept]
        ) -> tuple[mx.array, ...]:
            place, rotation = Position(position, most_keys - 1, exact=False), Rotation(cos, sin)
            if start is None:
                x = embed(before[0])
            else:
                x, attended = before
                x = layers[start].experts(layers[start].attention.finish(attended, x))
            new = []
            for index, own in zip(inside, kept, strict=True):
                layer = layers[index]
                q, rows = layer.attention.queries(x, rotation)
                attended, new_own = _attend(layer.attention, q, rows, own, place)
                x = layer.experts(layer.attention.finish(attended, x))
                new.append(new_own)
            if stop is None:
                return finish(x), *new
            q, rows = layers[stop].attention.queries(x, rotation)
            return x, q, rows, *new

        recorded: Compute = mx.compile(compute)
        return _Stretch(recorded, inside, stop)


def _kept(cache: FullLayerCache | SlidingLayerCache) -> Kept:
    if isinstance(cache, SlidingLayerCache):
        return tuple(cache.arrays)
    # Whatever it holds has the shape of rows in everything but the number of positions.
    body, recent, flushed = cache.growing(cache.arrays[0])
    return body, recent, flushed.array


def _attend(
    attention: Attention, q: mx.array, rows: mx.array, kept: Kept, position: Position
) -> tuple[mx.array, mx.array]:
    """What one token attends to, and what is kept of its layer with its `rows` in it."""
    if len(kept) == 1:
        return attention.attend_ring(q, rows, kept[0], position)
    body, recent, flushed = kept
    kv = GrowingKV(body, recent, Position(flushed, position.most, exact=False))
    return attention.attend_growing(q, rows, kv, position)
