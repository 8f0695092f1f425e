"""RMSNorm and router logits of one token, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import norm_router
from gptoss_mlx.operands import Norm, Projection
from tests.metal.arrays import random_array, to_float64
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


def operands(
    width: int, experts: int, stored: tuple[int, int] = (16, 0), dtype: mx.Dtype = mx.bfloat16, scale: float = 1.0
) -> tuple[mx.array, Norm, Projection]:
    rng = np.random.default_rng(13)
    return (
        random_array(rng, 1, 1, width, dtype=dtype, scale=scale),
        random_norm(rng, width, dtype),
        random_projection(rng, experts, width, stored, dtype),
    )


def assert_right(call: tuple[mx.array, Norm, Projection], seed: int = 0) -> None:
    x, norm, router = call
    with simulated(seed=seed):
        normed, logits = norm_router.launch(x, norm, router)
    assert (normed.dtype, logits.dtype) == (x.dtype, mx.float32)
    expected = exact_norm(x, norm)
    assert_within(normed, expected.reshape(x.shape), AFTER_ROUNDING[x.dtype])
    # The product with what the kernel itself normed: in it, no rounding is left to go one way or the other.
    assert_within(logits, exact_product(to_float64(normed).reshape(-1), router)[None, None], AFTER_ROUNDING[mx.float32])


@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("stored", (FORMATS | NARROW).values(), ids=FORMATS | NARROW)
def test_at_the_models_widths_it_agrees_with_float64_and_reads_every_weight_once(stored, experts):
    x, norm, router = operands(2880, experts, stored)
    with simulated(seed=3, counting=True) as simulator:
        normed, logits = norm_router.launch(x, norm, router)
    assert_within(normed, exact_norm(x, norm).reshape(x.shape), AFTER_ROUNDING[mx.bfloat16])
    expected = exact_product(to_float64(normed).reshape(-1), router)
    assert_within(logits, expected[None, None], AFTER_ROUNDING[mx.float32])
    assert_weights_are_loaded_once(simulator.launches[-1], router, most_lines=2.0)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_the_pocket_models_widths_are_served_in_every_dtype(dtype):
    assert_right(operands(192, 8, dtype=dtype), seed=1)


@pytest.mark.parametrize(
    ("width", "experts", "stored"), [(32, 9, (16, 0)), (1056, 33, (8, 32)), (4128, 8, (4, 32)), (4224, 8, (8, 64))]
)
def test_odd_widths_are_served(width, experts, stored):
    assert_right(operands(width, experts, stored), seed=2)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4])
def test_small_and_large_tokens_are_normed(scale):
    assert_right(operands(192, 8, dtype=mx.float32, scale=scale) if scale else _zeros())


def _zeros() -> tuple[mx.array, Norm, Projection]:
    x, norm, router = operands(192, 8, dtype=mx.float32)
    return mx.zeros_like(x), norm, router


def test_any_order_of_lanes_gives_the_same_bits():
    call = operands(1056, 33, (8, 32))
    results = []
    for seed in (0, 1, 2):
        with simulated(seed=seed):
            results.append(norm_router.launch(*call))
    for normed, logits in results[1:]:
        assert mx.array_equal(normed, results[0][0])
        assert mx.array_equal(logits, results[0][1])


def test_what_it_does_not_serve_it_refuses():
    x, norm, router = operands(192, 8)
    assert norm_router.fits(x, norm, router)
    few = operands(192, 4)
    assert not norm_router.fits(*few)
    assert not norm_router.fits(x, Norm(norm.weight.astype(mx.float32), norm.eps), router)
    with pytest.raises(ValueError, match="does not take"):
        norm_router.launch(mx.zeros((1, 2, 192), mx.bfloat16), norm, router)
