"""A remote cache's numbers are those of the caches on the ranks, whatever is done to it."""

import itertools
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.cache import KVCache
from gptoss_mlx.errors import ContextOverflow, UsageError
from gptoss_mlx.hosts.cluster import Answer, Cluster
from gptoss_mlx.hosts.commands import Commands
from gptoss_mlx.hosts.remote_model import RemoteModel
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.weights import load_model


class OneRank:
    """A cluster of one rank, in this process: what its commands do, without processes."""

    patience_seconds = 10.0
    lost = None
    closed = False
    memory = ((0, 0, 0),)

    def __init__(self, model: Model) -> None:
        self.said: list[tuple[dict[str, Any], Any]] = []
        self.commands = Commands(lambda values, array=None: self.said.append((values, array)))
        self.commands._model = cast(Any, model)
        self.numbers = itertools.count(1)

    def tell(self, op: str, **values: Any) -> None:
        self.commands.run({"op": op, "id": next(self.numbers), "quiet": True, **values})
        assert self.said == []

    def call(self, op: str, *, limit_seconds: float, of_all: bool = False, **values: Any) -> list[Answer]:
        self.commands.run({"op": op, "id": next(self.numbers), **values})
        (said, array) = self.said.pop()
        if "error" in said:
            raise UsageError(said["error"]["message"])
        return [Answer(said["result"], array)]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def local() -> Model:
    return load_model(POCKET_FOLDER)


def remote_of(local: Model) -> tuple[RemoteModel, OneRank]:
    rank = OneRank(local)
    return RemoteModel(cast(Cluster, rank), local.config, local.dtype), rank


def there(rank: OneRank, cache: Any) -> KVCache:
    """The cache on the rank."""
    return rank.commands._caches[cache.number]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 90)),
        st.tuples(st.just("place"), st.just(0)),
        st.tuples(st.just("keep"), st.integers(1, 120)),
        st.tuples(st.just("back"), st.integers(0, 5)),
        st.tuples(st.just("trim"), st.integers(0, 40)),
        st.tuples(st.just("fork"), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=8,
)


@given(STEPS)
@settings(deadline=None, max_examples=10)
def test_numbers_here_are_those_there(steps) -> None:
    local = load_model(POCKET_FOLDER)
    model, rank = remote_of(local)
    cache: Any = model.make_cache()
    places: list[Any] = []
    for what, number in steps:
        if what == "read":
            model.read(mx.array([[7] * number]), cache)
            places += cache.take_kept()
        elif what == "place":
            places.append(cache.snapshot())
        elif what == "keep":
            cache.keep_at([cache.offset + number, cache.offset + 2 * number])
        elif what == "trim":
            real = there(rank, cache)
            assert cache.can_trim(number) == (number <= real.offset and real.can_trim(number))
            if cache.can_trim(number):
                cache.trim(number)
        elif places:
            place = places[number % len(places)]
            on_rank = rank.commands._places[place.number]
            if not there(rank, cache).can_restore(on_rank):
                with pytest.raises(UsageError, match="is gone"):
                    cache.restore(place)
            elif what == "back":
                cache.restore(place)
            else:
                cache, places = cache.fork([place])
        real = there(rank, cache)
        assert (cache.offset, cache.window) == (real.offset, real.window)
        for place in [*places, cache.snapshot()]:
            on_rank = rank.commands._places[place.number]
            assert place.offset == on_rank.offset
            for length in (0, place.offset // 2, max(0, place.offset - 3), place.offset):
                assert cache.nearest(place, length) == real.nearest(on_rank, length)


def test_what_nobody_holds_is_let_go_of_there(local: Model) -> None:
    model, rank = remote_of(local)
    cache = model.make_cache()
    model.read(mx.array([[1, 2, 3]]), cache)
    places = [cache.snapshot() for _ in range(3)]
    assert len(rank.commands._places) == 3
    del places, cache
    model.make_cache()
    assert len(rank.commands._caches) == 1
    assert rank.commands._places == {}


def test_bytes_are_no_less_than_those_there_and_shared_rings_count_once(local: Model) -> None:
    model, rank = remote_of(local)
    cache: Any = model.make_cache()
    model.read(mx.array([[5] * 300]), cache)
    model.most_probable(mx.array([[5]]), cache)
    # Where rows are kept apart, there is room for them, which is counted in any case.
    assert there(rank, cache).nbytes <= cache.nbytes <= 1.25 * there(rank, cache).nbytes
    place = cache.snapshot()
    assert place.parts[0] is cache.parts[1]
    assert place.nbytes == rank.commands._places[place.number].nbytes


def test_results_are_those_of_the_model(local: Model) -> None:
    model, _ = remote_of(local)
    tokens = mx.array([[11, 12, 13, 14]])
    np.testing.assert_array_equal(model(tokens), local(tokens))
    np.testing.assert_array_equal(model(tokens, last_only=True), local(tokens, last_only=True))
    assert model.most_probable(tokens).tolist() == local.most_probable(tokens).tolist()
    one, other = model.make_cache(), model.make_cache()
    model.read(tokens, one)
    model.read(tokens[:, :2], other)
    together = model.read_together(mx.array([15, 13]), [one, other])
    np.testing.assert_allclose(together[1], local(tokens[:, :3])[0, -1], rtol=1e-4, atol=1e-4)
    assert (one.offset, other.offset) == (5, 3)


def test_what_cannot_be_is_refused_here(local: Model) -> None:
    model, _ = remote_of(local)
    cache, foreign = model.make_cache(), model.make_cache()
    model.read(mx.array([[1, 2, 3]]), cache)
    with pytest.raises(UsageError, match="cannot drop 4"):
        cache.trim(4)
    with pytest.raises(UsageError, match="another KV cache"):
        cache.restore(foreign.snapshot())
    with pytest.raises(UsageError, match="make_cache"):
        model.read(mx.array([[1]]), local.make_cache())
    with pytest.raises(ContextOverflow):
        model.most_probable(mx.zeros((1, local.config.max_position_embeddings + 1), dtype=mx.int32))
    assert cache.offset == 3
