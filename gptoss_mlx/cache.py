"""What attention keeps between steps: keys and values of the positions read so far.

A full layer keeps every position in a body that grows in steps. A sliding layer keeps the last `window` positions in a
ring, position p in slot p % window. Both hold keys and values in one array, `[batch, 2 * kv_heads, positions, dim]`,
keys first, so that one write serves both, and both know their offset.

A body can be written in place only while nobody else holds it, and a step that is under way holds what it reads: to
write a token's rows into it would be to copy it whole, unless the step before has ended. So where attention can take
them from there (`ops`), a full layer's most recent rows lie apart, in an array that every step makes anew, and go into
the body together, `RECENT_TOKENS` at a time. If that copies the body, it costs little: for the 20b at 32k tokens
0.8 GB are read and written, once in 128 tokens that read 128 * 3 GB.

Going back: a full layer can go back to any shorter length, because nothing before it is ever changed. A ring has
overwritten what a shorter length would need, so it can only go back to a snapshot, which costs the ring's bytes. While
a chunk is read, the rows before each of its positions are at hand: a snapshot inside it costs no more (`keep_at`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Protocol

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import UsageError
from gptoss_mlx.ops import GrowingKV, Position, current_ops
from gptoss_mlx.snapshot import LayerSnapshot, Sized, Snapshot

GROWTH_TOKENS: Final = 256
"""Positions by which a full layer's body grows."""

RECENT_TOKENS: Final = 128
"""Positions that a full layer keeps apart at most: their bytes are a sliding layer's."""


class LayerCache(Protocol):
    """What a full and a sliding layer's cache have in common."""

    @property
    def offset(self) -> int:
        """Positions read so far; the next token's position."""
        ...

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays that hold the cache, for `mx.eval`."""
        ...

    def can_trim(self, tokens: int) -> bool:
        """Whether the last `tokens` positions can be dropped."""
        ...

    def trim(self, tokens: int) -> None:
        """Drops the last `tokens` positions, which `can_trim` allowed."""
        ...

    def snapshot(self) -> LayerSnapshot:
        """Where the layer is now."""
        ...

    def can_restore(self, snapshot: LayerSnapshot) -> bool:
        """Whether the positions of `snapshot` are all still there."""
        ...

    def restore(self, snapshot: LayerSnapshot) -> None:
        """Goes back to `snapshot`, which `can_restore` allowed."""
        ...

    def fork(self, snapshot: LayerSnapshot) -> "FullLayerCache | SlidingLayerCache":
        """A cache of its own that stands at `snapshot`, which `can_restore` allowed."""
        ...


class FullLayerCache:
    """Every position's keys and values of one full-attention layer."""

    def __init__(self) -> None:
        self._body: mx.array | None = None
        self._recent: mx.array | None = None
        self._flushed = Position.at(0)
        """Positions in the body; those from there on lie in `_recent`, each in slot position - flushed."""
        self._offset = 0
        self._written = 0
        """Positions that are there, going back not counted."""
        self._overwrites: list[tuple[int, int]] = []
        """(number of the overwrite, length that it left untouched), lengths rising: an overwrite further back makes
        those before it irrelevant."""
        self._overwrite_count = 0

    @classmethod
    def holding(cls, body: mx.array, recent: mx.array, flushed: int, offset: int) -> "FullLayerCache":
        """A cache of `offset` positions, `flushed` of them in `body`, the others in `recent`.

        Both are `[batch, 2 * kv_heads, slots, dim]`.
        """
        cache = cls()
        cache._body, cache._recent, cache._flushed = body, recent, Position.at(flushed)
        cache._offset = cache._written = offset
        return cache

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def arrays(self) -> list[mx.array]:
        return [array for array in (self._body, self._recent) if array is not None]

    def append(self, rows: mx.array) -> mx.array:
        """The body `[batch, 2 * kv_heads, capacity, dim]`, every position in it and `rows` as the next ones.

        `offset` moves on.
        """
        self._begin_to_write()
        self._flush()
        self._grow(rows, self._offset + rows.shape[2])
        self._write(rows, self._offset)
        self._offset = self._written = self._flushed.number
        assert self._body is not None
        return self._body

    def growing(self, like: mx.array) -> GrowingKV:
        """What one more token attends to, with a slot for its rows; `put_recent` takes them, the slot filled.

        The rows will be `like` in everything but the number of positions.
        """
        self._begin_to_write()
        if self._offset - self._flushed.number == RECENT_TOKENS:
            self._flush()
        # As if the rows went into the body: it has room for them when they do, and grows as the length does.
        self._grow(like, self._offset + 1)
        if self._recent is None:
            batch, heads, _, dim = like.shape
            self._recent = mx.zeros((batch, heads, RECENT_TOKENS, dim), dtype=like.dtype)
        assert self._body is not None
        return GrowingKV(self._body, self._recent, self._flushed)

    def put_recent(self, recent: mx.array) -> None:
        """Takes `recent` with the next position written into it; `offset` moves on by one."""
        self._recent = recent
        self._offset += 1
        self._written = self._offset

    def can_trim(self, tokens: int) -> bool:
        return tokens <= self._offset

    def trim(self, tokens: int) -> None:
        self._offset -= tokens

    def snapshot(self) -> LayerSnapshot:
        return LayerSnapshot(self._offset, overwrites=self._overwrite_count)

    def can_restore(self, snapshot: LayerSnapshot) -> bool:
        kept = next((length for count, length in self._overwrites if count > snapshot.overwrites), snapshot.offset)
        return snapshot.offset <= kept

    def restore(self, snapshot: LayerSnapshot) -> None:
        self._offset = snapshot.offset

    def fork(self, snapshot: LayerSnapshot) -> "FullLayerCache":
        if not (rows := self.rows(snapshot.offset)):
            return FullLayerCache()
        fork = FullLayerCache()
        fork.append(rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=2))
        return fork

    def rows(self, length: int) -> list[mx.array]:
        """The first `length` positions that are there, in order, as parts `[batch, 2 * kv_heads, positions, dim]`."""
        flushed = self._flushed.number
        parts = [] if self._body is None else [self._body[:, :, : min(length, flushed)]]
        if length > flushed:
            assert self._recent is not None
            parts.append(self._recent[:, :, : length - flushed])
        return [part for part in parts if part.shape[2]]

    def _begin_to_write(self) -> None:
        """Gives up what lies from `offset` on: until then, a snapshot of it could have been restored."""
        if self._offset < self._written:
            while self._overwrites and self._overwrites[-1][1] >= self._offset:
                self._overwrites.pop()
            self._overwrite_count += 1
            self._overwrites.append((self._overwrite_count, self._offset))
            self._written = self._offset
        if self._offset < self._flushed.number:
            self._flushed = Position.at(self._offset)

    def _flush(self) -> None:
        """Writes what is kept apart into the body."""
        flushed = self._flushed.number
        if flushed < self._offset:
            assert self._recent is not None
            self._write(self._recent[:, :, : self._offset - flushed], flushed)

    def _write(self, rows: mx.array, start: int) -> None:
        """Writes `rows` into the body, which has room for them, from position `start` on."""
        assert self._body is not None
        # Once this is assigned nobody holds the old body any more: its evaluation writes in place unless a kernel that
        # is under way does.
        self._body = current_ops().write_rows(self._body, rows, start)
        self._flushed = Position.at(start + rows.shape[2])

    def _grow(self, like: mx.array, needed: int) -> None:
        """Makes room in the body for `needed` positions of the kind of `like`."""
        capacity = 0 if self._body is None else self._body.shape[2]
        if needed <= capacity:
            return
        batch, heads, _, dim = like.shape
        room = -(-needed // GROWTH_TOKENS) * GROWTH_TOKENS - capacity
        fresh = mx.zeros((batch, heads, room, dim), dtype=like.dtype)
        self._body = fresh if self._body is None else mx.concatenate([self._body, fresh], axis=2)


class SlidingLayerCache:
    """The last `window` positions' keys and values of one sliding layer."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._ring: mx.array | None = None
        self._offset = 0
        self._oldest = 0
        """The first position that the ring still holds."""
        self._marks: frozenset[int] = frozenset()
        """Positions at which a snapshot is made when reading gets there."""
        self._kept: dict[int, LayerSnapshot] = {}
        """Those that were made."""

    @classmethod
    def holding(cls, ring: mx.array, offset: int) -> "SlidingLayerCache":
        """A cache whose ring is `ring`, `[batch, 2 * kv_heads, window, dim]`, after `offset` positions."""
        cache = cls(ring.shape[2])
        cache._ring, cache._offset, cache._oldest = ring, offset, max(0, offset - ring.shape[2])
        return cache

    def keep_at(self, positions: frozenset[int]) -> None:
        """Has a snapshot made at each of `positions` that reading gets to; those made before are given up."""
        self._marks, self._kept = positions, {}

    @property
    def kept(self) -> dict[int, LayerSnapshot]:
        """The snapshots that `keep_at` asked for and reading got to, by position; reading on anew replaces them."""
        return self._kept

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def window(self) -> int:
        """Positions that a token sees, its own included."""
        return self._window

    @property
    def arrays(self) -> list[mx.array]:
        return [] if self._ring is None else [self._ring]

    def ring_for(self, rows: mx.array) -> mx.array:
        """The ring `[batch, 2 * kv_heads, window, dim]` that one token's `rows` belong in; `put_ring` takes it back."""
        if self._ring is not None:
            return self._ring
        batch, heads, _, dim = rows.shape
        return mx.zeros((batch, heads, self._window, dim), dtype=rows.dtype)

    def put_ring(self, ring: mx.array) -> None:
        """Takes `ring` with the next position written into it; `offset` moves on by one."""
        self._ring = ring
        self._advance(1)
        if self._offset in self._marks:
            self._kept[self._offset] = self.snapshot()

    def extend(self, rows: mx.array) -> mx.array:
        """The positions that `rows` may see, then `rows`, in order, `[batch, 2 * kv_heads, history + seq, dim]`.

        The ring takes the last of them; `offset` moves on by `seq`.
        """
        history = self._history()
        combined = rows if history is None else mx.concatenate([history, rows], axis=2)
        before, oldest = self._offset, self._oldest
        self._advance(rows.shape[2])
        first = self._offset - combined.shape[2]
        self._ring = self._ring_of(combined, first, self._offset)
        for position in self._marks:
            if before < position < self._offset:
                ring = self._ring_of(combined, first, position)
                self._kept[position] = LayerSnapshot(position, ring, max(oldest, position - self._window))
        if self._offset in self._marks:
            self._kept[self._offset] = self.snapshot()
        return combined

    def can_trim(self, tokens: int) -> bool:
        offset = self._offset - tokens
        # Nothing at all is needed to begin again; else every position that the next one sees.
        return offset == 0 or (offset > 0 and max(0, offset - self._window + 1) >= self._oldest)

    def trim(self, tokens: int) -> None:
        self._offset -= tokens
        self._oldest = min(self._oldest, self._offset)

    def snapshot(self) -> LayerSnapshot:
        return LayerSnapshot(self._offset, ring=self._ring, oldest=self._oldest)

    def can_restore(self, snapshot: LayerSnapshot) -> bool:
        return True

    def restore(self, snapshot: LayerSnapshot) -> None:
        self._offset, self._ring, self._oldest = snapshot.offset, snapshot.ring, snapshot.oldest

    def fork(self, snapshot: LayerSnapshot) -> "SlidingLayerCache":
        fork = SlidingLayerCache(self._window)
        fork.restore(snapshot)
        return fork

    def _ring_of(self, combined: mx.array, first: int, offset: int) -> mx.array:
        """The ring after `offset` positions; `combined` holds those from `first` on, as many as a ring needs."""
        kept = combined[:, :, max(0, offset - self._window - first) : offset - first]
        if offset < self._window:
            batch, heads, used, dim = kept.shape
            empty = mx.zeros((batch, heads, self._window - used, dim), dtype=kept.dtype)
            return mx.concatenate([kept, empty], axis=2)
        # The first kept row goes to its own slot, the rows past the ring's end to its beginning.
        split = self._window - offset % self._window
        return mx.concatenate([kept[:, :, split:], kept[:, :, :split]], axis=2)

    def _advance(self, seq: int) -> None:
        self._offset += seq
        self._oldest = max(self._oldest, self._offset - self._window)

    def _history(self) -> mx.array | None:
        """The positions before `offset` that the next one sees, in order; None when there are none."""
        if self._ring is None or self._offset == 0:
            return None
        first = max(0, self._offset - self._window + 1)
        start, stop = first % self._window, self._offset % self._window
        if start < stop:
            return self._ring[:, :, start:stop]
        return mx.concatenate([self._ring[:, :, start:], self._ring[:, :, :stop]], axis=2)


class KVCache:
    """Keys and values of all decoder layers."""

    def __init__(self, config: ModelConfig) -> None:
        self.layers: list[FullLayerCache | SlidingLayerCache] = [
            FullLayerCache() if kind == "full_attention" else SlidingLayerCache(config.sliding_window)
            for kind in config.layer_types
        ]
        """One cache per decoder layer."""
        self._marks: list[int] = []
        """Positions of `keep_at` whose snapshots were not taken yet, rising."""

    @classmethod
    def of_layers(cls, layers: Sequence[FullLayerCache | SlidingLayerCache]) -> "KVCache":
        """A cache that holds what `layers` hold: all of them as many positions."""
        cache = cls.__new__(cls)
        cache.layers, cache._marks = list(layers), []
        return cache

    @property
    def window(self) -> int:
        """Positions that the sliding layers see; 0 without such layers."""
        return max((layer.window for layer in self.layers if isinstance(layer, SlidingLayerCache)), default=0)

    @property
    def offset(self) -> int:
        """Positions read so far; the next token's position."""
        return self.layers[0].offset

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that holds the cache: `mx.eval(cache.arrays)` finishes a prefill chunk."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds, unused capacity included."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def parts(self) -> Sequence[Sized]:
        """What it holds, part by part; a part that caches share is the same object in each."""
        return self.arrays

    def finish(self, places: Iterable[Snapshot] = ()) -> None:
        """Computes all that it and `places` hold and that is not computed yet."""
        mx.eval([*self.arrays, *(ring for place in places for ring in place.rings)])

    def queue(self, places: Iterable[Snapshot]) -> None:
        """Has what `places` hold computed, without waiting for it."""
        mx.async_eval([ring for place in places for ring in place.rings])  # type: ignore[no-untyped-call]

    def can_trim(self, tokens: int) -> bool:
        """Whether the last `tokens` positions can be dropped: false once a ring has overwritten what came before."""
        return tokens >= 0 and all(layer.can_trim(tokens) for layer in self.layers)

    def trim(self, tokens: int) -> None:
        """Drops the last `tokens` positions. Raises `UsageError`, with nothing changed, when that cannot be done."""
        if not 0 <= tokens <= self.offset:
            raise UsageError(f"cannot drop {tokens} tokens of a KV cache that holds {self.offset}")
        if not self.can_trim(tokens):
            raise UsageError(
                f"cannot drop {tokens} of the {self.offset} tokens in the KV cache: its sliding layers wrote over "
                "the tokens before them; take a snapshot first and restore that"
            )
        for layer in self.layers:
            layer.trim(tokens)

    def snapshot(self) -> Snapshot:
        """This place, to go back to with `restore`: full layers note their length, sliding layers keep their ring."""
        return Snapshot(self, tuple(layer.snapshot() for layer in self.layers))

    def can_restore(self, snapshot: Snapshot) -> bool:
        """Whether `snapshot` is this cache's and none of its positions has been written over since."""
        return snapshot.belongs_to(self) and all(
            layer.can_restore(state) for layer, state in zip(self.layers, snapshot.layers, strict=True)
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to `snapshot`. Raises `UsageError`, with nothing changed, when that cannot be done."""
        if not snapshot.belongs_to(self):
            raise UsageError("the snapshot was taken of another KV cache; restore it there")
        if not self.can_restore(snapshot):
            raise UsageError(
                f"the snapshot at {snapshot.offset} tokens is gone: the KV cache went back to before it and read other "
                "tokens since; read the prompt again"
            )
        for layer, state in zip(self.layers, snapshot.layers, strict=True):
            layer.restore(state)

    def nearest(self, snapshot: Snapshot, length: int) -> int:
        """The longest length up to `length` that this cache can have: it goes back to `snapshot`, then trims.

        0, to begin anew, where there is no other.
        """
        if length >= snapshot.offset:
            return snapshot.offset
        oldest = max(layer.oldest for layer in snapshot.layers)
        return length if max(0, length - self.window + 1) >= oldest else 0

    def keep_at(self, positions: Iterable[int]) -> None:
        """Has a snapshot made at each of `positions` that reading gets to, inside a chunk too; in place of earlier
        wishes. `take_kept` gives them.
        """
        self._marks = sorted(position for position in positions if position > self.offset)
        for layer in self.layers:
            if isinstance(layer, SlidingLayerCache):
                layer.keep_at(frozenset(self._marks))

    def take_kept(self) -> list[Snapshot]:
        """The snapshots that reading has made since `keep_at` and the last call, in order of position."""
        reached = [position for position in self._marks if position <= self.offset]
        self._marks = self._marks[len(reached) :]
        return [Snapshot(self, tuple(_kept_layer(layer, position) for layer in self.layers)) for position in reached]

    def fork(self, snapshots: Sequence[Snapshot]) -> tuple["KVCache", list[Snapshot]]:
        """A cache of its own that stands at the last of `snapshots`, and all of them as places of that cache.

        They rise in position and `can_restore` allowed each. The full layers' rows are copied, the rings are shared.
        """
        last = snapshots[-1]
        layers = [layer.fork(state) for layer, state in zip(self.layers, last.layers, strict=True)]
        fork = KVCache.of_layers(layers)
        return fork, [
            Snapshot(fork, tuple(replace(state, overwrites=0) for state in snapshot.layers)) for snapshot in snapshots
        ]


def _kept_layer(layer: FullLayerCache | SlidingLayerCache, position: int) -> LayerSnapshot:
    """The snapshot of one layer at `position`, where reading passed by."""
    if isinstance(layer, SlidingLayerCache):
        return layer.kept.pop(position)
    return replace(layer.snapshot(), offset=position)
