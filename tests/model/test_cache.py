"""The KV cache: every way of reading, going back and reading on gives what a cold model gives."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx import cache as cache_module
from gptoss_mlx.cache import RECENT_TOKENS, FullLayerCache, KVCache, Snapshot
from gptoss_mlx.errors import UsageError
from gptoss_mlx.model import Model
from gptoss_mlx.ops import GrowingKV, Heads, Ops, ReferenceOps, use_ops
from gptoss_mlx.weights import load_model
from tests.random_checkpoint import random_checkpoint
from tests.tolerances import relative_errors

WINDOW = 8
"""So small that a few tokens go round the ring."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("window")
    return load_model(random_checkpoint(folder, seed=5, sliding_window=WINDOW, num_hidden_layers=4), dtype=mx.float32)


class RecentOps(ReferenceOps):
    """The reference, whose full layers keep their most recent rows apart while single tokens are read."""

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        return True


class SometimesRecentOps(ReferenceOps):
    """The same for some lengths only."""

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        return most_keys % 7 > 2


@contextmanager
def few_recent_rows(ops: Ops) -> Iterator[None]:
    """Has `ops` compute until the block ends, and recent rows be so few that they are full after a few tokens."""
    with pytest.MonkeyPatch.context() as patch, use_ops(ops):
        patch.setattr(cache_module, "RECENT_TOKENS", 5)
        yield


OPS = [ReferenceOps(), RecentOps(), SometimesRecentOps()]


def read(model: Model, cache: KVCache, tokens: list[int]) -> np.ndarray:
    """Logits `[tokens, vocab]`, the cache evaluated."""
    logits = model(mx.array([tokens], dtype=mx.int32), cache)
    mx.eval(logits, cache.arrays)
    return np.array(logits[0])


class Oracle:
    """What a cache is expected to hold: which write every position, and every slot of the ring, was last made by."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.writes: list[int] = []
        """The write that made each position that counts."""
        self.buffer: dict[int, int] = {}
        """position: write, as a full layer's buffer has it."""
        self.ring: dict[int, tuple[int, int]] = {}
        """slot: (position, write)."""
        self._numbers = itertools.count()

    def read(self, tokens: list[int]) -> None:
        for token in tokens:
            position, write = len(self.tokens), next(self._numbers)
            self.tokens.append(token)
            self.writes.append(write)
            self.buffer[position] = write
            self.ring[position % WINDOW] = position, write

    def can_trim(self, tokens: int) -> bool:
        length = len(self.tokens) - tokens
        needed = range(max(0, length - WINDOW + 1), length)
        return length >= 0 and all(self.ring.get(p % WINDOW) == (p, self.writes[p]) for p in needed)

    def trim(self, tokens: int) -> None:
        self.tokens = self.tokens[: len(self.tokens) - tokens]
        self.writes = self.writes[: len(self.tokens)]

    def snapshot(self) -> tuple[list[int], list[int], dict[int, tuple[int, int]]]:
        return list(self.tokens), list(self.writes), dict(self.ring)

    def can_restore(self, snapshot: tuple[list[int], list[int], dict[int, tuple[int, int]]]) -> bool:
        return all(self.buffer[position] == write for position, write in enumerate(snapshot[1]))

    def restore(self, snapshot: tuple[list[int], list[int], dict[int, tuple[int, int]]]) -> None:
        self.tokens, self.writes, self.ring = list(snapshot[0]), list(snapshot[1]), dict(snapshot[2])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 20)),
        st.tuples(st.just("read"), st.just(1)),
        st.tuples(st.just("decode"), st.integers(1, 12)),
        st.tuples(st.just("snapshot"), st.just(0)),
        st.tuples(st.just("restore"), st.integers(0, 5)),
        st.tuples(st.just("trim"), st.integers(0, 12)),
    ),
    min_size=1,
    max_size=14,
)


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
@given(steps=STEPS, seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_any_mix_of_reading_and_going_back_equals_a_cold_model(
    ops: Ops, model: Model, steps: list[tuple[str, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cache, oracle = model.make_cache(), Oracle()
    snapshots: list[tuple[Snapshot, tuple[list[int], list[int], dict[int, tuple[int, int]]]]] = []
    found: np.ndarray | None = None
    for step, number in [*steps, ("read", 1)]:
        if step == "read":
            tokens = rng.integers(0, 64, number).tolist()
            oracle.read(tokens)
            with few_recent_rows(ops):
                found = read(model, cache, tokens)
        elif step == "decode":
            for token in rng.integers(0, 64, number).tolist():
                oracle.read([token])
                with few_recent_rows(ops):
                    found = read(model, cache, [token])
        elif step == "snapshot":
            snapshots.append((cache.snapshot(), oracle.snapshot()))
        elif step == "trim":
            assert cache.can_trim(number) == oracle.can_trim(number)
            if oracle.can_trim(number):
                oracle.trim(number)
                cache.trim(number)
            else:
                with pytest.raises(UsageError):
                    cache.trim(number)
        elif snapshots:
            snapshot, expected = snapshots[number % len(snapshots)]
            assert cache.can_restore(snapshot) == oracle.can_restore(expected)
            if oracle.can_restore(expected):
                oracle.restore(expected)
                cache.restore(snapshot)
            else:
                with pytest.raises(UsageError, match="is gone"):
                    cache.restore(snapshot)
        assert cache.offset == len(oracle.tokens)
        assert {layer.offset for layer in cache.layers} == {cache.offset}
    assert found is not None
    cold = read(model, model.make_cache(), oracle.tokens)[-1:]
    assert relative_errors(found[-1:], cold).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_any_chunks_give_the_same_logits(ops: Ops, model: Model, cuts: list[int]) -> None:
    tokens = np.random.default_rng(1).integers(0, 64, sum(cuts)).tolist()
    cache = model.make_cache()
    with few_recent_rows(ops):
        parts = [
            read(model, cache, tokens[stop - cut : stop])
            for cut, stop in zip(cuts, itertools.accumulate(cuts), strict=True)
        ]
    assert relative_errors(np.concatenate(parts), read(model, model.make_cache(), tokens)).max() < 1e-5


class PlainList:
    """What a full layer's cache is expected to hold: the number of every position's rows, and what was overwritten."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.there: list[int] = []
        """`rows`, and behind them what they were cut from, until other rows are written there."""

    def write(self, rows: list[int]) -> None:
        self.rows = self.there = self.rows + rows

    def cut(self, length: int) -> None:
        self.rows = self.there[:length]


def rows_of(numbers: list[int]) -> mx.array:
    """Rows that show their numbers in every value, `[1, 2, positions, 2]`; exact in float32."""
    return mx.broadcast_to(mx.array(numbers, dtype=mx.float32)[None, None, :, None], (1, 2, len(numbers), 2))


def numbers_of(rows: mx.array) -> list[int]:
    values = np.array(rows).astype(int)
    assert (values == values[:, :1, :, :1]).all()
    return [int(value) for value in values[0, 0, :, 0]]


def held(kv: GrowingKV, position: int) -> list[int]:
    """The numbers of the positions before `position`."""
    flushed = kv.flushed.number
    assert kv.flushed.array.item() == flushed
    assert flushed <= position < flushed + kv.recent.shape[2]
    return numbers_of(kv.body[:, :, :flushed]) + numbers_of(kv.recent[:, :, : position - flushed])


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 400)),
            st.tuples(st.just("step"), st.integers(1, 300)),
            st.tuples(st.just("step"), st.integers(1, 5)),
            st.tuples(st.just("trim"), st.integers(0, 300)),
            st.tuples(st.just("trim"), st.integers(0, 10)),
            st.tuples(st.just("snapshot"), st.just(0)),
            st.tuples(st.just("restore"), st.integers(0, 5)),
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_a_full_layer_holds_what_a_plain_list_holds(steps: list[tuple[str, int]]) -> None:
    cache, expected, fresh = FullLayerCache(), PlainList(), itertools.count(1)
    snapshots = []
    for step, number in [*steps, ("step", 2), ("append", 2)]:
        if step == "append":
            rows = list(itertools.islice(fresh, number))
            body = cache.append(rows_of(rows))
            expected.write(rows)
            assert numbers_of(body[:, :, : len(expected.rows)]) == expected.rows
        elif step == "step":
            for count in range(number):
                row = next(fresh)
                kv = cache.growing(rows_of([row]))
                # Looking at all of it costs more than writing.
                if count in (0, number - 1):
                    assert held(kv, cache.offset) == expected.rows
                slot = cache.offset - kv.flushed.number
                cache.put_recent(ReferenceOps().write_rows(kv.recent, rows_of([row]), slot))
                expected.write([row])
        elif step == "trim":
            assert cache.can_trim(number) == (number <= len(expected.rows))
            if cache.can_trim(number):
                cache.trim(number)
                expected.cut(len(expected.rows) - number)
        elif step == "snapshot":
            snapshots.append((cache.snapshot(), expected.rows))
        elif snapshots:
            snapshot, rows = snapshots[number % len(snapshots)]
            assert cache.can_restore(snapshot) == (expected.there[: len(rows)] == rows)
            if cache.can_restore(snapshot):
                cache.restore(snapshot)
                expected.cut(len(rows))
        assert cache.offset == len(expected.rows)


def test_a_step_copies_nothing_though_kernels_under_way_hold_what_they_read() -> None:
    cache = FullLayerCache()
    mx.eval(cache.append(mx.zeros((1, 4, 1 << 16, 16))), cache.append(mx.zeros((1, 4, 1, 16))))
    rows, body = mx.ones((1, 4, 1, 16)), cache.arrays[0]
    mx.eval(rows)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    under_way = []
    for _ in range(RECENT_TOKENS):
        kv = cache.growing(rows)
        assert kv.body is body
        under_way.append(kv)
        cache.put_recent(ReferenceOps().write_rows(kv.recent, rows, cache.offset - kv.flushed.number))
        mx.eval(cache.arrays)
    # The recent rows that are held come to a quarter.
    assert mx.get_peak_memory() - before < body.nbytes / 2
    # The next one needs a slot.
    assert cache.growing(rows).flushed.number == cache.offset


def test_recent_rows_cost_what_a_ring_costs() -> None:
    cache = FullLayerCache()
    mx.eval(cache.append(mx.zeros((1, 16, 300, 64), dtype=mx.bfloat16)))
    body, recent, _ = cache.growing(cache.arrays[0])
    assert [array.nbytes for array in cache.arrays] == [body.nbytes, recent.nbytes] == [1_048_576, 262_144]


def test_a_snapshot_costs_the_rings_and_holds_against_later_writes(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, list(range(20)))
    snapshot = cache.snapshot()
    assert snapshot.offset == 20
    assert snapshot.nbytes == 2 * WINDOW * 2 * 2 * 16 * 4
    first = read(model, cache, [7])
    read(model, cache, [9, 8, 7, 6, 5, 4, 3, 2, 1])
    cache.restore(snapshot)
    np.testing.assert_array_equal(read(model, cache, [7]), first)


def test_an_empty_cache_can_be_snapshotted_and_restored(model: Model) -> None:
    cache = model.make_cache()
    snapshot = cache.snapshot()
    assert (snapshot.offset, snapshot.nbytes, cache.nbytes, cache.arrays) == (0, 0, 0, [])
    first = read(model, cache, [1, 2, 3])
    cache.restore(snapshot)
    assert cache.offset == 0
    np.testing.assert_array_equal(read(model, cache, [1, 2, 3]), first)


def test_a_ring_that_went_round_can_drop_one_token_and_no_more(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, list(range(WINDOW + 5)))
    assert cache.can_trim(0)
    assert cache.can_trim(1)
    assert not cache.can_trim(2)
    with pytest.raises(UsageError, match="take a snapshot"):
        cache.trim(2)
    assert cache.offset == WINDOW + 5


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
@given(
    start=st.integers(0, 30),
    chunks=st.lists(st.one_of(st.just(1), st.integers(1, 40)), min_size=1, max_size=6),
    marks=st.sets(st.integers(0, 120), max_size=4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=15, deadline=None)
def test_a_place_asked_for_inside_a_chunk_is_as_if_reading_had_stopped_there(
    ops: Ops, model: Model, start: int, chunks: list[int], marks: set[int], seed: int
) -> None:
    tokens = np.random.default_rng(seed).integers(0, 64, start + sum(chunks) + 3).tolist()
    cache = model.make_cache()
    with few_recent_rows(ops):
        if start:
            read(model, cache, tokens[:start])
        cache.keep_at(marks)
        kept: list[Snapshot] = []
        for chunk in chunks:
            read(model, cache, tokens[cache.offset : cache.offset + chunk])
            kept += cache.take_kept()
        assert [snapshot.offset for snapshot in kept] == sorted(m for m in marks if start < m <= start + sum(chunks))
        for snapshot in kept:
            length = next(n for n in range(snapshot.offset + 1) if n == cache.nearest(snapshot, n))
            length = length or snapshot.offset
            fork, _ = cache.fork([snapshot])
            fork.trim(snapshot.offset - length)
            found = read(model, fork, tokens[length : length + 3])
            cold = read(model, model.make_cache(), tokens[: length + 3])[-3:]
            assert relative_errors(found, cold).max() < 1e-5


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
@given(
    steps=st.lists(st.one_of(st.just(1), st.integers(1, 20)), min_size=1, max_size=6),
    at=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=15, deadline=None)
def test_a_fork_and_the_cache_it_was_made_of_go_their_own_ways(
    ops: Ops, model: Model, steps: list[int], at: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 64, sum(steps)).tolist()
    cache = model.make_cache()
    places: list[Snapshot] = []
    with few_recent_rows(ops):
        for step in steps:
            # It has gone back before: what it wrote over then is no matter of the fork.
            before = cache.snapshot()
            read(model, cache, [1, 2])
            cache.restore(before)
            read(model, cache, tokens[cache.offset : cache.offset + step])
            places.append(cache.snapshot())
        chosen = places[: at % len(places) + 1]
        fork, forked = cache.fork(chosen)
        assert [place.offset for place in forked] == [place.offset for place in chosen]
        assert fork.offset == chosen[-1].offset
        mx.eval(fork.arrays)
        for place in reversed(forked):
            fork.restore(place)
            words = rng.integers(0, 64, 3).tolist()
            cold = read(model, model.make_cache(), tokens[: place.offset] + words)[-3:]
            assert relative_errors(read(model, fork, words), cold).max() < 1e-5
        assert len(forked) == 1 or not fork.can_restore(forked[-1])
        words = rng.integers(0, 64, 2).tolist()
        cold = read(model, model.make_cache(), tokens + words)[-2:]
        assert relative_errors(read(model, cache, words), cold).max() < 1e-5
        assert not cache.can_restore(forked[0])


def test_a_fork_shares_the_rings_and_copies_the_rest(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, list(range(30)))
    place = cache.snapshot()
    fork, _ = cache.fork([place])
    mx.eval(fork.arrays)
    shared = {id(array) for array in cache.arrays} & {id(array) for array in fork.arrays}
    assert shared == {id(ring) for ring in place.rings}
    assert len(shared) == 2


def test_places_of_tokens_that_were_taken_back_are_not_given(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, [1, 2])
    before = cache.snapshot()
    cache.keep_at([3, 5, 20])
    read(model, cache, [3, 4, 5, 6])
    cache.restore(before)
    assert cache.take_kept() == []
    read(model, cache, [7])
    read(model, cache, [8, 9])
    kept = cache.take_kept()
    assert [place.offset for place in kept] == [3, 5]
    assert cache.take_kept() == []
    cache.restore(kept[0])
    cold = read(model, model.make_cache(), [1, 2, 7, 9])
    assert relative_errors(read(model, cache, [9]), cold[-1:]).max() < 1e-5


def test_a_place_that_was_passed_is_given_though_the_cache_went_back_and_forth_since(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, [1, 2])
    before = cache.snapshot()
    cache.keep_at([4])
    read(model, cache, [3, 4, 5, 6])
    after = cache.snapshot()
    cache.restore(before)
    cache.restore(after)
    assert [place.offset for place in cache.take_kept()] == [4]


@pytest.mark.parametrize("tokens", [-1, 5])
def test_dropping_what_is_not_there_is_refused(model: Model, tokens: int) -> None:
    cache = model.make_cache()
    read(model, cache, [1, 2, 3, 4])
    assert not cache.can_trim(tokens)
    with pytest.raises(UsageError, match="that holds 4"):
        cache.trim(tokens)


def test_a_snapshot_of_another_cache_is_refused(model: Model) -> None:
    one, other = model.make_cache(), model.make_cache()
    assert not one.can_restore(other.snapshot())
    with pytest.raises(UsageError, match="another KV cache"):
        one.restore(other.snapshot())


def test_going_back_without_writing_keeps_later_snapshots(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, list(range(10)))
    early = cache.snapshot()
    read(model, cache, list(range(10)))
    late = cache.snapshot()
    cache.restore(early)
    cache.restore(late)
    assert cache.offset == 20
    cache.restore(early)
    read(model, cache, [1])
    assert not cache.can_restore(late)
    assert cache.can_restore(early)


def test_a_small_step_back_does_not_hide_a_larger_one_before_it(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, list(range(5)))
    early = cache.snapshot()
    read(model, cache, list(range(15)))
    late = cache.snapshot()
    cache.restore(early)
    read(model, cache, list(range(25)))
    cache.trim(1)
    read(model, cache, [1])
    assert not cache.can_restore(late)
    assert cache.can_restore(early)


def test_nor_does_a_small_step_back_hide_a_larger_one_after_it(model: Model) -> None:
    cache = model.make_cache()
    read(model, cache, list(range(3)))
    early = cache.snapshot()
    read(model, cache, [1] * 3)
    late = cache.snapshot()
    read(model, cache, [1, 2])
    cache.trim(1)
    read(model, cache, [3])
    assert cache.can_restore(late)
    cache.restore(early)
    read(model, cache, [4])
    assert not cache.can_restore(late)
    assert cache.can_restore(early)
