"""Down projection of a prompt in the simulator, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import grouped_down
from tests.metal.arrays import random_array, to_float64
from tests.metal.grouped_cases import Experts, random_choice, random_experts, sorted_pairs, unweighted_table
from tests.simulator import Simulator, simulated
from tests.tolerances import assert_close


def launched(
    inner: mx.array, chosen: np.ndarray, down: Experts, tile_rows: int, seed: int = 1
) -> tuple[mx.array, Simulator]:
    table = unweighted_table(chosen, len(down.blocks), tile_rows)
    with simulated(seed=seed) as simulator:
        return grouped_down.launch(inner, table, down.linear), simulator


def truth(inner: mx.array, chosen: np.ndarray, down: Experts) -> np.ndarray:
    return down.project(to_float64(inner), sorted_pairs(chosen)[1])


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("tokens", [2, 31])
def test_short_prompts_agree_with_float64_at_the_pocket_width(tokens: int, dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(tokens)
    down = random_experts(rng, 8, 192, 192, dtype)
    inner, chosen = random_array(rng, tokens * 4, 192, dtype=dtype), random_choice(rng, tokens, 8, 4)
    outputs, _ = launched(inner, chosen, down, 8)
    assert_close(outputs, truth(inner, chosen, down), dtype)


@pytest.mark.parametrize("tokens", [33, 129])
def test_long_prompts_agree_with_float64_where_neither_width_is_whole_tiles(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    down = random_experts(rng, 8, 96, 160)
    inner, chosen = random_array(rng, tokens * 4, 160, dtype=mx.bfloat16), random_choice(rng, tokens, 8, 4)
    outputs, _ = launched(inner, chosen, down, 64)
    assert_close(outputs, truth(inner, chosen, down), mx.bfloat16)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_the_real_width_agrees_with_float64(dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(1)
    down = random_experts(rng, 32, 32, 2880, dtype)
    inner, chosen = random_array(rng, 20, 2880, dtype=dtype), random_choice(rng, 5, 32, 4)
    outputs, _ = launched(inner, chosen, down, 8)
    assert_close(outputs, truth(inner, chosen, down), dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "rows"), [(5, 2880), (40, 640)])
def test_more_of_the_real_width_agrees_with_float64(tokens: int, rows: int) -> None:
    rng = np.random.default_rng(rows)
    down = random_experts(rng, 4, rows, 2880)
    inner, chosen = random_array(rng, tokens * 2, 2880, dtype=mx.bfloat16), random_choice(rng, tokens, 4, 2)
    outputs, _ = launched(inner, chosen, down, 8 if tokens == 5 else 64)
    assert_close(outputs, truth(inner, chosen, down), mx.bfloat16)


def test_the_order_of_lanes_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    down = random_experts(rng, 8, 96, 160)
    inner, chosen = random_array(rng, 33 * 4, 160, dtype=mx.bfloat16), random_choice(rng, 33, 8, 4)
    first, second, third = (to_float64(launched(inner, chosen, down, 64, seed)[0]) for seed in (0, 1, 2))
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(third, first)


def test_weights_are_read_once_for_each_expert_whose_pairs_fit_a_tile() -> None:
    rng = np.random.default_rng(4)
    down = random_experts(rng, 8, 96, 160)
    chosen = np.array([[2, 5]] * 40 + [[7, 2]] * 20)
    _, simulator = launched(random_array(rng, 120, 160, dtype=mx.bfloat16), chosen, down, 64)
    buffers = simulator.launches[-1].buffers
    assert buffers["blocks"].loaded_bytes == 3 * 96 * 160 // 2
    assert buffers["scales"].loaded_bytes == 3 * 96 * 160 // 32
    assert buffers["outputs"].stored_bytes == 120 * 96 * 2


def test_pairs_of_another_width_are_refused() -> None:
    rng = np.random.default_rng(5)
    down = random_experts(rng, 8, 96, 160)
    table = unweighted_table(random_choice(rng, 3, 8, 4), 8, 8)
    with pytest.raises(ValueError, match="expected a float"):
        grouped_down.launch(mx.zeros((12, 96), dtype=mx.bfloat16), table, down.linear)
