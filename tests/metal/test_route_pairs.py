"""Routing pairs in the simulator: against numpy's stable sort."""

import math

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import route_pairs
from gptoss_mlx.metal.route_pairs import PairTable, most_tiles
from tests import reference
from tests.metal.grouped_cases import table_of
from tests.simulator import simulated

SIZES = [(8, 2, 16), (32, 4, 8), (128, 4, 64)]
"""Experts, experts of a token, pairs of a tile: few kernels to compile, all tests share them."""


def routed(logits: np.ndarray, choices: int, tile_rows: int, seed: int = 1) -> PairTable:
    with simulated(seed=seed):
        return route_pairs.launch(mx.array(logits), choices, tile_rows)


def assert_is(table: PairTable, logits: np.ndarray, choices: int, tile_rows: int) -> None:
    chosen, weights = reference.route(logits.astype(np.float64), choices)
    expected = table_of(chosen, weights, logits.shape[1], tile_rows)
    np.testing.assert_allclose(np.array(table.weights), weights, rtol=2e-6, atol=1e-30)
    for name in ("experts", "order", "places", "tiles"):
        np.testing.assert_array_equal(np.array(getattr(table, name)), np.array(getattr(expected, name)), err_msg=name)


@pytest.mark.parametrize(("experts", "choices", "tile_rows"), SIZES)
@pytest.mark.parametrize("tokens", [2, 3, 31, 32, 33, 129])
def test_pairs_are_sorted_by_expert_and_then_by_token(experts: int, choices: int, tile_rows: int, tokens: int) -> None:
    logits = np.random.default_rng(tokens).normal(scale=3, size=(tokens, experts)).astype(np.float32)
    assert_is(routed(logits, choices, tile_rows), logits, choices, tile_rows)


@pytest.mark.parametrize(("experts", "choices", "tile_rows"), SIZES)
def test_of_equal_logits_the_lower_expert_is_chosen(experts: int, choices: int, tile_rows: int) -> None:
    levels = np.array([-1.5, -0.0, 0.0, 2.0], dtype=np.float32)
    logits = np.random.default_rng(1).choice(levels, (33, experts))
    logits[0] = 0.0
    logits[1] = -7.0
    assert_is(routed(logits, choices, tile_rows), logits, choices, tile_rows)


@pytest.mark.parametrize(("experts", "choices", "tile_rows"), SIZES)
def test_all_tokens_may_choose_the_same_experts(experts: int, choices: int, tile_rows: int) -> None:
    logits = np.random.default_rng(2).normal(size=(67, experts)).astype(np.float32)
    logits[:, experts - choices : experts] += 100
    assert_is(routed(logits, choices, tile_rows), logits, choices, tile_rows)


def test_logits_of_every_size_keep_their_order() -> None:
    logits = np.random.default_rng(3).normal(size=(31, 32)).astype(np.float32)
    logits *= np.float32(10.0) ** np.random.default_rng(4).integers(-30, 4, logits.shape).astype(np.float32)
    assert_is(routed(logits, 4, 8), logits, 4, 8)


def test_logits_that_are_not_numbers_still_lead_to_different_experts() -> None:
    logits = np.full((33, 32), np.nan, dtype=np.float32)
    logits[5:9, 3:20] = np.inf
    logits[9:12] = -np.inf
    table = routed(logits, 4, 8)
    chosen = np.array(table.experts)
    assert (np.diff(np.sort(chosen, axis=1)) > 0).all()
    assert chosen.max() < 32
    expected = table_of(chosen, np.ones(chosen.shape), 32, 8)
    for name in ("order", "places", "tiles"):
        np.testing.assert_array_equal(np.array(getattr(table, name)), np.array(getattr(expected, name)))


def test_the_order_of_lanes_changes_nothing() -> None:
    logits = np.random.default_rng(5).normal(size=(129, 32)).astype(np.float32)
    tables = [routed(logits, 4, 8, seed) for seed in (0, 1, 2)]
    for other in tables[1:]:
        for name in ("experts", "weights", "order", "places", "tiles"):
            np.testing.assert_array_equal(np.array(getattr(other, name)), np.array(getattr(tables[0], name)))


def test_a_long_prompt_of_the_large_model_is_routed() -> None:
    logits = np.random.default_rng(6).normal(size=(4096, 128)).astype(np.float32)
    assert_is(routed(logits, 4, 64), logits, 4, 64)


def test_there_are_never_more_tiles_than_room() -> None:
    rng = np.random.default_rng(7)
    for _ in range(500):
        experts, tile_rows = int(rng.integers(1, 20)), int(rng.choice([8, 16, 32, 64]))
        counts = rng.multinomial(int(rng.integers(1, 300)), rng.dirichlet(np.full(experts, 0.3)))
        needed = sum(math.ceil(count / tile_rows) for count in counts)
        assert needed <= most_tiles(int(counts.sum()), experts, tile_rows)
    assert most_tiles(8, 32, 8) == 8
    assert most_tiles(2 * 65, 2, 64) == 4


def test_logits_of_another_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match="expected float32"):
        route_pairs.launch(mx.zeros((4, 32), dtype=mx.bfloat16), 4, 8)
