"""Attention of several positions, causal and banded, whole and split: against float64, and what it scores and reads."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import tile_attention
from gptoss_mlx.metal.tile_attention import scored_keys, tile_positions
from gptoss_mlx.operands import Heads
from tests.metal.attention_cases import (
    ODD,
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

WINDOW = 128

LENGTHS = [(2, 0), (5, 0), (8, 0), (9, 0), (33, 0), (130, 0), (2, 140), (5, 300), (8, 131), (9, 129), (33, 257)]
"""Query rows and positions before them, one off from every tile and window."""

_OPERATIONS_A_STEP = 32
"""Products of 8x8 matrices that 16 keys take: 16 for their scores, 16 for their values."""


def attend(case: Case, window: int | None, *, splits: int | None = None, seed: int = 3) -> mx.array:
    with simulated(seed=seed):
        return tile_attention.launch(
            case.q,
            case.kv,
            number(case.length),
            window,
            case.sinks,
            case.heads,
            most_keys=case.kv.shape[2],
            splits=splits,
        )


@pytest.mark.parametrize("window", [WINDOW, None])
@pytest.mark.parametrize(("seq", "history"), LENGTHS)
def test_equals_float64_whatever_lies_beyond_the_length(seq: int, history: int, window: int | None) -> None:
    case = make_case(PAIR, history + seq, seq=seq, spare=19)
    assert_attended(attend(case, window), case.expected(window))


@pytest.mark.parametrize("window", [WINDOW, None])
@pytest.mark.parametrize(("seq", "history"), [(5, 0), (9, 130), (2, 1023)])
def test_splits_are_merged_and_may_be_empty(seq: int, history: int, window: int | None) -> None:
    case = make_case(PAIR, history + seq, seq=seq)
    assert_attended(attend(case, window, splits=3), case.expected(window))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_loses_the_rounding_of_the_result_only(dtype: mx.Dtype) -> None:
    case = make_case(PAIR, 170, seq=21, dtype=dtype, batch=2)
    assert_attended(attend(case, WINDOW), case.expected(WINDOW))


@pytest.mark.parametrize("heads", [SINGLE, POCKET, ODD])
@pytest.mark.parametrize(("seq", "history"), [(2, 0), (40, 0), (9, 150)])
def test_equals_float64_with_fewer_heads_than_matrix_rows(heads: Heads, seq: int, history: int) -> None:
    case = make_case(heads, history + seq, seq=seq, batch=2)
    assert_attended(attend(case, WINDOW), case.expected(WINDOW))


@pytest.mark.parametrize("window", [1, 7])
def test_a_window_may_be_narrower_than_a_tile(window: int) -> None:
    case = make_case(POCKET, 50, seq=35)
    assert_attended(attend(case, window), case.expected(window))


def test_queries_need_not_be_contiguous() -> None:
    case = make_case(PAIR, 20, seq=20)
    scattered = case.q.transpose(0, 2, 1, 3) + 0
    again = Case(scattered.transpose(0, 2, 1, 3), case.kv, case.length, case.sinks, case.heads)
    np.testing.assert_array_equal(bits_of(attend(again, WINDOW)), bits_of(attend(case, WINDOW)))


def test_sinks_weigh_in_the_denominator_only() -> None:
    case = make_case(PAIR, 40, seq=17, sinks=np.resize([30.0, -30.0, 0.0, 5.0], PAIR.query))
    assert_attended(attend(case, WINDOW), case.expected(WINDOW), SINK_ROUNDING)


@pytest.mark.parametrize("splits", [1, 3])
def test_extreme_sinks_take_everything_or_nothing(splits: int) -> None:
    case = make_case(PAIR, 40, seq=17, sinks=np.resize([1e4, -1e4], PAIR.query))
    heads = np.array(attend(case, None, splits=splits)).reshape(-1, 2, 64)
    np.testing.assert_array_equal(heads[:, 0], 0)
    np.testing.assert_allclose(heads[:, 1], case.expected().reshape(-1, 2, 64)[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("splits", [1, 3])
def test_is_the_same_bit_for_bit_in_every_order_of_lanes(splits: int) -> None:
    case = make_case(PAIR, 140, seq=11)
    first = bits_of(attend(case, None, splits=splits, seed=0))
    for seed in (1, 2):
        np.testing.assert_array_equal(bits_of(attend(case, None, splits=splits, seed=seed)), first)


@pytest.mark.parametrize("heads", [PAIR, POCKET, ODD])
@pytest.mark.parametrize(("seq", "history"), [(33, 257), (40, 0), (9, 150)])
def test_scores_the_keys_that_scored_keys_says(heads: Heads, seq: int, history: int) -> None:
    case = make_case(heads, history + seq, seq=seq)
    with simulated() as simulator:
        tile_attention.launch(case.q, case.kv, number(case.length), WINDOW, case.sinks, heads, most_keys=case.length)
    scored = scored_keys(seq, case.length, WINDOW, heads)[:: tile_positions(heads) // 8]
    assert simulator.launches[-1].matrix_ops == heads.kv * sum(scored) // 16 * _OPERATIONS_A_STEP


def test_a_band_of_a_long_prompt_scores_little_more_than_its_window() -> None:
    for history in (0, 127, 5000):
        assert max(scored_keys(2048, 2048 + history, WINDOW, REAL)) <= WINDOW + 16
        assert max(scored_keys(2048, 2048 + history, WINDOW, POCKET)) <= 160 + tile_positions(POCKET)


def test_a_tile_reads_the_keys_and_values_of_its_band_once_at_the_real_width() -> None:
    case = make_case(REAL, 200, seq=8, dtype=mx.bfloat16)
    with simulated() as simulator:
        found = tile_attention.launch(
            case.q, case.kv, number(200), WINDOW, case.sinks, REAL, most_keys=case.kv.shape[2]
        )
    assert_attended(found, case.expected(WINDOW))
    row_bytes = case.kv.nbytes // case.kv.shape[2]
    assert simulator.launches[-1].buffers["kv"].loaded_bytes == (WINDOW + 8 - 1) * row_bytes
    assert simulator.launches[-1].threadgroup_bytes <= 20_000


def test_a_few_rows_at_long_context_read_keys_and_values_once() -> None:
    heads = Heads(query=8, kv=1, dim=64)
    case = make_case(heads, 2500, seq=3, dtype=mx.bfloat16)
    with simulated() as simulator:
        found = tile_attention.launch(
            case.q, case.kv, number(2500), None, case.sinks, heads, most_keys=case.kv.shape[2]
        )
    assert_attended(found, case.expected())
    attended, merged = simulator.launches
    assert attended.grid[1] == 2507 // 256
    assert merged.kernel == "merge_attention"
    assert attended.buffers["kv"].loaded_bytes == 2500 * case.kv.nbytes // case.kv.shape[2]


@pytest.mark.parametrize("window", [WINDOW, None])
def test_equals_float64_at_the_real_width(window: int | None) -> None:
    case = make_case(REAL, 190, seq=41, dtype=mx.bfloat16)
    assert_attended(attend(case, window), case.expected(window))


@pytest.mark.parametrize("heads", [REAL, POCKET, SINGLE, ODD])
def test_fits_the_heads_of_the_models(heads: Heads) -> None:
    case = make_case(heads, 20, dtype=mx.bfloat16)
    assert tile_attention.fits(case.q, case.kv, heads)


@pytest.mark.parametrize("heads", [Heads(query=8, kv=2, dim=128), Heads(query=18, kv=2, dim=64)])
def test_refuses_other_heads(heads: Heads) -> None:
    with pytest.raises(ValueError, match="does not take"):
        attend(make_case(heads, 20), None)


def test_refuses_keys_of_another_dtype() -> None:
    case = make_case(POCKET, 20)
    assert not tile_attention.fits(case.q, case.kv.astype(mx.float16), POCKET)
