"""One token through a projection and onto the residual stream, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import linear_residual
from gptoss_mlx.operands import Linear, Projection, QuantizedLinear
from gptoss_mlx.ops.reference import ReferenceOps
from tests.metal.arrays import random_array, to_float64
from tests.metal.projections import (
    FORMATS,
    NARROW,
    WIDE,
    assert_weights_are_loaded_once,
    exact_product,
    random_projection,
)
from tests.simulator import simulated
from tests.tolerances import ONE_ROUNDING, OPERATION_ERROR, assert_within


def operands(
    width: int, rows: int, stored: tuple[int, int] = (16, 0), dtype: mx.Dtype = mx.bfloat16, *, biased: bool = True
) -> tuple[mx.array, Projection, mx.array]:
    rng = np.random.default_rng(11)
    return (
        random_array(rng, 1, 1, width, dtype=dtype),
        random_projection(rng, rows, width, stored, dtype, biased=biased),
        random_array(rng, 1, 1, rows, dtype=dtype, scale=2.0),
    )


def expected(x: mx.array, linear: Projection, residual: mx.array) -> np.ndarray:
    return to_float64(residual) + exact_product(to_float64(x).reshape(-1), linear)


def assert_right(call: tuple[mx.array, Projection, mx.array], seed: int = 0) -> None:
    with simulated(seed=seed):
        out = linear_residual.launch(*call)
    assert out.dtype == call[2].dtype
    assert_within(out, expected(*call), ONE_ROUNDING[out.dtype])


@pytest.mark.parametrize("stored", (FORMATS | NARROW | WIDE).values(), ids=FORMATS | NARROW | WIDE)
def test_at_the_models_widths_it_agrees_with_float64_and_reads_every_weight_once(stored):
    call = operands(4096, 2880, stored)
    with simulated(seed=3, counting=True) as simulator:
        out = linear_residual.launch(*call)
    assert_within(out, expected(*call), ONE_ROUNDING[mx.bfloat16])
    launch = simulator.launches[-1]
    assert_weights_are_loaded_once(launch, call[1], most_lines=1.25)
    assert launch.threadgroup_bytes <= 8 * 1024


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("stored", [(16, 0), (8, 32)], ids=["dense", "8 bits"])
def test_the_pocket_models_widths_are_served_in_every_dtype(dtype, stored):
    assert_right(operands(256, 192, stored, dtype), seed=1)


@pytest.mark.parametrize("rows", [8, 17, 31, 129])
def test_rows_that_fill_no_threadgroup_are_served(rows):
    assert_right(operands(96, rows), seed=2)


@pytest.mark.parametrize(("width", "stored"), [(32, (16, 0)), (32, (4, 32)), (1056, (8, 32)), (1152, (6, 128))])
def test_widths_that_fill_no_round_of_lanes_are_served(width, stored):
    assert_right(operands(width, 33, stored), seed=2)


@pytest.mark.parametrize("stored", [(16, 0), (4, 64)])
def test_a_projection_without_bias_is_served(stored):
    assert_right(operands(256, 192, stored, biased=False))


def test_codes_are_read_as_mlx_writes_them():
    rng = np.random.default_rng(5)
    weight = random_array(rng, 17, 128, dtype=mx.float32)
    x, residual = random_array(rng, 1, 1, 128, dtype=mx.float32), mx.zeros((1, 1, 17))
    for bits in (8, 6, 4):
        codes, scales, offsets = mx.quantize(weight, 32, bits)
        with simulated():
            out = linear_residual.launch(x, QuantizedLinear(codes, scales, offsets, bits, 32), residual)
        dequantized = to_float64(mx.dequantize(codes, scales, offsets, 32, bits))
        assert_within(out, (dequantized @ to_float64(x).reshape(-1))[None, None], ONE_ROUNDING[mx.float32])


def test_a_sum_that_no_half_holds_goes_through_float():
    x, residual = mx.full((1, 1, 256), 300.0, dtype=mx.float16), mx.full((1, 1, 16), -64000.0, dtype=mx.float16)
    linear = Linear(mx.full((16, 256), 1.0, dtype=mx.float16))
    with simulated():
        out = linear_residual.launch(x, linear, residual)
    assert mx.array_equal(out, mx.full((1, 1, 16), 300.0 * 256 - 64000, dtype=mx.float16))


@pytest.mark.parametrize("stored", [(16, 0), (8, 32)])
def test_any_order_of_lanes_gives_the_same_bits(stored):
    call = operands(256, 192, stored)
    results = []
    for seed in (0, 1, 2):
        with simulated(seed=seed):
            results.append(linear_residual.launch(*call))
    assert all(mx.array_equal(result, results[0]) for result in results[1:])


def test_it_gives_what_the_reference_gives():
    call = operands(256, 192, dtype=mx.float32)
    with simulated():
        out = linear_residual.launch(*call)
    assert_within(out, to_float64(ReferenceOps().linear_residual(*call)), OPERATION_ERROR[mx.float32])


def test_what_it_does_not_serve_it_refuses():
    x, linear, residual = operands(256, 192)
    assert linear_residual.fits(x, linear, residual)
    assert not linear_residual.fits(x, linear, residual.astype(mx.float32))
    assert not linear_residual.fits(mx.zeros((1, 2, 256), mx.bfloat16), linear, mx.zeros((1, 2, 192), mx.bfloat16))
    too_wide = operands(16384, 8, dtype=mx.float32)
    assert not linear_residual.fits(*too_wide)


def test_tokens_and_residuals_of_another_size_are_refused_at_the_launch_too():
    x, linear, residual = operands(256, 192)
    for token, added in ((mx.zeros((1, 1, 224), mx.bfloat16), residual), (x, mx.zeros((1, 1, 160), mx.bfloat16))):
        with pytest.raises(ValueError, match="does not take"):
            linear_residual.launch(token, linear, added)
