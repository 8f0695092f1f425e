"""RMSNorm and logits of one token, and the token with the largest, against float64."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import merge_argmax, norm_lm_head
from gptoss_mlx.operands import Linear, Norm, Projection, QuantizedLinear
from tests.metal.arrays import random_array
from tests.metal.projections import (
    FORMATS,
    NARROW,
    assert_weights_are_loaded_once,
    exact_norm,
    exact_product,
    random_norm,
    random_projection,
)
from tests.simulator import simulated
from tests.tolerances import AFTER_ROUNDING, assert_within

POCKET = (192, 3021)
"""Width and vocabulary of the pocket model."""


def operands(
    width: int, vocab: int, stored: tuple[int, int] = (16, 0), dtype: mx.Dtype = mx.bfloat16
) -> tuple[mx.array, Norm, Projection]:
    rng = np.random.default_rng(17)
    return (
        random_array(rng, 1, 1, width, dtype=dtype),
        random_norm(rng, width, dtype),
        random_projection(rng, vocab, width, stored, dtype, biased=False),
    )


def expected(x: mx.array, norm: Norm, lm_head: Projection) -> np.ndarray:
    return exact_product(exact_norm(x, norm), lm_head)[None, None]


def with_rows(ids: Mapping[float, Sequence[int]]) -> tuple[mx.array, Norm, Projection]:
    """A vocabulary of 601 and a token of ones; the rows of these ids are all this number, the others small."""
    weight = np.random.default_rng(19).uniform(-0.1, 0.1, (601, 64)).astype(np.float32)
    for number, rows in ids.items():
        weight[list(rows)] = number
    norm = Norm(mx.ones(64, dtype=mx.bfloat16), 0.0)
    return mx.ones((1, 1, 64), dtype=mx.bfloat16), norm, Linear(mx.array(weight).astype(mx.bfloat16))


def token_of(array: mx.array) -> int:
    """The one token of `array`, or where it is largest."""
    return cast(int, (array if array.size == 1 else mx.argmax(array)).item())


def argmax(call: tuple[mx.array, Norm, Projection], seed: int = 0) -> int:
    with simulated(seed=seed):
        token = norm_lm_head.launch_argmax(*call)
    assert (token.shape, token.dtype) == ((1, 1), mx.uint32)
    return token_of(token)


@pytest.mark.parametrize("stored", (FORMATS | NARROW).values(), ids=FORMATS | NARROW)
def test_at_the_models_width_it_agrees_with_float64_and_reads_every_weight_once(stored):
    call = operands(2880, 600, stored)
    with simulated(seed=3, counting=True) as simulator:
        logits = norm_lm_head.launch(*call)
    assert logits.dtype == mx.float32
    assert_within(logits, expected(*call), AFTER_ROUNDING[mx.bfloat16])
    assert_weights_are_loaded_once(simulator.launches[-1], call[2], most_lines=1.6)


@pytest.mark.slow
def test_the_whole_vocabulary_of_gpt_oss_is_served():
    vocab, shown = 201_088, 2_000
    x, norm, lm_head = operands(2880, vocab, (4, 64))
    assert isinstance(lm_head, QuantizedLinear)
    with simulated() as simulator:
        logits = norm_lm_head.launch(x, norm, lm_head)
        token = norm_lm_head.launch_argmax(x, norm, lm_head)
    assert token_of(token) == token_of(logits)
    assert simulator.launches[0].buffers["weight"].loaded_bytes == lm_head.weight.nbytes
    tail = slice(vocab - shown, vocab)
    last = QuantizedLinear(lm_head.weight[tail], lm_head.scales[tail], lm_head.biases[tail], 4, 64)
    assert_within(logits[..., tail], expected(x, norm, last), AFTER_ROUNDING[mx.bfloat16])


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_the_pocket_models_widths_are_served_in_every_dtype(dtype):
    call = operands(*POCKET, dtype=dtype)
    with simulated(seed=1):
        logits = norm_lm_head.launch(*call)
    assert_within(logits, expected(*call), AFTER_ROUNDING[dtype])


@pytest.mark.parametrize("vocab", [8, 33, 257])
def test_vocabularies_that_fill_no_threadgroup_are_served(vocab):
    call = operands(96, vocab)
    with simulated(seed=2):
        logits = norm_lm_head.launch(*call)
    assert_within(logits, expected(*call), AFTER_ROUNDING[mx.bfloat16])
    assert argmax(call, seed=2) == token_of(logits)


@pytest.mark.parametrize("stored", [(16, 0), (4, 64)])
def test_the_token_is_the_largest_of_the_logits(stored):
    call = operands(*POCKET, stored)
    with simulated():
        logits = norm_lm_head.launch(*call)
    assert argmax(call, seed=1) == token_of(logits)


@pytest.mark.parametrize(
    "tied",
    [(0, 600), (4, 5), (7, 40), (255, 256), (31, 32), (37, 69, 500, 600)],
    ids=["both ends", "one tile", "two simdgroups", "two threadgroups", "two tiles", "several"],
)
def test_of_equal_logits_the_lowest_token_wins(tied):
    call = with_rows({0.5: tied})
    assert [argmax(call, seed) for seed in (0, 1, 2)] == [min(tied)] * 3


def test_the_last_token_can_win():
    assert argmax(with_rows({0.5: [600]})) == 600


def test_logits_that_are_not_numbers_never_win():
    assert argmax(with_rows({math.nan: [0, 301, 600], 0.25: [300]})) == 300


def test_an_infinite_logit_wins():
    assert argmax(with_rows({math.nan: [10], math.inf: [400], 0.5: [500]})) == 400


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_where_no_logit_is_a_number_it_is_still_a_token(number):
    assert 0 <= argmax(with_rows({number: range(601)})) < 601


@pytest.mark.parametrize("groups", [1, 33, 786])
def test_any_number_of_groups_is_merged(groups):
    rng = np.random.default_rng(groups)
    best = rng.integers(-4, 4, groups).astype(np.float32)
    ids = (np.arange(groups) * 256 + rng.integers(0, 256, groups)).astype(np.uint32)
    with simulated(seed=4):
        token = merge_argmax.launch(mx.array(best), mx.array(ids))
    assert token_of(token) == ids[best.argmax()]


def test_groups_may_come_in_any_order():
    with simulated():
        token = merge_argmax.launch(mx.array([1.0, 2.0, 2.0, 2.0]), mx.array([9, 8, 3, 5], dtype=mx.uint32))
    assert token_of(token) == 3


def test_any_order_of_lanes_gives_the_same_bits():
    call = operands(*POCKET, (8, 64))
    results = []
    for seed in (0, 1, 2):
        with simulated(seed=seed):
            results.append(norm_lm_head.launch(*call))
    assert all(mx.array_equal(result, results[0]) for result in results[1:])


def test_what_it_does_not_serve_it_refuses():
    x, norm, lm_head = operands(96, 33)
    assert norm_lm_head.fits(x, norm, lm_head)
    two = mx.zeros((2, 1, 96), mx.bfloat16)
    assert not norm_lm_head.fits(two, norm, lm_head)
    for launch in (norm_lm_head.launch, norm_lm_head.launch_argmax):
        with pytest.raises(ValueError, match="does not take"):
            launch(two, norm, lm_head)
    with pytest.raises(ValueError, match="does not take"):
        merge_argmax.launch(mx.zeros(3), mx.zeros(3))
