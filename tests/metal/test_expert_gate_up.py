"""One token's activations inside its experts, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import expert_gate_up
from tests import reference
from tests.metal.arrays import random_array, to_float64
from tests.metal.expert_linears import DTYPES, LINES_OF_MLX, apply_expert, biased_experts, random_experts
from tests.simulator import simulated
from tests.tolerances import assert_close

LIMIT, ALPHA = 7.0, 1.702
"""gpt-oss's clamp and sigmoid."""


def check(experts: int, choices: int, hidden: int, intermediate: int, dtype: mx.Dtype) -> tuple[int, dict[str, int]]:
    """Compares one launch with float64; gives its transactions and the bytes that it loaded."""
    rng = np.random.default_rng(hidden)
    gate_up = random_experts(rng, experts, 2 * intermediate, hidden)
    normed = random_array(rng, 1, 1, hidden, dtype=dtype)
    logits = random_array(rng, 1, 1, experts, dtype=mx.float32)
    with simulated(seed=1, counting=True) as simulator:
        inner = expert_gate_up.launch(normed, logits, gate_up, choices, LIMIT, ALPHA)
    chosen, _ = reference.route(to_float64(logits)[0], choices)
    x = to_float64(normed)[0, 0]
    expected = [reference.swiglu(apply_expert(gate_up, expert, x), LIMIT, ALPHA) for expert in chosen[0]]
    assert inner.dtype == dtype
    assert_close(inner, np.array(expected), dtype)
    launch = simulator.launches[-1]
    assert launch.threadgroup_bytes <= 32_768
    return launch.transactions, {name: buffer.loaded_bytes for name, buffer in launch.buffers.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_agrees_with_float64_at_the_pocket_model_s_widths(dtype: mx.Dtype) -> None:
    check(8, 4, 192, 192, dtype)


@pytest.mark.parametrize(
    ("experts", "choices", "hidden", "intermediate"),
    [(128, 4, 192, 192), (32, 1, 1024, 32), (4, 3, 32, 16), (40, 8, 33 * 32, 48), (8, 2, 31 * 32, 64)],
)
def test_it_agrees_with_float64_at_other_sizes(experts: int, choices: int, hidden: int, intermediate: int) -> None:
    check(experts, choices, hidden, intermediate, mx.float32)


@pytest.mark.parametrize("dtype", [mx.bfloat16, pytest.param(mx.float32, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_at_the_20b_s_widths_it_loads_the_chosen_weights_once_in_few_transactions(dtype: mx.Dtype) -> None:
    transactions, loaded = check(32, 4, 2880, 2880, dtype)
    rows = 4 * 5760
    assert loaded["blocks"] == rows * 2880 // 2
    assert loaded["scales"] == rows * 2880 // 32
    assert loaded["bias"] == rows * 2
    assert transactions < rows * LINES_OF_MLX


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_lanes_changes_no_bit(dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(5)
    gate_up = random_experts(rng, 8, 384, 192)
    normed = random_array(rng, 1, 1, 192, dtype=dtype)
    logits = random_array(rng, 1, 1, 8, dtype=mx.float32)
    results = []
    for seed in range(3):
        with simulated(seed=seed):
            results.append(to_float64(expert_gate_up.launch(normed, logits, gate_up, 4, LIMIT, ALPHA)))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_gate_and_up_are_clamped_and_large_values_do_not_overflow() -> None:
    edges = [0.0, 1.0, 6.999, 7.0, 7.001, 50.0, 1e30, 3e38]
    values = np.array(edges + [-value for value in edges], dtype=np.float32)
    gate, up = (axis.ravel() for axis in np.meshgrid(values, values))
    bias = np.stack([gate, up], axis=-1).reshape(1, -1).repeat(8, axis=0)
    with simulated():
        inner = expert_gate_up.launch(mx.zeros((1, 1, 32)), mx.zeros((1, 1, 8)), biased_experts(bias), 1, LIMIT, ALPHA)
    with np.errstate(over="ignore"):
        expected = reference.swiglu(bias[:1].astype(np.float64), LIMIT, ALPHA)
    np.testing.assert_allclose(np.array(inner), expected, rtol=2e-6, atol=1e-30)


def test_nan_passes_the_clamps() -> None:
    bias = np.zeros((8, 32))
    bias[:, 0], bias[:, 5] = np.nan, np.nan
    with simulated():
        inner = expert_gate_up.launch(mx.zeros((1, 1, 32)), mx.zeros((1, 1, 8)), biased_experts(bias), 1, LIMIT, ALPHA)
    assert np.flatnonzero(np.isnan(np.array(inner)[0])).tolist() == [0, 2]


def test_the_limit_and_alpha_are_the_caller_s() -> None:
    bias = np.linspace(-3, 3, 32)[None].repeat(8, axis=0)
    with simulated():
        inner = expert_gate_up.launch(mx.zeros((1, 1, 32)), mx.zeros((1, 1, 8)), biased_experts(bias), 1, 2.0, 0.5)
    assert_close(inner, reference.swiglu(bias[:1], 2.0, 0.5))


def test_what_does_not_fit_is_said_and_refused() -> None:
    rng = np.random.default_rng(0)
    gate_up = random_experts(rng, 8, 384, 192)
    normed, logits = mx.zeros((1, 1, 192)), mx.zeros((1, 1, 8))
    assert expert_gate_up.fits(normed, logits, gate_up, 4, LIMIT, ALPHA)
    for arguments in (
        (mx.zeros((1, 2, 192)), mx.zeros((1, 2, 8)), gate_up, 4),
        (normed, logits, gate_up, 9),
        (normed, logits, random_experts(rng, 8, 368, 192), 4),
        (normed.astype(mx.int32), logits, gate_up, 4),
        (normed, logits.astype(mx.bfloat16), gate_up, 4),
        (mx.zeros((1, 1, 8192)), logits, random_experts(rng, 8, 32, 8192), 4),
        (mx.zeros((1, 1, 184)), logits, random_experts(rng, 8, 384, 184), 4),
    ):
        assert not expert_gate_up.fits(*arguments, LIMIT, ALPHA)
        with pytest.raises(ValueError, match="expert_gate_up"):
            expert_gate_up.launch(*arguments, LIMIT, ALPHA)
