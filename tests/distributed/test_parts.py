"""What ranks make of each other's parts, with a wire that hands them over in one process."""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.distributed.link import GATHERED_BYTES, gathers, sum_traffic
from gptoss_mlx.distributed.measure import measure_link
from gptoss_mlx.distributed.parts import TensorEnds
from gptoss_mlx.distributed.plan import Span
from gptoss_mlx.distributed.wire import Wire
from gptoss_mlx.errors import UsageError
from gptoss_mlx.ops import Linear, Norm
from tests.distributed.cases import spans_of


class LocalWire:
    """One of several ranks that are asked one after the other, twice: what they say first is what all hear then."""

    def __init__(self, rank: int, size: int, said: dict[int, mx.array]) -> None:
        self.rank, self.size, self._said = rank, size, said

    def gather(self, part: mx.array) -> list[mx.array]:
        self._said[self.rank] = part
        return [self._said.get(rank, part)[None] for rank in range(self.size)]


def most_probable(logits: Sequence[Sequence[float]], counts: list[int], wanted: Any = "tokens") -> list[np.ndarray]:
    """What every rank gives for `logits` `[positions, vocab]`, of which each has so many columns."""
    table = np.array(logits, dtype=np.float32)
    positions = len(table)
    vocab, said = tuple(spans_of(counts)), dict[int, mx.array]()
    # A norm that leaves one-hot vectors of this length as they are; each takes its own row of logits.
    x = mx.eye(positions)[None] * positions**0.5
    norm = Norm(mx.ones(positions) / positions**0.5, 0.0)
    found = []
    for _ in range(2):
        found = [
            TensorEnds(
                Linear(mx.zeros((span.size, positions))),
                norm,
                Linear(mx.array(np.ascontiguousarray(table[:, slice(*span)].T))),
                mx.float32,
                vocab,
                cast(Wire, LocalWire(rank, len(counts), said)),
            ).finish(x, wanted)
            for rank, span in enumerate(vocab)
        ]
    return [np.array(each) for each in found]


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_of_equal_logits_on_several_ranks_the_lowest_token_is_taken(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rows = st.lists(st.integers(-2, 2), min_size=sum(counts), max_size=sum(counts))
    logits = data.draw(st.lists(rows, min_size=1, max_size=3))
    for found in most_probable(logits, counts):
        assert found.dtype == np.uint32
        assert found.tolist() == [[row.index(max(row)) for row in logits]]


def test_logits_of_all_ranks_are_put_together_in_order() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)
    for found in most_probable(logits.tolist(), [4, 1, 4], "logits"):
        np.testing.assert_allclose(found[0], logits, rtol=1e-6)
    for found in most_probable(logits.tolist(), [4, 1, 4], "last_logits"):
        np.testing.assert_allclose(found[0], logits[-1:], rtol=1e-6)


def test_sums_are_gathered_where_hops_cost_more_than_bytes() -> None:
    assert gathers(1 << 30, 2)
    assert gathers(GATHERED_BYTES, 4)
    assert not gathers(GATHERED_BYTES + 1, 3)
    # The least that is possible, then; and for two ranks always.
    assert sum_traffic(1 << 20, 4) == (2 * 3 * (1 << 20) // 4, 6)
    assert sum_traffic(1 << 20, 2) == (1 << 20, 1)
    assert sum_traffic(1 << 10, 4) == (3 << 10, 3)


def test_one_rank_alone_has_no_wire() -> None:
    group = mx.distributed.init()
    wire, x = Wire(group), mx.array([[[1.0, 2.0]]])
    assert wire.add_parts(x, x).tolist() == [[[2.0, 4.0]]]
    assert wire.sum_of(x).tolist() == x.tolist()
    assert wire.gather_ints([3, 4]) == [[3, 4]]
    assert (wire.sent_bytes, wire.hops) == (0, 0)
    with pytest.raises(UsageError, match="no link to measure"):
        measure_link(group)


def test_spans_know_their_size() -> None:
    assert Span(3, 7).size == 4
    assert Span(3, 7).times(2) == (6, 14)
