"""The rules: right within tolerance of float32, never less exact than the stock path by much, faster by enough."""

import numpy as np
import pytest

from gptoss_mlx.kernel_check.verdict import (
    ELEMENT_TOLERANCE,
    MUST_TAKE,
    STOCK_TOLERANCES,
    TOLERANCE,
    Outcome,
    Result,
    allowed_error,
    find_fault,
    judge_speed,
    largest_error,
)
from gptoss_mlx.ops.kernel_classes import KernelClass

KERNEL = KernelClass("norm_router", 1)
EXACT = np.random.default_rng(0).standard_normal((3, 5, 128)).astype(np.float32)


def fault_of(found: np.ndarray, stock: np.ndarray = EXACT, dtype: str = "bfloat16") -> str | None:
    return find_fault([Result(found, dtype)], [Result(stock, dtype)], [EXACT], dtype)[0]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rounding_is_no_fault_and_twice_the_tolerance_is(dtype: str):
    noise = np.random.default_rng(1).standard_normal(EXACT.shape).astype(np.float32)
    assert fault_of(EXACT + TOLERANCE[dtype] / 2 * noise, dtype=dtype) is None
    assert "is off by" in (fault_of(EXACT + 2 * TOLERANCE[dtype] * noise, dtype=dtype) or "")


def test_an_error_in_one_row_is_not_hidden_by_the_others():
    found = EXACT.copy()
    found[1, 2] *= 1.1
    assert largest_error(found, EXACT) == pytest.approx(0.1, rel=1e-3)
    assert "is off by" in (fault_of(found) or "")


def test_one_value_that_is_off_by_a_fifth_of_what_is_typical_is_found():
    exact = np.random.default_rng(0).standard_normal((1, 1, 100_000)).astype(np.float32)
    found = exact.copy()
    found[0, 0, 777] += 0.2
    assert largest_error(found, exact) < 1e-3
    fault, _ = find_fault([Result(found, "bfloat16")], [Result(exact, "bfloat16")], [exact], "bfloat16")
    assert fault == "is wrong in 1 of 100000 values"
    assert ELEMENT_TOLERANCE * TOLERANCE["bfloat16"] < 0.2


def test_a_large_value_may_be_off_in_proportion():
    exact = np.ones((1, 1000), dtype=np.float32)
    exact[0, 3] = 1e4
    found = exact.copy()
    found[0, 3] *= 1.005
    assert find_fault([Result(found, "float16")], [Result(exact, "float16")], [exact], "bfloat16")[0] is None


def test_rows_of_zeros_are_no_division_by_zero():
    exact = np.zeros((2, 64), dtype=np.float32)
    assert largest_error(exact, exact) == 0
    exact[0] = 1
    small = exact.copy()
    small[1] = 1e-7
    assert largest_error(small, exact) < 1e-3
    small[1] = 0.1
    assert largest_error(small, exact) > 1


def test_a_kernel_may_be_as_far_off_as_the_stock_path_but_only_so_far():
    tolerance = TOLERANCE["bfloat16"]
    assert allowed_error(0.0, "bfloat16") == tolerance
    assert allowed_error(2 * tolerance, "bfloat16") == pytest.approx(3 * tolerance)
    assert allowed_error(1.0, "bfloat16") == STOCK_TOLERANCES * tolerance
    assert allowed_error(float("nan"), "bfloat16") == allowed_error(float("inf"), "bfloat16") == tolerance
    # A stock path that gives nonsense excuses nothing.
    assert fault_of(EXACT * 2, stock=EXACT * 2) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_fault_even_where_the_stock_path_gives_the_same(value: float):
    found = EXACT.copy()
    found[0, 0, 0] = value
    assert fault_of(found, stock=found) == f"gives 1 values of {EXACT.size} that are not finite"
    assert largest_error(found, EXACT) == np.inf


def test_fewer_arrays_another_shape_and_another_dtype_are_faults():
    result = Result(EXACT, "float32")
    assert "gives 0 arrays" in (find_fault([], [result], [EXACT], "float32")[0] or "")
    assert "shape" in (fault_of(EXACT[:1], EXACT, "float32") or "")
    assert "float16" in (find_fault([Result(EXACT, "float16")], [result], [EXACT], "float32")[0] or "")


def test_faster_is_decided_pair_by_pair():
    # Both become three times as slow halfway through; medians of the times alone would say nothing.
    pairs = [(0.9, 1.0), (0.9, 1.0), (2.7, 3.0), (2.7, 3.0), (2.7, 3.0)]
    verdict = judge_speed(KERNEL, 1, 0.0, pairs)
    assert verdict.outcome is Outcome.KEPT
    assert verdict.ratio == pytest.approx(0.9)
    assert (verdict.kernel_seconds, verdict.stock_seconds) == (2.7, 3.0)


@pytest.mark.parametrize(
    ("ratio", "kept"), [(MUST_TAKE - 0.01, True), (MUST_TAKE + 0.01, False), (1.0, False), (2.0, False)]
)
def test_a_kernel_is_kept_when_it_gains_more_than_the_scatter(ratio: float, kept: bool):
    verdict = judge_speed(KERNEL, 1, 0.0, [(ratio, 1.0)] * 3)
    assert verdict.kept is kept
    assert f"{ratio:.2f}" in verdict.reason
    assert not verdict.faulty


def test_a_gain_that_comes_and_goes_is_none():
    verdict = judge_speed(KERNEL, 1, 0.0, [(0.9, 1.0), (0.9, 1.0), (0.9, 1.0), (1.3, 1.0), (1.4, 1.0)])
    assert verdict.outcome is Outcome.SLOWER
    assert verdict.reason == "takes 0.90 of the stock path's time, and between 0.90 and 1.40"
    # One pair that something else disturbed decides nothing.
    assert judge_speed(KERNEL, 1, 0.0, [(0.9, 1.0)] * 8 + [(5.0, 1.0)]).kept
