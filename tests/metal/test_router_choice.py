"""Which experts the kernels choose out of a token's logits, in which order, and with which weights.

Seen through experts without weights: a bias that names its expert shows who was chosen, and one that is 1 in the row of
its own number shows with what weight.
"""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import expert_down, expert_gate_up
from tests import reference
from tests.metal.expert_linears import biased_experts
from tests.simulator import simulated

SIZES = [(4, 2), (16, 16), (32, 4), (40, 8), (128, 4)]
"""Experts and experts per token: logits in constant memory, all and most experts, one a lane, two, four a lane."""


def chosen_experts(logits: np.ndarray, choices: int) -> list[int]:
    """What expert_gate_up chooses: sigmoid(1000) is 1, so one whose up bias is its number n gives 1000 * (n + 1)."""
    experts = len(logits)
    bias = np.full((experts, 32), 1000.0)
    bias[:, 1::2] = np.arange(experts)[:, None]
    normed = mx.zeros((1, 1, 32))
    with simulated():
        inner = expert_gate_up.launch(normed, as_logits(logits), biased_experts(bias), choices, 1000.0, 1.702)
    found = np.array(inner)
    assert (found == found[:, :1]).all()
    return [int(value / 1000) - 1 for value in found[:, 0]]


def expert_weights(logits: np.ndarray, choices: int) -> np.ndarray:
    """The weight of every expert, 0 for those that were not chosen, `[experts]`."""
    experts = len(logits)
    bias = np.eye(experts, -(-experts // 16) * 16)
    with simulated():
        out = expert_down.launch(
            mx.zeros((choices, 32)), as_logits(logits), biased_experts(bias), mx.zeros((1, 1, bias.shape[1])), choices
        )
    return np.array(out)[0, 0, :experts]


def as_logits(values: np.ndarray) -> mx.array:
    return mx.array(values.astype(np.float32)[None, None])


@pytest.mark.parametrize(("experts", "choices"), SIZES)
def test_the_strongest_come_first_and_of_equal_logits_the_lower_expert(experts: int, choices: int) -> None:
    rng = np.random.default_rng(experts)
    for spread in (0, 1, 2, 1000):
        logits = rng.integers(-spread, spread + 1, experts).astype(np.float64)
        expected, _ = reference.route(logits[None], choices)
        assert chosen_experts(logits, choices) == expected[0].tolist()


@pytest.mark.parametrize(("experts", "choices"), SIZES)
def test_weights_are_the_softmax_over_the_chosen(experts: int, choices: int) -> None:
    rng = np.random.default_rng(experts)
    for logits in (rng.standard_normal(experts), 100 * rng.standard_normal(experts), np.zeros(experts)):
        logits = logits.astype(np.float32).astype(np.float64)
        chosen, weights = reference.route(logits[None], choices)
        expected = np.zeros(experts)
        expected[chosen[0]] = weights[0]
        np.testing.assert_allclose(expert_weights(logits, choices), expected, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize(("experts", "choices"), SIZES)
def test_the_first_and_the_last_expert_can_be_chosen(experts: int, choices: int) -> None:
    logits = np.zeros(experts)
    logits[[-1, 0]] = 3, 2
    assert chosen_experts(logits, choices)[:2] == [experts - 1, 0]
    assert np.argsort(-expert_weights(logits, choices), kind="stable")[:2].tolist() == [experts - 1, 0]


def test_negative_zero_equals_zero() -> None:
    logits = np.full(32, -1.0)
    logits[[3, 9, 20, 31]] = -0.0, 0.0, -0.0, 0.0
    assert chosen_experts(logits, 4) == [3, 9, 20, 31]


def test_infinite_logits_keep_their_place() -> None:
    logits = np.full(32, -np.inf)
    logits[[7, 30]] = np.finfo(np.float32).min, np.inf
    assert chosen_experts(logits, 4) == [30, 7, 0, 1]


def test_nan_is_weaker_than_anything_and_still_chooses_an_expert() -> None:
    logits = np.full(32, np.nan)
    assert chosen_experts(logits, 4) == [0, 1, 2, 3]
    logits[[12, 5]] = -np.inf, 1
    assert chosen_experts(logits, 4) == [5, 12, 0, 1]
    logits[:] = np.arange(32)
    logits[31] = np.nan
    assert chosen_experts(logits, 4) == [30, 29, 28, 27]
