"""One token's attention over the ring: against float64, at the window's edges, and what it reads and writes."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import ring_attention
from gptoss_mlx.operands import Heads
from gptoss_mlx.ops import ReferenceOps
from tests.metal.attention_cases import (
    PAIR,
    POCKET,
    REAL,
    SINGLE,
    SINK_ROUNDING,
    assert_attended,
    bits_of,
    make_case,
    number,
)
from tests.simulator import simulated

WINDOW = 128


def attend(
    heads: Heads, position: int, *, window: int = WINDOW, empty: float = float("nan"), seed: int = 3, **case: Any
) -> tuple[mx.array, mx.array, mx.array, np.ndarray]:
    """Runs the kernel at `position`: its results, the ring that must come out, and the attention that must.

    The ring holds the positions before it, each in its slot, and `empty` in the slots that none has reached.
    """
    made = make_case(heads, position + 1, spare=0, **case)
    batch, kv_heads, _, dim = made.kv.shape
    slots = np.full((batch, kv_heads, window, dim), empty, dtype=np.float32)
    for earlier in range(max(0, position - window), position):
        slots[:, :, earlier % window] = np.array(made.kv[:, :, earlier].astype(mx.float32))
    ring, rows = mx.array(slots).astype(made.kv.dtype), made.kv[:, :, position:]
    with simulated(seed=seed):
        attended, new_ring = ring_attention.launch(made.q, rows, ring, number(position), made.sinks, heads)
    return attended, new_ring, ReferenceOps().write_rows(ring, rows, position % window), made.expected(window)


@pytest.mark.parametrize("position", [0, 1, 30, 32, 126, 127, 128, 129, 5 * 128 + 3, 1024])
def test_equals_float64_with_the_ring_not_full_full_and_wrapped(position: int) -> None:
    attended, new_ring, ring, expected = attend(PAIR, position)
    assert_attended(attended, expected)
    np.testing.assert_array_equal(bits_of(new_ring), bits_of(ring))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("position", [127, 300])
def test_half_precision_loses_the_rounding_of_the_result_only(dtype: mx.Dtype, position: int) -> None:
    attended, new_ring, ring, expected = attend(PAIR, position, dtype=dtype, batch=2)
    assert_attended(attended, expected)
    np.testing.assert_array_equal(bits_of(new_ring), bits_of(ring))


@pytest.mark.parametrize("heads", [SINGLE, POCKET])
@pytest.mark.parametrize("position", [0, 200])
def test_equals_float64_with_fewer_heads(heads: Heads, position: int) -> None:
    attended, new_ring, ring, expected = attend(heads, position, batch=2)
    assert_attended(attended, expected)
    np.testing.assert_array_equal(bits_of(new_ring), bits_of(ring))


@pytest.mark.parametrize("position", [0, 31, 32, 33, 34, 100])
def test_a_window_need_not_be_whole_steps(position: int) -> None:
    attended, new_ring, ring, expected = attend(POCKET, position, window=33)
    assert_attended(attended, expected)
    np.testing.assert_array_equal(bits_of(new_ring), bits_of(ring))


@pytest.mark.parametrize("position", [0, 40, 300])
def test_sinks_weigh_in_the_denominator_only(position: int) -> None:
    sinks = np.resize([30.0, -30.0, 0.0, 5.0], PAIR.query)
    attended, _, _, expected = attend(PAIR, position, sinks=sinks)
    assert_attended(attended, expected, SINK_ROUNDING)


def test_extreme_sinks_take_everything_or_nothing() -> None:
    sinks = np.resize([1e4, -1e4], PAIR.query)
    attended, _, _, expected = attend(PAIR, 50, sinks=sinks)
    heads = np.array(attended).reshape(-1, 2, 64)
    np.testing.assert_array_equal(heads[:, 0], 0)
    np.testing.assert_allclose(heads[:, 1], expected.reshape(-1, 2, 64)[:, 1], rtol=1e-5, atol=1e-6)


def test_is_the_same_bit_for_bit_in_every_order_of_lanes() -> None:
    found = [attend(PAIR, 200, seed=seed)[:2] for seed in (0, 1, 2)]
    for attended, ring in found[1:]:
        np.testing.assert_array_equal(bits_of(attended), bits_of(found[0][0]))
        np.testing.assert_array_equal(bits_of(ring), bits_of(found[0][1]))


def test_reads_and_writes_every_row_once_at_the_real_width() -> None:
    case = make_case(REAL, 500, dtype=mx.bfloat16, spare=0)
    ring, rows = case.kv[:, :, 499 - WINDOW : 499], case.kv[:, :, 499:]
    with simulated() as simulator:
        ring_attention.launch(case.q, rows, ring, number(499), case.sinks, REAL)
    buffers = simulator.launches[-1].buffers
    assert buffers["rows"].loaded_bytes == rows.nbytes
    assert buffers["ring"].loaded_bytes == ring.nbytes - rows.nbytes
    assert buffers["new_ring"].stored_bytes == ring.nbytes
    assert simulator.launches[-1].threadgroup_bytes <= 20_000


@pytest.mark.parametrize("heads", [REAL, POCKET, SINGLE])
def test_fits_the_heads_of_the_models(heads: Heads) -> None:
    case = make_case(heads, 129, dtype=mx.bfloat16, spare=0)
    assert ring_attention.fits(case.q, case.kv[:, :, 128:], case.kv[:, :, :128], heads)


@pytest.mark.parametrize("heads", [Heads(query=8, kv=2, dim=128), Heads(query=18, kv=2, dim=64)])
def test_refuses_other_heads(heads: Heads) -> None:
    case = make_case(heads, 129, spare=0)
    with pytest.raises(ValueError, match="does not take"):
        ring_attention.launch(case.q, case.kv[:, :, 128:], case.kv[:, :, :128], number(128), case.sinks, heads)


def test_refuses_rows_of_another_dtype_and_more_than_one_token() -> None:
    case, pair = make_case(POCKET, 129, spare=0), make_case(POCKET, 130, seq=2, spare=0)
    assert not ring_attention.fits(case.q, case.kv[:, :, 128:].astype(mx.float16), case.kv[:, :, :128], POCKET)
    assert not ring_attention.fits(pair.q, pair.kv[:, :, 128:], pair.kv[:, :, :128], POCKET)
