"""What models have read and may go on from: the KV caches of recent conversations, kept between turns.

A prompt takes the cache from which most of it can be used: the longest common prefix, then the deepest place at or
before its end that the cache can go back to (`kv_places` says which places are kept). While a turn runs, its cache is
the turn's own; `give_back` takes it, with exactly the tokens that the model has read into it. A turn that fails gives
nothing back, so that what is kept was always read to its end.

Branches: when a prompt parts from a cache so far back that more than `FORK_FROM_TOKENS` of that conversation would be
written over, the common part is copied and both go on; so do conversations that share no more than a system message.
What lies behind the start of a turn's answers does not count: harmony drops its reasoning, a second answer replaces it.
Rings at common places are shared, not copied.

Memory: `limit_bytes` holds for all caches together, their places included, between turns. The least recently used go
first; a cache that is larger than that by itself is not kept. A turn's own memory comes on top while it runs.

Owns: which cache a prompt goes on from, and how long caches are kept. Knows token ids only. Does not own: going back
itself (`cache`), reading (`generate`). Belongs to the thread of the model.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final

import mlx.core as mx

from gptoss_mlx.cache import KVCache
from gptoss_mlx.device import Device
from gptoss_mlx.kv_places import ANSWER_INTERVAL, kept_places, prompt_ends, prompt_places
from gptoss_mlx.memory import wired_limit
from gptoss_mlx.memory_limits import is_shortage
from gptoss_mlx.snapshot import Sized, Snapshot

FORK_FROM_TOKENS: Final = 256
"""From this many tokens on that a prompt would write over, it goes on in a copy."""

LEAST_LIMIT_BYTES: Final = 1 << 30
"""What the default limit never goes below: 40,000 tokens of gpt-oss-20b."""

COMPARED_TOKENS: Final = 1024
"""Tokens that are compared at once."""


def default_limit_bytes(device: Device, weight_bytes: int) -> int:
    """Half of what the weights leave of the memory that may be wired, at least `LEAST_LIMIT_BYTES`."""
    return max(LEAST_LIMIT_BYTES, (wired_limit(device) - weight_bytes) // 2)


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many of the first tokens are equal."""
    most = min(len(one), len(other))
    for begin in range(0, most, COMPARED_TOKENS):
        end = min(begin + COMPARED_TOKENS, most)
        if one[begin:end] != other[begin:end]:
            return next(n for n in range(begin, end) if one[n] != other[n])
    return most


class HeldCache:
    """A KV cache, what it has read, and the places that it can go back to."""

    def __init__(self, cache: KVCache, *, keeps_places: bool = True) -> None:
        self.cache = cache
        self.tokens: list[int] = []
        """What the cache had read when the turn began that has it now, or, in the pool, in all."""
        self.start = 0
        """Where the answers of the last turn began; what lies behind is of little use to any other prompt."""
        self.places: list[Snapshot] = []
        """Where it can go back to, rising in position; the cache's own end is another."""
        self._keeps_places = keeps_places
        self._ends: set[int] = set()
        """Positions of `places` that are ends of messages."""
        self._end_ids: Collection[int] = ()
        self._last: int | None = None
        """The token that was heard last."""

    @property
    def ends(self) -> set[int]:
        """Positions where messages end, those of `places` among them."""
        return self._ends

    @property
    def cached_tokens(self) -> int:
        """Tokens that were there when the turn began."""
        return len(self.tokens)

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that it holds; two caches that share a ring give the same object."""
        return [*self.cache.arrays, *(ring for place in self.places for ring in place.rings)]

    @property
    def parts(self) -> list[Sized]:
        """What it holds, here or elsewhere, part by part; what two caches share is the same object."""
        return [*self.cache.parts, *(part for place in self.places for part in place.parts)]

    def usable(self, prompt: list[int]) -> int:
        """How many of the first tokens of `prompt` it can go on from: one is left to read at least."""
        common = min(common_prefix(self.tokens, prompt), len(prompt) - 1)
        return max((self.cache.nearest(place, common) for place in self._all_places()), default=0)

    def go_to(self, length: int) -> None:
        """Goes back to the first `length` tokens, which `usable` gave."""
        self.cache.restore(self._place_for(length))
        self.cache.trim(self.cache.offset - length)
        self._cut(length)

    def fork(self, length: int) -> "HeldCache":
        """A cache of its own with the first `length` tokens, which `usable` gave, and the places before there."""
        place = self._place_for(length)
        before = [kept for kept in self.places if kept.offset < min(length, place.offset)]
        cache, places = self.cache.fork([*before, place])
        fork = HeldCache(cache)
        fork.tokens, fork.places, fork._ends = list(self.tokens), places, set(self._ends)
        cache.trim(cache.offset - length)
        fork._cut(length)
        cache.finish()
        return fork

    def place_at(self, length: int) -> Snapshot:
        """The place after the first `length` tokens, which `usable` gave, without going there."""
        place = self._place_for(length)
        layers = (replace(state, offset=length, oldest=min(state.oldest, length)) for state in place.layers)
        return Snapshot(self.cache, tuple(layers))

    def fork_bytes(self, length: int) -> int:
        """Bytes that a fork would copy, about: rows of `length` of the tokens that are there."""
        return self.cache.nbytes * length // max(1, self.cache.offset)

    def hold(self, tokens: list[int], start: int, places: list[Snapshot], ends: Iterable[int]) -> None:
        """Says what its cache holds already, when that comes from elsewhere."""
        self.tokens, self.start, self.places, self._ends = tokens, start, places, set(ends)

    def begin(self, prompt: list[int], start: int, end_ids: Collection[int]) -> None:
        """Says what will be read: `prompt`, whose turn's answers begin at `start`; `end_ids` end messages."""
        self.start, self._end_ids, self._last = start, end_ids, None
        if self._keeps_places:
            ends = prompt_ends(prompt, end_ids, start)
            self._ends.update(ends, [len(prompt)])
            self.cache.keep_at(prompt_places(prompt, ends, self.cache.offset))

    def collect(self) -> None:
        """Takes the places that reading the prompt has passed."""
        if self._keeps_places:
            self._keep(self.cache.take_kept())

    def heard(self, token: int, length: int) -> None:
        """Hears of the token that was given as the `length`-th of the context: a message that ended is a place.

        The model may have read it, or no more than the one before it.
        """
        if not self._keeps_places:
            return
        offset, before = self.cache.offset, self._last
        self._last = token
        read = token if offset == length else before if offset == length - 1 else None
        ended = read is not None and read in self._end_ids
        newest = self.places[-1].offset if self.places else 0
        if newest < offset and (ended or offset - newest >= ANSWER_INTERVAL):
            if ended:
                self._ends.add(offset)
            self._keep([self.cache.snapshot()])

    def _keep(self, places: Iterable[Snapshot]) -> None:
        fresh = list(places)
        if not fresh:
            return
        # Rings of a chunk are made when they are asked for, and hold the whole chunk until then.
        self.cache.queue(fresh)
        known = {place.offset: place for place in (*self.places, *fresh)}
        ends = self._ends.intersection(known)
        kept = kept_places(ends, known.keys() - ends, max(self.cache.offset, *known))
        self.places = [known[position] for position in kept]

    def _cut(self, length: int) -> None:
        self.tokens = self.tokens[:length]
        self.start = min(self.start, length)
        self.places = [place for place in self.places if place.offset <= length]
        self._ends = {position for position in self._ends if position <= length}

    def _all_places(self) -> list[Snapshot]:
        return [*self.places, self.cache.snapshot()]

    def _place_for(self, length: int) -> Snapshot:
        """The first place from which the cache gets to `length` tokens."""
        return next(place for place in self._all_places() if self.cache.nearest(place, length) == length)


class KVPool:
    """The caches that are kept, least recently used first."""

    def __init__(self, limit_bytes: int) -> None:
        """Keeps at most `limit_bytes`; with 0 it keeps nothing, and every prompt is read from its beginning."""
        self._limit_bytes = limit_bytes
        self._held: list[HeldCache] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def limit_bytes(self) -> int:
        """Bytes that are kept between turns at most."""
        return self._limit_bytes

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now; what caches share counts once."""
        return _bytes_of(self._held)

    def take(
        self, make_cache: Callable[[], KVCache], prompt: list[int], *, start: int, end_ids: Collection[int]
    ) -> HeldCache:
        """A cache that has read as much of the beginning of `prompt` as can be had, never all of it.

        `start` is where the answers of the prompt's turn begin, `end_ids` are the tokens that end a message. It belongs
        to the caller now: `give_back` it, or let it go.
        """
        found = self.best(prompt)
        if found is None:
            held = HeldCache(make_cache(), keeps_places=self._limit_bytes > 0)
        else:
            best, length = found
            if best.start - length >= FORK_FROM_TOKENS and self._has_room_beside(best, best.fork_bytes(length)):
                self._touch(best)
                held = best.fork(length)
            else:
                self._held.remove(best)
                best.go_to(length)
                held = best
        held.begin(prompt, start, end_ids)
        return held

    def give_back(self, held: HeldCache, tokens: list[int]) -> None:
        """Keeps `held` for later prompts; `tokens` are what its cache has read in all.

        Where there is no memory for what of it is not computed yet, nothing is kept.
        """
        assert len(tokens) == held.cache.offset, "a cache and the tokens that it is said to hold"
        if not tokens or self._limit_bytes <= 0:
            return
        held.tokens, held.start = tokens, min(held.start, len(tokens))
        held.cache.keep_at(())
        try:
            held.cache.finish(held.places)
        except (RuntimeError, MemoryError) as error:
            # The answer is there; only what would spare the next turn some reading is not.
            if not is_shortage(error):
                raise
            self.clear()
        else:
            self.add(held)

    def best(self, prompt: list[int]) -> tuple[HeldCache, int] | None:
        """The cache from which most of `prompt` can be used, and how much that is; of equal ones the newest.

        It stays where it is. None where there is none.
        """
        found = [(held, held.usable(prompt)) for held in reversed(self._held)]
        held, length = max(found, key=lambda pair: pair[1], default=(None, 0))
        return None if held is None or not length else (held, length)

    def add(self, held: HeldCache) -> None:
        """Keeps a cache that comes from elsewhere, its arrays evaluated; others may have to go."""
        self._held.append(held)
        self.shrink(self._limit_bytes)

    def shrink(self, limit_bytes: int) -> None:
        """Lets the least recently used caches go until at most `limit_bytes` are kept."""
        while self._held and self.nbytes > limit_bytes:
            del self._held[0]

    def clear(self) -> None:
        """Lets every cache go."""
        self._held.clear()

    def close(self) -> None:
        """Lets every cache go and keeps none from now on."""
        self._limit_bytes = 0
        self.clear()

    def _touch(self, held: HeldCache) -> None:
        self._held.remove(held)
        self._held.append(held)

    def _has_room_beside(self, held: HeldCache, more_bytes: int) -> bool:
        """Whether `held` and `more_bytes` fit the limit together; others that are in the way go later."""
        return _bytes_of([held]) + more_bytes <= self._limit_bytes


def _bytes_of(caches: Iterable[HeldCache]) -> int:
    return sum({id(part): part.nbytes for held in caches for part in held.parts}.values())
