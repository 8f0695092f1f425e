"""One token's way out of its experts, against float64; and every MXFP4 value."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import expert_down
from gptoss_mlx.operands import ExpertLinear
from tests import reference
from tests.metal.arrays import random_array, to_float64
from tests.metal.expert_linears import DTYPES, LINES_OF_MLX, apply_expert, random_experts
from tests.simulator import simulated
from tests.tolerances import assert_close


def check(experts: int, choices: int, intermediate: int, hidden: int, dtype: mx.Dtype) -> tuple[int, dict[str, int]]:
    """Compares one launch with float64; gives its transactions and the bytes that it loaded."""
    rng = np.random.default_rng(intermediate)
    down = random_experts(rng, experts, hidden, intermediate)
    inner = random_array(rng, choices, intermediate, dtype=dtype)
    residual = random_array(rng, 1, 1, hidden, dtype=dtype)
    logits = random_array(rng, 1, 1, experts, dtype=mx.float32)
    with simulated(seed=1, counting=True) as simulator:
        out = expert_down.launch(inner, logits, down, residual, choices)
    chosen, weights = reference.route(to_float64(logits)[0], choices)
    outputs = [apply_expert(down, expert, x) for expert, x in zip(chosen[0], to_float64(inner), strict=True)]
    assert out.dtype == dtype
    assert_close(out, to_float64(residual) + weights @ np.array(outputs), dtype)
    launch = simulator.launches[-1]
    assert launch.threadgroup_bytes <= 32_768
    return launch.transactions, {name: buffer.loaded_bytes for name, buffer in launch.buffers.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_agrees_with_float64_at_the_pocket_model_s_widths(dtype: mx.Dtype) -> None:
    check(8, 4, 192, 192, dtype)


@pytest.mark.parametrize(
    ("experts", "choices", "intermediate", "hidden"),
    [(128, 4, 192, 192), (32, 1, 1024, 32), (4, 3, 32, 16), (40, 8, 33 * 32, 48), (8, 2, 31 * 32, 64)],
)
def test_it_agrees_with_float64_at_other_sizes(experts: int, choices: int, intermediate: int, hidden: int) -> None:
    check(experts, choices, intermediate, hidden, mx.float32)


@pytest.mark.parametrize("dtype", [mx.bfloat16, pytest.param(mx.float32, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_at_the_20b_s_widths_it_loads_the_chosen_weights_once_in_few_transactions(dtype: mx.Dtype) -> None:
    transactions, loaded = check(32, 4, 2880, 2880, dtype)
    rows = 4 * 2880
    assert loaded["blocks"] == rows * 2880 // 2
    assert loaded["scales"] == rows * 2880 // 32
    assert loaded["bias"] == rows * 2
    assert transactions < rows * LINES_OF_MLX


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_lanes_changes_no_bit(dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(5)
    down = random_experts(rng, 8, 192, 192)
    inner = random_array(rng, 4, 192, dtype=dtype)
    residual = random_array(rng, 1, 1, 192, dtype=dtype)
    logits = random_array(rng, 1, 1, 8, dtype=mx.float32)
    results = []
    for seed in range(3):
        with simulated(seed=seed):
            results.append(to_float64(expert_down.launch(inner, logits, down, residual, 4)))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize(("x", "first", "last"), [(2.0**30, 0, 200), (2.0**-30, 100, 254)])
def test_every_scale_and_code_is_exact(x: float, first: int, last: int) -> None:
    # Row r has scale r; expert e is code e, eight times over, one in each nibble of a word. An activation of 2^30 or
    # 2^-30 keeps the products between the least and the greatest normal float32.
    codes = np.arange(16, dtype=np.uint32)
    scales = np.append(np.arange(255, dtype=np.uint8), np.uint8(127))
    blocks = np.zeros((16, 256, 4), dtype=np.uint32)
    blocks[:, :, 2] = (codes * 0x11111111)[:, None]
    down = ExpertLinear(mx.array(blocks), mx.array(scales[None, :, None].repeat(16, axis=0)), mx.zeros((16, 256)))
    residual = mx.zeros((1, 1, 256))
    for code, value in enumerate([*reference.FP4, *-reference.FP4]):
        logits = mx.array(np.eye(16, dtype=np.float32)[code][None, None])
        inner = np.zeros((1, 32), dtype=np.float32)
        inner[0, 16 + code % 8] = x
        with simulated():
            out = expert_down.launch(mx.array(inner), logits, down, residual, 1)
        expected = value * x * 2.0 ** (scales.astype(np.float64) - 127)
        np.testing.assert_array_equal(np.array(out)[0, 0, first : last + 1], expected[first : last + 1])


def test_each_nibble_meets_its_own_activation() -> None:
    down = random_experts(np.random.default_rng(3), 16, 256, 32)
    x = 2.0 ** np.arange(32)
    inner, residual = mx.array(x[None], dtype=mx.float32), mx.zeros((1, 1, 256))
    with simulated():
        out = expert_down.launch(inner, mx.zeros((1, 1, 16)), down, residual, 1)
    assert_close(out, apply_expert(down, 0, x)[None, None])


def test_what_does_not_fit_is_said_and_refused() -> None:
    rng = np.random.default_rng(0)
    down = random_experts(rng, 8, 192, 192)
    inner, logits, residual = mx.zeros((4, 192)), mx.zeros((1, 1, 8)), mx.zeros((1, 1, 192))
    assert expert_down.fits(inner, logits, down, residual, 4)
    for arguments in (
        (mx.zeros((8, 192)), mx.zeros((1, 2, 8)), down, mx.zeros((1, 2, 192)), 4),
        (mx.zeros((9, 192)), logits, down, residual, 9),
        (inner, logits, random_experts(rng, 8, 184, 192), mx.zeros((1, 1, 184)), 4),
        (inner, logits, down, residual.astype(mx.bfloat16), 4),
        (inner, logits.astype(mx.bfloat16), down, residual, 4),
        (mx.zeros((4, 4096)), logits, random_experts(rng, 8, 192, 4096), residual, 4),
        (mx.zeros((4, 184)), logits, random_experts(rng, 8, 192, 184), residual, 4),
    ):
        assert not expert_down.fits(*arguments)
        with pytest.raises(ValueError, match="expert_down"):
            expert_down.launch(*arguments)
