"""One token's attention to all positions, whole and split: against float64, and what it reads."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import full_attention, merge_attention
from gptoss_mlx.metal.attention_launch import MOST_SPLITS, splits_for
from gptoss_mlx.operands import Heads
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

LENGTHS = [1, 2, 31, 33, 127, 128, 129, 1023, 1025]
"""Keys, one off from every step, split and window."""


def attend(case: Case, *, splits: int | None = None, seed: int = 3) -> mx.array:
    with simulated(seed=seed):
        return full_attention.launch(
            case.q,
            case.kv,
            number(case.length),
            case.sinks,
            case.heads,
            most_keys=case.kv.shape[2],
            splits=splits,
        )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("splits", [1, 3])
def test_equals_float64_whatever_lies_beyond_the_length(length: int, splits: int) -> None:
    case = make_case(PAIR, length, spare=61)
    assert_attended(attend(case, splits=splits), case.expected())


@pytest.mark.parametrize("splits", [2, 5, 32])
@pytest.mark.parametrize("length", [1, 16, 17, 100])
def test_splits_may_be_empty(length: int, splits: int) -> None:
    case = make_case(PAIR, length)
    assert_attended(attend(case, splits=splits), case.expected())


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("splits", [1, 3])
def test_half_precision_loses_the_rounding_of_the_result_only(dtype: mx.Dtype, splits: int) -> None:
    case = make_case(PAIR, 129, dtype=dtype, batch=2)
    assert_attended(attend(case, splits=splits), case.expected())


@pytest.mark.parametrize("heads", [SINGLE, POCKET])
@pytest.mark.parametrize("length", [1, 130])
def test_equals_float64_with_fewer_heads(heads: Heads, length: int) -> None:
    case = make_case(heads, length, batch=2)
    assert_attended(attend(case), case.expected())


@pytest.mark.parametrize("splits", [1, 3])
def test_sinks_weigh_in_the_denominator_only(splits: int) -> None:
    case = make_case(PAIR, 129, sinks=np.resize([30.0, -30.0, 0.0, 5.0], PAIR.query))
    assert_attended(attend(case, splits=splits), case.expected(), SINK_ROUNDING)


@pytest.mark.parametrize("splits", [1, 3])
def test_extreme_sinks_take_everything_or_nothing(splits: int) -> None:
    case = make_case(PAIR, 40, sinks=np.resize([1e4, -1e4], PAIR.query))
    heads = np.array(attend(case, splits=splits)).reshape(-1, 2, 64)
    np.testing.assert_array_equal(heads[:, 0], 0)
    np.testing.assert_allclose(heads[:, 1], case.expected().reshape(-1, 2, 64)[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("splits", [1, 3])
def test_large_scores_do_not_overflow(splits: int) -> None:
    # Scores of hundreds, whose float32 has units of 3e-5 in the last place.
    case = make_case(PAIR, 200, spread=100.0)
    found, expected = attend(case, splits=splits), case.expected()
    np.testing.assert_allclose(np.array(found), expected, atol=2e-3)


@pytest.mark.parametrize("splits", [1, 3])
def test_is_the_same_bit_for_bit_in_every_order_of_lanes(splits: int) -> None:
    case = make_case(PAIR, 200)
    first = bits_of(attend(case, splits=splits, seed=0))
    for seed in (1, 2):
        np.testing.assert_array_equal(bits_of(attend(case, splits=splits, seed=seed)), first)


def bytes_read(heads: Heads, length: int) -> float:
    """Bytes of keys and values that are loaded, over those there are, with as many splits as the length asks for."""
    case = make_case(heads, length, dtype=mx.bfloat16, spare=255)
    with simulated() as simulator:
        found = full_attention.launch(case.q, case.kv, number(length), case.sinks, heads, most_keys=case.kv.shape[2])
    assert_attended(found, case.expected())
    assert max(launch.threadgroup_bytes for launch in simulator.launches) <= 20_000
    assert len(simulator.launches) <= 2
    return simulator.launches[0].buffers["kv"].loaded_bytes / (case.kv.nbytes * length / case.kv.shape[2])


def test_reads_keys_and_values_once_at_the_real_width() -> None:
    assert bytes_read(REAL, 1000) <= 1.05


def test_reads_keys_and_values_once_at_long_context() -> None:
    assert bytes_read(Heads(query=8, kv=1, dim=64), 8192) <= 1.05


def test_reads_keys_and_values_once_at_long_context_and_the_real_width() -> None:
    assert bytes_read(REAL, 8191) <= 1.05


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
    case = make_case(heads, 20, dtype=mx.bfloat16)
    assert full_attention.fits(case.q, case.kv, heads)


@pytest.mark.parametrize("heads", [Heads(query=8, kv=2, dim=128), Heads(query=18, kv=2, dim=64)])
def test_refuses_other_heads(heads: Heads) -> None:
    with pytest.raises(ValueError, match="does not take"):
        attend(make_case(heads, 20))


def test_refuses_more_splits_than_can_be_merged() -> None:
    with pytest.raises(ValueError, match="33 splits; at most 32"):
        attend(make_case(POCKET, 20), splits=MOST_SPLITS + 1)


def test_refuses_keys_of_another_dtype() -> None:
    case = make_case(POCKET, 20)
    assert not full_attention.fits(case.q, case.kv.astype(mx.float16), POCKET)
