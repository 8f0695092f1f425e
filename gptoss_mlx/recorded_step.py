"""One token's way through the model, recorded once and replayed: what Python does for a step, it does once.

Building the graph of a step call by call takes longer than a fast GPU takes to work it off. `mx.compile` records what
a function does to its arrays and replays it without Python. What cannot be recorded is the write into a full layer's
buffer: its place in the buffer is a number that changes with every token. So a step is cut there, into stretches from
the attention of one layer to the queries of the next that is cut:

    embed ── ... ── queries │ write │ attention ── ... ── queries │ write │ attention ── ... ── lm_head

A stretch is recorded again when shapes change: when a full layer's buffer grows. How many keys a kernel prepares for
(`most_keys`) is part of the recording, so a step serves lengths up to that; positions are arrays.

Owns: where a step is cut, and what passes from one stretch to the next. Does not own: which attention may be recorded
(`ops`), when a step is recorded and for how long it is kept (`model`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from gptoss_mlx.cache import FullLayerCache, KVCache, SlidingLayerCache
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.ops import Place, Position, Recording, Rotation

Compute: TypeAlias = Callable[..., tuple[mx.array, ...]]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What is recorded as one function."""

    run: Compute
    """Takes the place (position, length, cos, sin), what comes from before, and the rings of `ring_layers`. Gives the
    result, or `x`, queries and rows of layer `stop`; then the new rings."""
    ring_layers: range
    """The layers that lie inside it as a whole: sliding ones."""
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
        cuts = [index for index, cache in enumerate(caches) if isinstance(cache, FullLayerCache) or not recording.ring]
        self._inside = [isinstance(cache, FullLayerCache) and recording.full for cache in caches]
        """Whether the attention of a layer that is cut belongs to the stretch after it."""
        starts, stops = [None, *cuts], [*cuts, None]
        self._stretches = [
            self._record(start, stop, most_keys, embed, finish) for start, stop in zip(starts, stops, strict=True)
        ]

    def __call__(self, tokens: mx.array, cache: KVCache, place: Place) -> mx.array:
        """The result of `finish` for the one of `tokens`, `[1, 1]`; `cache`, not empty, takes it in."""
        fixed = (place.position.array, place.length.array, *place.rotation)
        before: tuple[mx.array, ...] = (tokens,)
        outputs = before
        for stretch in self._stretches:
            rings = [cache.layers[index].arrays[0] for index in stretch.ring_layers]
            outputs = stretch.run(*fixed, *before, *rings)
            for index, ring in zip(stretch.ring_layers, outputs[len(outputs) - len(rings) :], strict=True):
                sliding = cache.layers[index]
                assert isinstance(sliding, SlidingLayerCache)
                sliding.put_ring(ring)
            if stretch.stop is None:
                break
            x, q, rows = outputs[:3]
            layer_cache = cache.layers[stretch.stop]
            if self._inside[stretch.stop]:
                assert isinstance(layer_cache, FullLayerCache)
                before = (x, q, layer_cache.append(rows))
            else:
                before = (x, self._layers[stretch.stop].attention.attend(q, rows, layer_cache, place))
        return outputs[0]

    def _record(
        self,
        start: int | None,
        stop: int | None,
        most_keys: int,
        embed: Callable[[mx.array], mx.array],
        finish: Callable[[mx.array], mx.array],
    ) -> _Stretch:
        """The stretch from the attention of layer `start`, or the embedding, to the queries of `stop`, or the end."""
        layers, inside = self._layers, start is not None and self._inside[start]
        between = range(0 if start is None else start + 1, len(layers) if stop is None else stop)

        def compute(
            position: mx.array, length: mx.array, cos: mx.array, sin: mx.array, x: mx.array, *rest: mx.array
        ) -> tuple[mx.array, ...]:
            place = Place(
                Position(position, most_keys, exact=False),
                Position(length, most_keys, exact=False),
                Rotation(cos, sin),
            )
            if start is None:
                x = embed(x)
            else:
                layer = layers[start]
                attended = layer.attention.attend_all(rest[0], rest[1], place) if inside else rest[0]
                x = layer.experts(layer.attention.finish(attended, x))
            new_rings = []
            for index, ring in zip(between, rest[len(rest) - len(between) :], strict=True):
                layer = layers[index]
                q, rows = layer.attention.queries(x, place)
                attended, new_ring = layer.attention.attend_ring(q, rows, ring, place)
                x = layer.experts(layer.attention.finish(attended, x))
                new_rings.append(new_ring)
            if stop is None:
                return finish(x), *new_rings
            q, rows = layers[stop].attention.queries(x, place)
            return x, q, rows, *new_rings

        recorded: Compute = mx.compile(compute)
        return _Stretch(recorded, between, stop)
