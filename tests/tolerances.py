"""How far results may be from the truth, in one place, with the reason."""

import mlx.core as mx
import numpy as np

MEDIAN_ERROR = 1e-5
"""Relative L2 error of a position's float32 logits, in the median: a dozen layers of float32 rounding come to 2e-6."""

WORST_ERROR = 1e-4
"""The same at the worst position, where a near tie of two experts may have gone the other way in a late digit."""

TIE = 1e-5
"""Two logits nearer than this share of the position's L2 norm are a tie, which rounding may settle either way."""

OPERATION_ERROR = {mx.float32: 2e-6, mx.bfloat16: 1.5e-2, mx.float16: 2e-3}
"""Relative L2 error of one operation: sums of up to 160 products, so a few units in the last place of the dtype."""

ONE_ROUNDING = {mx.float32: 1e-6, mx.bfloat16: 3e-3, mx.float16: 4e-4}
"""Relative L2 error of float32 sums that are rounded to the dtype once, at the end: half a unit in the last place."""

AFTER_ROUNDING = {mx.float32: 1e-6, mx.bfloat16: 3e-4, mx.float16: 4e-5}
"""The same of float32 sums over numbers that were rounded to the dtype before: one or two may go the other way."""


def relative_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Relative L2 error of each row."""
    return np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)


def assert_logits_agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Every row `[positions, vocab]` within tolerance, the same arg-max, and at a tie one of the tied."""
    assert found.shape == expected.shape
    errors = relative_errors(found, expected)
    assert np.median(errors) <= MEDIAN_ERROR
    assert errors.max() <= WORST_ERROR
    best = np.sort(expected, axis=-1)
    tied = best[:, -1] - best[:, -2] <= TIE * np.linalg.norm(expected, axis=-1)
    chosen = np.take_along_axis(expected, found.argmax(axis=-1)[:, None], axis=-1)[:, 0]
    np.testing.assert_array_equal(found.argmax(axis=-1)[~tied], expected.argmax(axis=-1)[~tied])
    assert (chosen[tied] >= best[tied, -2]).all()
    assert tied.mean() < 0.02, "so many ties would leave the arg-max untested"


def assert_close(found: mx.array, expected: np.ndarray, dtype: mx.Dtype = mx.float32) -> None:
    """The whole array within the tolerance of one operation in `dtype`."""
    values = np.array(found.astype(mx.float32), dtype=np.float64)
    assert values.shape == expected.shape
    error = np.linalg.norm(values - expected) / np.linalg.norm(expected)
    assert error <= OPERATION_ERROR[dtype]


def assert_within(found: mx.array, expected: np.ndarray, error: float) -> None:
    """The whole array, in the shape of `expected`, within a relative L2 error."""
    values = np.array(found.astype(mx.float32), dtype=np.float64)
    assert values.shape == expected.shape
    assert np.linalg.norm(values - expected) <= error * np.linalg.norm(expected)
