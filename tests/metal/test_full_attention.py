"""One token's attention to all positions, whole and split: against float64, and what it reads and writes."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import full_attention, merge_attention
from gptoss_mlx.metal.attention_launch import MOST_SPLITS, heads_fit, splits_for
from gptoss_mlx.operands import Heads
from gptoss_mlx.ops import ReferenceOps
from tests.metal.attention_cases import (
    PAIR,
    POCKET,
    REAL,
    SINGLE,
    SINK_ROUNDING,
    Case,
    assert_attended,
    bits_of,
    make_case,
    number,
)
from tests.simulator import simulated

RECENT = 128
"""Slots of the rows that are kept apart."""

PLACES = [
    (flushed, filled)
    for flushed in (0, 1, 15, 127, 128, 300, 1025)
    for filled in ((1, 2, 17, 127, 128) if flushed in (0, 300) else (1, 127))
]
"""Positions in the body, and rows kept apart, the token's own included: one off from every step, split and buffer."""


@dataclass(frozen=True)
class Parts:
    """A case with its keys and values in the places that the kernel takes them from; NaN where it must not look."""

    case: Case
    rows: mx.array
    body: mx.array
    recent: mx.array
    flushed: int

    @property
    def position(self) -> int:
        return self.case.length - 1

    def attend(self, *, splits: int | None = None, seed: int = 3) -> tuple[mx.array, mx.array]:
        with simulated(seed=seed):
            return self.launch(splits=splits)

    def launch(self, *, splits: int | None = None) -> tuple[mx.array, mx.array]:
        return full_attention.launch(
            self.case.q,
            self.rows,
            self.body,
            self.recent,
            number(self.position),
            number(self.flushed),
            self.case.sinks,
            self.case.heads,
            most_keys=self.case.length,
            splits=splits,
        )

    def expected_recent(self) -> mx.array:
        return ReferenceOps().write_rows(self.recent, self.rows, self.position - self.flushed)


def make_parts(
    heads: Heads, flushed: int, filled: int, *, spare: int = 61, empty: float = float("nan"), **options: Any
) -> Parts:
    """`flushed` positions in the body, `filled` kept apart, the last of which is the token's."""
    case = make_case(heads, flushed + filled, spare=0, **options)
    batch, kv_heads, _, dim = case.kv.shape

    def nothing(positions: int) -> mx.array:
        return mx.full((batch, kv_heads, positions, dim), empty, dtype=case.kv.dtype)

    body = mx.concatenate([case.kv[:, :, :flushed], nothing(max(spare, 1))], axis=2)
    recent = mx.concatenate([case.kv[:, :, flushed:-1], nothing(RECENT - filled + 1)], axis=2)
    return Parts(case, mx.contiguous(case.kv[:, :, -1:]), body, recent, flushed)


def assert_right(parts: Parts, found: tuple[mx.array, mx.array], tolerance: float | None = None) -> None:
    attended, recent = found
    assert_attended(attended, parts.case.expected(), tolerance)
    np.testing.assert_array_equal(bits_of(recent), bits_of(parts.expected_recent()))


@pytest.mark.parametrize(("flushed", "filled"), PLACES)
@pytest.mark.parametrize("splits", [1, 3])
def test_equals_float64_whatever_lies_where_no_position_is(flushed: int, filled: int, splits: int) -> None:
    parts = make_parts(PAIR, flushed, filled)
    assert_right(parts, parts.attend(splits=splits))


@pytest.mark.parametrize("splits", [2, 5, 32])
@pytest.mark.parametrize(("flushed", "filled"), [(0, 1), (16, 128), (17, 3), (100, 60)])
def test_splits_may_be_empty(flushed: int, filled: int, splits: int) -> None:
    parts = make_parts(PAIR, flushed, filled)
    assert_right(parts, parts.attend(splits=splits))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("splits", [1, 3])
def test_half_precision_loses_the_rounding_of_the_result_only(dtype: mx.Dtype, splits: int) -> None:
    parts = make_parts(PAIR, 129, 40, dtype=dtype, batch=2)
    assert_right(parts, parts.attend(splits=splits))


@pytest.mark.parametrize("heads", [SINGLE, POCKET])
@pytest.mark.parametrize(("flushed", "filled"), [(0, 1), (130, 70)])
def test_equals_float64_with_fewer_heads(heads: Heads, flushed: int, filled: int) -> None:
    parts = make_parts(heads, flushed, filled, batch=2)
    assert_right(parts, parts.attend())


@pytest.mark.parametrize("splits", [1, 3])
def test_sinks_weigh_in_the_denominator_only(splits: int) -> None:
    parts = make_parts(PAIR, 90, 39, sinks=np.resize([30.0, -30.0, 0.0, 5.0], PAIR.query))
    assert_right(parts, parts.attend(splits=splits), SINK_ROUNDING)


@pytest.mark.parametrize("splits", [1, 3])
def test_extreme_sinks_take_everything_or_nothing(splits: int) -> None:
    parts = make_parts(PAIR, 30, 10, sinks=np.resize([1e4, -1e4], PAIR.query))
    heads = np.array(parts.attend(splits=splits)[0]).reshape(-1, 2, 64)
    np.testing.assert_array_equal(heads[:, 0], 0)
    np.testing.assert_allclose(heads[:, 1], parts.case.expected().reshape(-1, 2, 64)[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("splits", [1, 3])
def test_large_scores_do_not_overflow(splits: int) -> None:
    # Scores of hundreds, whose float32 has units of 3e-5 in the last place.
    parts = make_parts(PAIR, 130, 70, spread=100.0)
    np.testing.assert_allclose(np.array(parts.attend(splits=splits)[0]), parts.case.expected(), atol=2e-3)


@pytest.mark.parametrize("splits", [1, 3])
def test_is_the_same_bit_for_bit_in_every_order_of_lanes(splits: int) -> None:
    parts = make_parts(PAIR, 150, 50)
    first = [bits_of(array) for array in parts.attend(splits=splits, seed=0)]
    for seed in (1, 2):
        for array, bits in zip(parts.attend(splits=splits, seed=seed), first, strict=True):
            np.testing.assert_array_equal(bits_of(array), bits)


def body_bytes_read(heads: Heads, flushed: int, filled: int) -> float:
    """Bytes of the body that are loaded, over those there are, with as many splits as the length asks for.

    Each recent row is loaded once and each slot stored once, whatever the splits.
    """
    parts = make_parts(heads, flushed, filled, dtype=mx.bfloat16, spare=255)
    with simulated() as simulator:
        found = parts.launch()
    assert_right(parts, found)
    assert max(launch.threadgroup_bytes for launch in simulator.launches) <= 20_000
    assert len(simulator.launches) <= 2
    buffers = simulator.launches[0].buffers
    assert buffers["rows"].loaded_bytes == parts.rows.nbytes
    assert buffers["recent"].loaded_bytes == parts.recent.nbytes - parts.rows.nbytes
    assert buffers["new_recent"].stored_bytes == parts.recent.nbytes
    return buffers["body"].loaded_bytes / (parts.body.nbytes * flushed / parts.body.shape[2])


def test_reads_keys_and_values_once_at_the_real_width() -> None:
    assert body_bytes_read(REAL, 900, 100) <= 1.05


def test_reads_keys_and_values_once_at_long_context() -> None:
    assert body_bytes_read(Heads(query=8, kv=1, dim=64), 8100, 92) <= 1.05


def test_reads_keys_and_values_once_at_long_context_and_the_real_width() -> None:
    assert body_bytes_read(REAL, 8063, 128) <= 1.05


def test_keys_are_split_only_when_there_are_many_and_never_more_than_can_be_merged() -> None:
    assert splits_for(1023, 8) == 1
    assert splits_for(1024, 8) == 4
    assert splits_for(131_072, 8) == MOST_SPLITS
    assert splits_for(131_072, 16) == 16
    assert splits_for(131_072, 1000) == 1
    assert merge_attention.fits(MOST_SPLITS)
    assert not merge_attention.fits(MOST_SPLITS + 1)


@pytest.mark.parametrize("heads", [REAL, POCKET, SINGLE])
def test_fits_the_heads_of_the_models(heads: Heads) -> None:
    parts = make_parts(heads, 20, 3, dtype=mx.bfloat16)
    assert full_attention.fits(parts.case.q, parts.rows, parts.body, parts.recent, heads)
    assert heads_fit(heads, mx.bfloat16)


@pytest.mark.parametrize("heads", [Heads(query=8, kv=2, dim=128), Heads(query=18, kv=2, dim=64)])
def test_refuses_other_heads(heads: Heads) -> None:
    assert not heads_fit(heads, mx.float32)
    with pytest.raises(ValueError, match="does not take"):
        make_parts(heads, 20, 3).attend()


def test_refuses_more_splits_than_can_be_merged() -> None:
    with pytest.raises(ValueError, match="33 splits; at most 32"):
        make_parts(POCKET, 20, 3).attend(splits=MOST_SPLITS + 1)


def test_refuses_arrays_of_another_dtype_and_more_than_one_token() -> None:
    parts, pair = make_parts(POCKET, 20, 3), make_case(POCKET, 20, seq=2)
    q, rows, body, recent = parts.case.q, parts.rows, parts.body, parts.recent
    half = mx.float16
    assert not full_attention.fits(q, rows.astype(half), body, recent, POCKET)
    assert not full_attention.fits(q, rows, body.astype(half), recent, POCKET)
    assert not full_attention.fits(q, rows, body, recent.astype(half), POCKET)
    assert not full_attention.fits(pair.q, rows, body, recent, POCKET)
