"""A prompt's experts from router logits to residual stream, in the simulator against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import grouped_experts, tile_matmul
from tests import reference
from tests.metal.arrays import random_array, to_float64
from tests.metal.grouped_cases import ALPHA, LIMIT, Experts, random_experts, sorted_pairs
from tests.simulator import simulated
from tests.tolerances import assert_close


def through_experts(
    x: mx.array, logits: mx.array, residual: mx.array, gate_up: Experts, down: Experts, choices: int
) -> np.ndarray:
    """float64 `[tokens, hidden]`."""
    chosen, weights = reference.route(to_float64(logits), choices)
    tokens, experts = sorted_pairs(chosen)
    order = np.argsort(chosen.reshape(-1), kind="stable")
    inner = reference.swiglu(gate_up.project(to_float64(x)[tokens], experts), LIMIT, ALPHA)
    out = to_float64(residual)
    np.add.at(out, tokens, weights.reshape(-1)[order][:, None] * down.project(inner, experts))
    return out


@pytest.mark.parametrize(
    ("tokens", "dtype"), [(2, mx.bfloat16), (3, mx.float32), (31, mx.float16), (33, mx.float32), (129, mx.bfloat16)]
)
def test_a_prompt_of_the_pocket_model_agrees_with_float64(tokens: int, dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(tokens)
    gate_up, down = random_experts(rng, 8, 384, 192, dtype), random_experts(rng, 8, 192, 192, dtype)
    x, residual = random_array(rng, tokens, 192, dtype=dtype), random_array(rng, tokens, 192, dtype=dtype)
    logits = random_array(rng, tokens, 8, dtype=mx.float32)
    with simulated(seed=1) as simulator:
        found = grouped_experts.launch(
            x, logits, residual, gate_up.linear, down.linear, experts_per_token=4, limit=LIMIT, alpha=ALPHA
        )
    assert_close(found, through_experts(x, logits, residual, gate_up, down, 4), dtype)
    assert len(simulator.launches) == 5


def test_tiles_grow_with_the_pairs_that_an_expert_can_expect() -> None:
    assert [grouped_experts.tile_rows(tokens, 32, 4) for tokens in (2, 31, 33, 64, 128, 129, 4096)] == [
        8, 8, 16, 16, 32, 64, 64,
    ]  # fmt: skip
    assert [grouped_experts.tile_rows(tokens, 128, 4) for tokens in (2, 128, 129, 512, 2048)] == [8, 8, 16, 32, 64]


def test_what_the_kernels_take_is_said_beforehand() -> None:
    rng = np.random.default_rng(1)
    gate_up, down = random_experts(rng, 8, 192, 160).linear, random_experts(rng, 8, 160, 96).linear
    x = mx.zeros((2, 160), dtype=mx.bfloat16)
    assert grouped_experts.fits(x, gate_up, down, 4)
    assert not grouped_experts.fits(x[:1], gate_up, down, 4)
    assert not grouped_experts.fits(x[:, :96], gate_up, down, 4)
    assert not grouped_experts.fits(x, gate_up, down, 9)
    assert not tile_matmul.width_fits(tile_matmul.MOST_WIDTH + 32)
    assert not grouped_experts.fits(x, down, gate_up, 4)
    assert not grouped_experts.fits(x.astype(mx.int32), gate_up, down, 4)
