"""The weighted sum of each token's experts in the simulator, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import combine_experts
from tests.metal.arrays import random_array, to_float64
from tests.metal.grouped_cases import random_choice, table_of
from tests.simulator import Simulator, simulated
from tests.tolerances import assert_close


def combined(
    tokens: int, choices: int, hidden: int, dtype: mx.Dtype, seed: int = 1
) -> tuple[mx.array, np.ndarray, Simulator]:
    """What the kernel gives, and what it should."""
    rng = np.random.default_rng(tokens + hidden)
    chosen = random_choice(rng, tokens, 8, choices)
    weights = rng.dirichlet(np.ones(choices), tokens).astype(np.float32)
    outputs, residual = (
        random_array(rng, tokens * choices, hidden, dtype=dtype),
        random_array(rng, tokens, hidden, dtype=dtype),
    )
    table = table_of(chosen, weights, 8, 8)
    with simulated(seed=seed) as simulator:
        found = combine_experts.launch(outputs, table, residual)
    own = to_float64(outputs)[np.array(table.places)]
    return found, to_float64(residual) + (own * weights.astype(np.float64)[..., None]).sum(axis=1), simulator


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize(("tokens", "hidden"), [(2, 192), (33, 96), (5, 2880)])
def test_the_weighted_sum_joins_the_residual(tokens: int, hidden: int, dtype: mx.Dtype) -> None:
    found, expected, _ = combined(tokens, 4, hidden, dtype)
    assert_close(found, expected, dtype)


def test_one_expert_a_token_is_enough() -> None:
    found, expected, _ = combined(3, 1, 96, mx.float32)
    assert_close(found, expected)


def test_the_order_of_lanes_changes_nothing() -> None:
    first, second, third = (to_float64(combined(33, 4, 96, mx.bfloat16, seed)[0]) for seed in (0, 1, 2))
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(third, first)


def test_outputs_are_read_once() -> None:
    _, _, simulator = combined(5, 4, 2880, mx.bfloat16)
    buffers = simulator.launches[-1].buffers
    assert buffers["outputs"].loaded_bytes == 5 * 4 * 2880 * 2
    assert buffers["residual"].loaded_bytes == buffers["combined"].stored_bytes == 5 * 2880 * 2


def test_outputs_that_do_not_match_the_residual_are_refused() -> None:
    rng = np.random.default_rng(1)
    table = table_of(random_choice(rng, 3, 8, 4), np.ones((3, 4)), 8, 8)
    with pytest.raises(ValueError, match="4 outputs for each row"):
        combine_experts.launch(mx.zeros((11, 96)), table, mx.zeros((3, 96)))
