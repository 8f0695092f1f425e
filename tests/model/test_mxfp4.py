"""MXFP4 by the specification: every code, every scale, rounding, and MLX's own reading of the same bytes."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gptoss_mlx.mxfp4 import E2M1, GROUP, dequantize, quantize
from tests.reference import mxfp4_values

EVERY_BYTE = np.arange(256, dtype=np.uint8).reshape(16, 1, 16)
"""Blocks `[16, 1, 16]` that hold every pair of codes."""


def test_e2m1_is_the_specification_s_table() -> None:
    for code, value in enumerate(E2M1):
        sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
        magnitude = mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
        assert value == (-1) ** sign * magnitude


@pytest.mark.parametrize("scale", range(255))
def test_every_scale_and_code_is_read_exactly(scale: int) -> None:
    scales = np.full((16, 1), scale, dtype=np.uint8)
    with np.errstate(over="ignore"):
        expected = mxfp4_values(EVERY_BYTE, scales).astype(np.float32)
    np.testing.assert_array_equal(dequantize(EVERY_BYTE, scales), expected)


def test_scale_byte_255_is_nan_for_its_group_alone() -> None:
    blocks = np.zeros((2, 16), dtype=np.uint8)
    values = dequantize(blocks, np.array([255, 127], dtype=np.uint8))
    assert np.isnan(values[:GROUP]).all()
    assert (values[GROUP:] == 0).all()


def test_the_low_nibble_comes_first() -> None:
    blocks = np.zeros((1, 16), dtype=np.uint8)
    blocks[0, 0] = 0x72
    assert dequantize(blocks, np.array([127], dtype=np.uint8))[:3].tolist() == [1.0, 6.0, 0.0]


@pytest.mark.parametrize("scale", [0, 1, 100, 127, 150, 250])
def test_mlx_reads_the_same_values(scale: int) -> None:
    blocks = mx.array(EVERY_BYTE.reshape(16, 16)).view(mx.uint32)
    scales = np.full((16, 1), scale, dtype=np.uint8)
    values = mx.dequantize(blocks, mx.array(scales), group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
    np.testing.assert_array_equal(np.array(values), dequantize(EVERY_BYTE, scales))


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (0.25, 0.0),
        (0.75, 1.0),
        (1.25, 1.0),
        (1.75, 2.0),
        (2.5, 2.0),
        (3.5, 4.0),
        (5.0, 4.0),
        (0.26, 0.5),
        (4.99, 4.0),
        (5.01, 6.0),
    ],
)
def test_rounding_is_to_nearest_and_ties_go_to_the_even_code(value: float, rounded: float) -> None:
    group = np.zeros(GROUP, dtype=np.float32)
    # 6 fixes the scale at 1.
    group[:3] = 6.0, value, -value
    blocks, scales = quantize(group)
    assert scales.tolist() == [127]
    assert dequantize(blocks, scales)[:3].tolist() == [6.0, rounded, -rounded]


def test_a_clipped_largest_value_takes_the_wider_scale_when_that_is_nearer() -> None:
    group = np.zeros(GROUP, dtype=np.float32)
    group[0] = 7.9
    assert dequantize(*quantize(group))[0] == 8.0
    group[0] = 6.4
    assert dequantize(*quantize(group))[0] == 6.0


@given(
    arrays.arrays(np.uint8, (3, 2, 16)),
    arrays.arrays(np.uint8, (3, 2), elements=st.integers(0, 252)),
)
@settings(max_examples=100, deadline=None)
def test_what_mxfp4_can_hold_comes_back_exactly(blocks: np.ndarray, scales: np.ndarray) -> None:
    values = dequantize(blocks, scales)
    np.testing.assert_array_equal(dequantize(*quantize(values)), values)


@given(arrays.arrays(np.float32, (2, 64), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(max_examples=100, deadline=None)
def test_the_error_is_at_most_a_quarter_of_the_group_s_largest_value(values: np.ndarray) -> None:
    found = dequantize(*quantize(values)).astype(np.float64)
    largest = np.abs(values.reshape(2, 2, GROUP)).max(axis=-1, keepdims=True)
    error = np.abs(found - values).reshape(2, 2, GROUP)
    # The widest step is a third of the largest value that the scale reaches, and clipping costs at most a quarter.
    assert (error <= largest / 4 + 2.0**-127).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(np.full(GROUP, bad, dtype=np.float32))


def test_shapes_that_are_not_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        quantize(np.zeros((2, 33), dtype=np.float32))
    with pytest.raises(ValueError, match="expected"):
        dequantize(np.zeros((2, 3, 16), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8))
