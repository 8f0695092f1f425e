"""What a KV cache has read, as arrays of the host: to be written to a file, and made into a cache again.

Rows of full layers as they are or in 8 bits: integers from -127 to 127 with one float32 scale for each position and
head, the largest magnitude of its `dim` values / 127. Rings of sliding layers are always as they are. Of the places
that a cache can go back to, the first two and the newest go along: enough for a next turn, another answer, an edit.

A record says which model, in which precision, it belongs to; `restore` gives a cache only for the same, and for arrays
of exactly the shapes that this model's cache has. Owns: that form. Does not own: the file (`kv_file`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.cache import FullLayerCache, KVCache, SlidingLayerCache
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError, UsageError
from gptoss_mlx.kv_pool import HeldCache
from gptoss_mlx.snapshot import LayerSnapshot, Snapshot

FIRST_PLACES: Final = 2
"""Places at the beginning that go along."""

NEWEST_PLACES: Final = 4
"""Newest places that go along, the end among them."""

KV_BITS: Final = (8,)
"""Bits to which rows can be cut."""

_AS_INTEGERS: Final = {mx.bfloat16: mx.uint16, mx.float16: mx.uint16, mx.float32: mx.uint32}

Array = npt.NDArray[Any]


class UnusableKV(GptOssError):
    """A record that is damaged, or that belongs to something else."""


@dataclass(frozen=True, slots=True)
class KVRecord:
    """What a cache has read."""

    model: str
    """Which model (`model_identity`)."""
    dtype: str
    """Of keys and values, such as "bfloat16"."""
    bits: int | None
    """8 where rows were cut to so many; None as they are."""
    start: int
    """Where the answers of the last turn began."""
    ends: tuple[int, ...]
    """Which of `places` are ends of messages."""
    places: tuple[tuple[int, tuple[int, ...]], ...]
    """Position of each place, rising, the last the end; and the first position that each sliding layer's ring holds."""
    arrays: tuple[Array, ...]
    """The token ids (int32); then each layer's: a full one's rows, or codes and scales; a ring for each place."""

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        return self.places[-1][0]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)


def record(held: HeldCache, length: int, model: str, bits: int | None = None) -> KVRecord:
    """The first `length` tokens of `held`, which it can go on from. Computes on the calling thread.

    `held` stays as it is. Raises UsageError for bits that are not offered.
    """
    if bits is not None and bits not in KV_BITS:
        raise UsageError(f"bits is {bits}; expected 8, or None to keep what was read as it is")
    before = [place for place in held.places if place.offset < length]
    places = [*before[:FIRST_PLACES], *before[FIRST_PLACES:][-(NEWEST_PLACES - 1) :], held.place_at(length)]
    dtype = held.cache.arrays[0].dtype
    arrays: list[Array] = [np.array(held.tokens[:length], dtype=np.int32)]
    for index, layer in enumerate(held.cache.layers):
        if isinstance(layer, FullLayerCache):
            rows = layer.rows(length)
            whole = rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=2)
            arrays += [_on_host(whole)] if bits is None else _cut(whole)
        else:
            arrays += [_on_host(_ring(place, index)) for place in places]
    return KVRecord(
        model,
        str(dtype).removeprefix("mlx.core."),
        bits,
        min(held.start, length),
        tuple(sorted(held.ends.intersection(place.offset for place in places))),
        tuple((place.offset, tuple(s.oldest for s in place.layers if s.ring is not None)) for place in places),
        tuple(arrays),
    )


def restore(kept: KVRecord, model: str, config: ModelConfig, dtype: mx.Dtype) -> HeldCache:
    """A cache that holds what was recorded, for the same model. Computes on the calling thread.

    Raises UnusableKV where model, precision, shapes or tokens are not this model's.
    """
    if kept.model != model:
        raise UnusableKV("it belongs to another model")
    if kept.dtype != str(dtype).removeprefix("mlx.core."):
        raise UnusableKV(f"it holds {kept.dtype}, and the model computes in {dtype}")
    if kept.bits is not None and kept.bits not in KV_BITS:
        raise UnusableKV(f"it has {kept.bits} bits")
    positions = [position for position, _ in kept.places]
    if not positions or positions[0] < 1 or positions != sorted(set(positions)):
        raise UnusableKV("its places do not rise")
    sliding = sum(kind != "full_attention" for kind in config.layer_types)
    if any(len(oldest) != sliding or not all(0 <= n <= at for n in oldest) for at, oldest in kept.places):
        raise UnusableKV("its rings are not of this model's layers")
    found = [(array.dtype.name, array.shape) for array in kept.arrays]
    if found != list(array_forms(kept, config)):
        raise UnusableKV("its arrays are not of this model's shapes")
    tokens = kept.arrays[0]
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise UnusableKV("it has tokens that are not in the vocabulary")
    return _held(kept, config, dtype)


def array_forms(kept: KVRecord, config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """numpy dtype and shape of each array that a record of these places has for a model of this config."""
    length, heads, dim = kept.tokens, 2 * config.num_key_value_heads, config.head_dim
    plain = "uint32" if kept.dtype == "float32" else "uint16"
    yield "int32", (length,)
    for kind in config.layer_types:
        if kind != "full_attention":
            yield from [(plain, (1, heads, config.sliding_window, dim))] * len(kept.places)
        elif kept.bits is None:
            yield plain, (1, heads, length, dim)
        else:
            yield "int8", (1, heads, length, dim)
            yield "float32", (1, heads, length, 1)


def _held(kept: KVRecord, config: ModelConfig, dtype: mx.Dtype) -> HeldCache:
    arrays = iter(kept.arrays[1:])
    layers: list[FullLayerCache | SlidingLayerCache] = []
    states: list[list[LayerSnapshot]] = [[] for _ in kept.places]
    sliding = 0
    for kind in config.layer_types:
        layer: FullLayerCache | SlidingLayerCache
        if kind == "full_attention":
            layer = FullLayerCache()
            rows = next(arrays)
            layer.append(_of_host(rows, dtype) if kept.bits is None else _widened(rows, next(arrays), dtype))
            for state, (position, _) in zip(states, kept.places, strict=True):
                state.append(replace(layer.snapshot(), offset=position))
        else:
            layer = SlidingLayerCache(config.sliding_window)
            for state, (position, oldest) in zip(states, kept.places, strict=True):
                state.append(LayerSnapshot(position, _of_host(next(arrays), dtype), oldest[sliding]))
            layer.restore(states[-1][-1])
            sliding += 1
        layers.append(layer)
    cache = KVCache.of_layers(layers)
    places = [Snapshot(cache, tuple(state)) for state in states]
    held = HeldCache(cache)
    held.hold([int(token) for token in kept.arrays[0]], kept.start, places, kept.ends)
    mx.eval(held.arrays)
    return held


def _ring(place: Snapshot, index: int) -> mx.array:
    ring = place.layers[index].ring
    assert ring is not None, "a sliding layer that has read something has a ring"
    return ring


def _on_host(array: mx.array) -> Array:
    """The bits of `array`, copied."""
    return np.array(mx.contiguous(array).view(_AS_INTEGERS[array.dtype]))


def _of_host(bits: Array, dtype: mx.Dtype) -> mx.array:
    return mx.array(bits).view(dtype)


def _cut(rows: mx.array) -> Sequence[Array]:
    """Codes and scales of `rows`."""
    wide = rows.astype(mx.float32)
    scales = mx.abs(wide).max(axis=-1, keepdims=True) / 127
    codes = mx.round(wide / mx.maximum(scales, 1e-30)).astype(mx.int8)
    return np.array(codes), np.array(scales)


def _widened(codes: Array, scales: Array, dtype: mx.Dtype) -> mx.array:
    return (mx.array(codes).astype(mx.float32) * mx.array(scales)).astype(dtype)
