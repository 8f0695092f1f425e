"""Gate and up projections of a prompt in the simulator, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import grouped_gate_up
from gptoss_mlx.metal.tile_matmul import TILE_HEIGHTS
from tests.metal.arrays import random_array, to_float64
from tests.metal.grouped_cases import (
    ALPHA,
    LIMIT,
    Experts,
    gate_up_truth,
    random_choice,
    random_experts,
    unweighted_table,
)
from tests.simulator import Simulator, simulated
from tests.tolerances import assert_close

DTYPES = [mx.bfloat16, mx.float16, mx.float32]


def launched(
    x: mx.array, chosen: np.ndarray, gate_up: Experts, tile_rows: int, seed: int = 1, counting: bool = False
) -> tuple[mx.array, Simulator]:
    table = unweighted_table(chosen, len(gate_up.blocks), tile_rows)
    with simulated(seed=seed, counting=counting) as simulator:
        return grouped_gate_up.launch(x, table, gate_up.linear, LIMIT, ALPHA), simulator


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [2, 3, 31])
def test_short_prompts_agree_with_float64_at_the_pocket_width(tokens: int, dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(tokens)
    gate_up = random_experts(rng, 8, 128, 192, dtype)
    x, chosen = random_array(rng, tokens, 192, dtype=dtype), random_choice(rng, tokens, 8, 4)
    inner, _ = launched(x, chosen, gate_up, 8)
    assert_close(inner, gate_up_truth(x, chosen, gate_up), dtype)


@pytest.mark.parametrize("tokens", [33, 129])
def test_long_prompts_agree_with_float64_where_neither_width_is_whole_tiles(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    gate_up = random_experts(rng, 8, 160, 96)
    x, chosen = random_array(rng, tokens, 96, dtype=mx.bfloat16), random_choice(rng, tokens, 8, 4)
    inner, _ = launched(x, chosen, gate_up, 64)
    assert_close(inner, gate_up_truth(x, chosen, gate_up), mx.bfloat16)


@pytest.mark.parametrize("width", [32, 256, 352, 640])
def test_the_last_step_takes_what_is_left_of_any_width(width: int) -> None:
    rng = np.random.default_rng(width)
    gate_up = random_experts(rng, 2, 64, width)
    x, chosen = random_array(rng, 3, width, dtype=mx.bfloat16), random_choice(rng, 3, 2, 2)
    inner, _ = launched(x, chosen, gate_up, 8)
    assert_close(inner, gate_up_truth(x, chosen, gate_up), mx.bfloat16)


@pytest.mark.parametrize("tile_rows", TILE_HEIGHTS)
def test_tiles_of_every_height_hold_any_number_of_pairs(tile_rows: int) -> None:
    rng = np.random.default_rng(tile_rows)
    gate_up = random_experts(rng, 3, 96, 96, mx.float32)
    for tokens in (tile_rows - 1, tile_rows, tile_rows + 1, 2 * tile_rows + 9):
        x = random_array(rng, tokens, 96, dtype=mx.float32)
        chosen = np.ones((tokens, 1), dtype=np.int64)  # experts 0 and 2 stay empty
        inner, _ = launched(x, chosen, gate_up, tile_rows)
        assert_close(inner, gate_up_truth(x, chosen, gate_up))


def test_a_pair_gives_the_same_bits_whatever_else_is_in_its_tile() -> None:
    rng = np.random.default_rng(1)
    gate_up = random_experts(rng, 3, 96, 96, mx.float32)
    x = random_array(rng, 40, 96, dtype=mx.float32)
    chosen = np.ones((40, 1), dtype=np.int64)
    inner, _ = launched(x, chosen, gate_up, 64)
    for rows, tile_rows in ((40, 8), (40, 16), (40, 32), (9, 64)):
        part, _ = launched(x[:rows], chosen[:rows], gate_up, tile_rows)
        np.testing.assert_array_equal(np.array(part), np.array(inner[:rows]))


@pytest.mark.parametrize("experts", [32, 128])
def test_the_real_width_agrees_with_float64(experts: int) -> None:
    rng = np.random.default_rng(experts)
    gate_up = random_experts(rng, experts, 64, 2880)
    x, chosen = random_array(rng, 5, 2880, dtype=mx.bfloat16), random_choice(rng, 5, experts, 4)
    inner, _ = launched(x, chosen, gate_up, 8)
    assert_close(inner, gate_up_truth(x, chosen, gate_up), mx.bfloat16)


def test_the_real_width_is_right_to_float32() -> None:
    rng = np.random.default_rng(2)
    gate_up = random_experts(rng, 4, 64, 2880, mx.float32)
    x, chosen = random_array(rng, 5, 2880, dtype=mx.float32), random_choice(rng, 5, 4, 2)
    inner, _ = launched(x, chosen, gate_up, 8)
    assert_close(inner, gate_up_truth(x, chosen, gate_up))


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "rows"), [(5, 5760), (40, 640)])
def test_more_of_the_real_width_agrees_with_float64(tokens: int, rows: int) -> None:
    rng = np.random.default_rng(rows)
    gate_up = random_experts(rng, 4, rows, 2880)
    x, chosen = random_array(rng, tokens, 2880, dtype=mx.bfloat16), random_choice(rng, tokens, 4, 2)
    inner, _ = launched(x, chosen, gate_up, 8 if tokens == 5 else 64)
    assert_close(inner, gate_up_truth(x, chosen, gate_up), mx.bfloat16)


def test_gate_and_up_are_clamped_and_the_sigmoid_holds_far_out() -> None:
    rng = np.random.default_rng(4)
    gate_up = random_experts(rng, 3, 96, 96, mx.float32)
    far = np.array([-3e38, -1e4, -90.0, -7.0, 0.0, 7.0, 90.0, 1e4, 3e38], dtype=np.float32)
    bias = rng.choice(far, (3, 96))
    gate_up = gate_up._replace(
        linear=type(gate_up.linear)(gate_up.linear.blocks, gate_up.linear.scales, mx.array(bias)),
        bias=bias.astype(np.float64),
    )
    x, chosen = random_array(rng, 7, 96, dtype=mx.float32), np.ones((7, 1), dtype=np.int64)
    inner, _ = launched(x, chosen, gate_up, 8)
    with np.errstate(over="ignore"):
        expected = gate_up_truth(x, chosen, gate_up)
    assert np.isfinite(np.array(inner)).all()
    np.testing.assert_allclose(np.array(inner), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_the_largest_scale_bytes_are_exact_beside_the_smallest(dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(5)
    gate_up = random_experts(rng, 8, 128, 192, dtype, scales=(0, 1, 15, 16, 253, 254))
    # Weights of up to 6 * 2^127 need activations this small for sums that are not all clamped.
    x = np.ldexp(rng.choice([-1.5, -1.0, 1.0, 1.5], (3, 192)), -126) * (rng.random((3, 192)) < 0.02)
    chosen = random_choice(rng, 3, 8, 4)
    inputs = mx.array(x.astype(np.float32)).astype(dtype)
    inner, _ = launched(inputs, chosen, gate_up, 8)
    expected = gate_up_truth(inputs, chosen, gate_up)
    without = gate_up_truth(inputs * 0, chosen, gate_up)
    assert (np.abs(expected - without) > 0.01).mean() > 0.5, "the weights must matter"
    assert_close(inner, expected, dtype)


@pytest.mark.parametrize("scale", [0, 1, 15])
def test_scale_bytes_below_16_are_right_in_absolute_terms(scale: int) -> None:
    rng = np.random.default_rng(scale)
    gate_up = random_experts(rng, 8, 128, 192, mx.float32, scales=(scale,))
    x, chosen = random_array(rng, 3, 192, dtype=mx.float32) * 1e3, random_choice(rng, 3, 8, 4)
    inner, _ = launched(x, chosen, gate_up, 8)
    assert_close(inner, gate_up_truth(x, chosen, gate_up))


def test_scale_byte_16_is_exact() -> None:
    rng = np.random.default_rng(16)
    gate_up = random_experts(rng, 8, 128, 192, mx.float32, scales=(16,))
    x, chosen = random_array(rng, 3, 192, dtype=mx.float32) * 2.0**107, random_choice(rng, 3, 8, 4)
    inner, _ = launched(x, chosen, gate_up, 8)
    assert_close(inner, gate_up_truth(x, chosen, gate_up))


def test_scales_beyond_the_range_of_half_do_no_harm_in_half() -> None:
    rng = np.random.default_rng(6)
    gate_up = random_experts(rng, 8, 128, 192, mx.float16, scales=(140, 145))
    x = (random_array(rng, 3, 192, dtype=mx.float32) * 2.0**-20).astype(mx.float16)
    chosen = random_choice(rng, 3, 8, 4)
    inner, _ = launched(x, chosen, gate_up, 8)
    assert_close(inner, gate_up_truth(x, chosen, gate_up), mx.float16)


def test_the_order_of_lanes_changes_nothing() -> None:
    rng = np.random.default_rng(7)
    gate_up = random_experts(rng, 8, 160, 96)
    x, chosen = random_array(rng, 33, 96, dtype=mx.bfloat16), random_choice(rng, 33, 8, 4)
    first, second, third = (to_float64(launched(x, chosen, gate_up, 64, seed)[0]) for seed in (0, 1, 2))
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(third, first)


def test_weights_are_read_once_for_each_expert_whose_pairs_fit_a_tile() -> None:
    rng = np.random.default_rng(8)
    gate_up = random_experts(rng, 8, 160, 96)
    chosen = np.array([[2, 5]] * 40 + [[7, 2]] * 20)
    _, simulator = launched(random_array(rng, 60, 96, dtype=mx.bfloat16), chosen, gate_up, 64)
    buffers = simulator.launches[-1].buffers
    assert buffers["blocks"].loaded_bytes == 3 * 160 * 96 // 2
    assert buffers["scales"].loaded_bytes == 3 * 160 * 96 // 32
    assert buffers["inner"].stored_bytes == 120 * 80 * 2


@pytest.mark.parametrize(("width", "lines"), [(256, 1.0), (2880, 1.8)])
def test_weights_are_loaded_in_lines_of_128_bytes(width: int, lines: float) -> None:
    rng = np.random.default_rng(width)
    gate_up = random_experts(rng, 4, 64, width)
    _, simulator = launched(
        random_array(rng, 1, width, dtype=mx.bfloat16), np.array([[0, 1, 2, 3]]), gate_up, 8, counting=True
    )
    blocks, scales = (simulator.launches[-1].buffers[name] for name in ("blocks", "scales"))
    # Rows of 2880 values begin on a line in one case of four.
    assert blocks.transactions == lines * blocks.unique_loaded_bytes / 128
    assert scales.transactions == scales.unique_loaded_bytes / 128


def test_experts_that_do_not_match_the_tokens_are_refused() -> None:
    rng = np.random.default_rng(9)
    gate_up = random_experts(rng, 8, 128, 192)
    table = unweighted_table(random_choice(rng, 3, 8, 4), 8, 8)
    with pytest.raises(ValueError, match="expected a float"):
        grouped_gate_up.launch(mx.zeros((3, 96), dtype=mx.bfloat16), table, gate_up.linear, LIMIT, ALPHA)
    with pytest.raises(ValueError, match="tiles of 12 pairs"):
        grouped_gate_up.launch(
            mx.zeros((3, 192), dtype=mx.bfloat16), table._replace(tile_rows=12), gate_up.linear, LIMIT, ALPHA
        )
