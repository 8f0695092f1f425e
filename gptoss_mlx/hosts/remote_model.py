"""The model and its KV caches as this process has them: names for what lies on the ranks.

`RemoteModel` and `RemoteCache` are used as `Model` and `KVCache` are: turns, the pool of caches, batches and sampling
know no difference. Rows and rings stay on the ranks; here are the numbers that say where a cache stands and what its
places can be gone back to, which follow from what was asked, as on the ranks. A cache or place that nobody holds any
more is let go there with the next command.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final
from weakref import finalize

import mlx.core as mx

from gptoss_mlx.cache import KVCache
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.ends import Wanted
from gptoss_mlx.errors import ContextOverflow, HostLost, UsageError
from gptoss_mlx.hosts.cluster import Answer, Cluster
from gptoss_mlx.hosts.pace import Pace
from gptoss_mlx.memory import kv_bytes
from gptoss_mlx.model import Model
from gptoss_mlx.snapshot import LayerSnapshot, Sized, Snapshot

WARM_UP_TOKENS: Final = 32
"""Tokens that are read once after loading: how long that takes tells how long work may take."""


class _Elsewhere:
    """Memory on the ranks."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class _Ranks:
    """The ranks as a model and its caches share them: numbers for what lies there, and commands."""

    def __init__(self, cluster: Cluster, config: ModelConfig, value_bytes: int) -> None:
        self.cluster, self.config, self.value_bytes = cluster, config, value_bytes
        self.pace = Pace(cluster.patience_seconds)
        self._next = 0
        self._free: deque[int] = deque()

    def number(self, owner: object) -> int:
        """A number for something on the ranks, which is let go of there when `owner` is here."""
        self._next += 1
        finalize(owner, self._free.append, self._next).atexit = False
        return self._next

    def tell(self, op: str, **values: Any) -> None:
        self.cluster.tell(op, **values, **self._freed())

    def read(self, op: str, count: int, **values: Any) -> Answer:
        """Has the ranks read `count` tokens."""
        begin = time.monotonic()
        limit = self.pace.limit_seconds(count)
        answer = self.cluster.call(op, limit_seconds=limit, **{**values, **self._freed()})[0]
        self.pace.took(count, time.monotonic() - begin)
        return answer

    def ask(self, op: str, **values: Any) -> list[Answer]:
        """What all ranks say to something that takes no time."""
        return self.cluster.call(op, limit_seconds=self.cluster.patience_seconds, of_all=True, **values)

    def _freed(self) -> dict[str, list[int]]:
        numbers = [self._free.popleft() for _ in range(len(self._free))]
        return {"free": numbers} if numbers else {}


class RemoteSnapshot(Snapshot):
    """A place of a `RemoteCache`."""

    def __init__(self, owner: object, offset: int, oldest: int, ring: _Elsewhere, ranks: _Ranks) -> None:
        super().__init__(owner, (LayerSnapshot(offset, oldest=oldest),))
        self._ring = ring
        self.number = ranks.number(self)
        """What it is called on the ranks."""

    @property
    def oldest(self) -> int:
        """The first position that its rings hold."""
        return self.layers[0].oldest

    @property
    def nbytes(self) -> int:
        return self._ring.nbytes

    @property
    def parts(self) -> Sequence[Sized]:
        return (self._ring,)


class RemoteCache(KVCache):
    """Keys and values of all decoder layers, on the ranks."""

    def __init__(self, ranks: _Ranks) -> None:
        self._ranks = ranks
        self.layers = []
        self._sliding_window = ranks.config.sliding_window if ranks.config.kv_window_bytes(1) else 0
        self._offset = self._oldest = 0
        self._marks = []
        self._reached: list[tuple[int, int, _Elsewhere]] = []
        """Position, oldest row and rings of the places that reading has passed since `keep_at`."""
        self._ring = self._fresh_ring()
        self.number = ranks.number(self)
        """What it is called on the ranks."""

    @property
    def window(self) -> int:
        return self._sliding_window

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def arrays(self) -> list[mx.array]:
        return []

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def parts(self) -> Sequence[Sized]:
        rows = kv_bytes(self._ranks.config, self._offset, self._ranks.value_bytes) - self._ring.nbytes
        return (_Elsewhere(rows), self._ring)

    def finish(self, places: Iterable[Snapshot] = ()) -> None:
        self._ranks.tell("finish", cache=self.number, places=[_number(place) for place in places])

    def queue(self, places: Iterable[Snapshot]) -> None:
        """The ranks have computed what they read already."""

    def can_trim(self, tokens: int) -> bool:
        offset = self._offset - tokens
        return tokens >= 0 and (offset == 0 or (offset > 0 and max(0, offset - self.window + 1) >= self._oldest))

    def trim(self, tokens: int) -> None:
        if not 0 <= tokens <= self._offset:
            raise UsageError(f"cannot drop {tokens} tokens of a KV cache that holds {self._offset}")
        if not self.can_trim(tokens):
            raise UsageError(
                f"cannot drop {tokens} of the {self._offset} tokens in the KV cache: its sliding layers wrote over "
                "the tokens before them; take a snapshot first and restore that"
            )
        if tokens:
            self._ranks.tell("trim", cache=self.number, tokens=tokens)
            self._offset -= tokens
            self._oldest = min(self._oldest, self._offset)

    def snapshot(self) -> Snapshot:
        place = RemoteSnapshot(self, self._offset, self._oldest, self._ring, self._ranks)
        self._ranks.tell("snapshot", cache=self.number, to=place.number)
        return place

    def can_restore(self, snapshot: Snapshot) -> bool:
        return isinstance(snapshot, RemoteSnapshot) and snapshot.belongs_to(self)

    def restore(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, RemoteSnapshot) or not snapshot.belongs_to(self):
            raise UsageError("the snapshot was taken of another KV cache; restore it there")
        # Whether its rows were written over, the ranks know.
        self._ranks.ask("restore", cache=self.number, place=snapshot.number)
        self._offset, self._oldest, self._ring = snapshot.offset, snapshot.oldest, snapshot._ring

    def keep_at(self, positions: Iterable[int]) -> None:
        self._marks = sorted(position for position in positions if position > self._offset)
        self._reached = []
        self._ranks.tell("keep_at", cache=self.number, positions=self._marks)

    def take_kept(self) -> list[Snapshot]:
        places = [RemoteSnapshot(self, *reached, self._ranks) for reached in self._reached]
        self._reached = []
        if places:
            self._ranks.tell("take_kept", cache=self.number, to=[place.number for place in places])
        return list(places)

    def fork(self, snapshots: Sequence[Snapshot]) -> tuple[KVCache, list[Snapshot]]:
        places = [place for place in snapshots if isinstance(place, RemoteSnapshot)]
        last = places[-1]
        fork = RemoteCache(self._ranks)
        fork._offset, fork._oldest, fork._ring = last.offset, last.oldest, last._ring
        forked = [RemoteSnapshot(fork, place.offset, place.oldest, place._ring, self._ranks) for place in places]
        self._ranks.ask(
            "fork",
            cache=self.number,
            places=[place.number for place in places],
            to=fork.number,
            places_to=[place.number for place in forked],
        )
        return fork, list(forked)

    def advance(self, tokens: int) -> None:
        """Takes note that the ranks have read so many more."""
        before, oldest = self._offset, self._oldest
        self._offset += tokens
        self._oldest = self._oldest_after(oldest, self._offset)
        self._ring = self._fresh_ring()
        while self._marks and self._marks[0] <= self._offset:
            position = self._marks.pop(0)
            if position == self._offset:
                self._reached.append((position, self._oldest, self._ring))
            elif position > before:
                self._reached.append((position, self._oldest_after(oldest, position), self._fresh_ring()))

    def _oldest_after(self, oldest: int, position: int) -> int:
        """The first position that the rings hold after `position` tokens; all, where no layer slides."""
        return max(oldest, position - self.window) if self.window else 0

    def _fresh_ring(self) -> _Elsewhere:
        return _Elsewhere(self._ranks.config.kv_window_bytes(self._ranks.value_bytes))


class RemoteModel(Model):
    """A gpt-oss whose weights lie on the ranks of a cluster."""

    def __init__(self, cluster: Cluster, config: ModelConfig, dtype: mx.Dtype) -> None:
        """`dtype` is what the ranks compute in. Reads a little, to know how fast they are. Raises HostLost."""
        self.config = config
        self.dtype = dtype
        self._ranks = _Ranks(cluster, config, dtype.size)
        self._cluster = cluster
        self._closing = finalize(self, cluster.close)
        self._closing.atexit = False
        self._warm_up()

    def _warm_up(self) -> None:
        tokens = min(WARM_UP_TOKENS, self.config.max_position_embeddings - 1)
        cache = self.make_cache()
        ids = mx.zeros((1, tokens), dtype=mx.int32)
        self.most_probable(ids, cache)
        # Once more: the first time, kernels were compiled.
        self._ranks.pace = Pace(self._cluster.patience_seconds)
        self.read(ids, self.make_cache())
        self.most_probable(ids[:, :1], cache)

    @property
    def lost(self) -> bool:
        return self._cluster.closed or self._cluster.lost is not None

    def close(self) -> None:
        self._closing()

    @property
    def runs_apart(self) -> bool:
        """A command is waited for."""
        return False

    def begin_peak(self) -> None:
        self._ranks.tell("begin_peak")

    @property
    def peak_memory_bytes(self) -> int:
        """Of all ranks together."""
        try:
            return sum(int(answer.values["bytes"]) for answer in self._ranks.ask("peak"))
        except HostLost:
            # The answer that it is asked for is there.
            return sum(peak for _, _, peak in self._cluster.memory)

    def has_room(self, more_kv_bytes: int, chunk: int, context: int) -> bool:
        answers = self._ranks.ask("has_room", more_kv_bytes=more_kv_bytes, chunk=chunk, context=context)
        return all(bool(answer.values["room"]) for answer in answers)

    def make_cache(self) -> KVCache:
        cache = RemoteCache(self._ranks)
        self._ranks.tell("make_cache", to=cache.number)
        return cache

    def fitting_chunk(self, cache: KVCache, wanted: int, *, logits: bool = False) -> int:
        answers = self._ranks.ask("fitting_chunk", cache=_cache(cache).number, wanted=wanted, logits=logits)
        return min(int(answer.values["tokens"]) for answer in answers)

    def read_together(self, tokens: mx.array, caches: Sequence[KVCache], *, most_probable: bool = False) -> mx.array:
        remote = [_cache(cache) for cache in caches]
        if (longest := max(cache.offset for cache in remote) + 1) > self.config.max_position_embeddings:
            raise ContextOverflow(longest, self.config.max_position_embeddings)
        answer = self._ranks.read(
            "read_together",
            len(remote),
            caches=[cache.number for cache in remote],
            tokens=tokens.tolist(),
            most_probable=most_probable,
        )
        for cache in remote:
            cache.advance(1)
        assert answer.array is not None, "the first rank sends what it computed"
        return mx.array(answer.array)

    def _read(self, tokens: mx.array, cache: KVCache | None, wanted: Wanted) -> mx.array:
        remote = _cache(self.make_cache() if cache is None else cache)
        seq = tokens.shape[1]
        if remote.offset + seq > self.config.max_position_embeddings:
            raise ContextOverflow(remote.offset + seq, self.config.max_position_embeddings)
        answer = self._ranks.read("read", tokens.size, cache=remote.number, tokens=tokens.tolist(), wanted=wanted)
        remote.advance(seq)
        if answer.values["offset"] != remote.offset:
            self._closing()
            raise HostLost(
                f"the hosts hold {answer.values['offset']} tokens where {remote.offset} were expected; the next "
                "message starts them again"
            )
        return mx.zeros((1,)) if answer.array is None else mx.array(answer.array)


def _cache(cache: KVCache) -> RemoteCache:
    if not isinstance(cache, RemoteCache):
        raise UsageError("a model on several hosts reads into caches that it made itself; use make_cache")
    return cache


def _number(place: Snapshot) -> int:
    assert isinstance(place, RemoteSnapshot)
    return place.number
