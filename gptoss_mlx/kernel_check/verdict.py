"""Whether a kernel is right and faster: the rules, without MLX.

Owns: the tolerances, what counts as faster, and the words for what was found. Does not own: running anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from gptoss_mlx.ops.kernel_classes import KernelClass

Values = npt.NDArray[np.float32]

TOLERANCE: Final[Mapping[str, float]] = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 2e-4}
"""Relative L2 error of a row (the last axis) of a result, by the dtype of activations, against float32 on the same
inputs: rounding comes to a quarter of it, to a half for three operations in a row; float32 allows for sums in another
order and for the GPU's transcendental functions."""

ELEMENT_TOLERANCE: Final = 8
"""A single value may be off by this many tolerances of the root mean square of its row, or of itself where it is
larger: the worst of a million rounding errors is five times their spread."""

STOCK_SHARE: Final = 1.5
"""A kernel may be this much further off than the stock path on the same inputs: where terms cancel, both are off."""

STOCK_TOLERANCES: Final = 4
"""But never by more than this many tolerances, however far off the stock path is."""

MUST_TAKE: Final = 0.98
"""A kernel is faster when it takes at most this share of the stock path's time, in the median of the pairs, and wins in
three pairs of four: a smaller gain is lost in the scatter."""


TOGETHER: Final = KernelClass("all_together", 1)
"""Stands for the kernels that were kept, tried together."""


class Outcome(StrEnum):
    """What became of one kernel at one class of sizes."""

    KEPT = "kept"
    """Right and faster."""
    SLOWER = "slower"
    """Right, and not faster than the stock path."""
    WRONG = "wrong"
    """Its results are not the reference's."""
    FAILED = "failed"
    """It did not compile, or raised."""
    UNFIT = "unfit"
    """It does not take this model's shapes or dtypes."""
    DIED = "died"
    """The process ended while it was tried."""
    UNREACHED = "unreached"
    """The time was up before it was tried."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one kernel at one class of sizes."""

    kernel: KernelClass
    outcome: Outcome
    reason: str
    """For people: a sentence whose subject is the kernel."""
    size: int = 0
    """At which it was timed, in the unit of its class."""
    error: float | None = None
    """The largest relative L2 error of a row."""
    kernel_seconds: float | None = None
    """Median time of one call."""
    stock_seconds: float | None = None
    """The same of the stock path."""
    ratio: float | None = None
    """Kernel's time / stock's, the median of pairs."""

    @property
    def kept(self) -> bool:
        """Whether the kernel is used."""
        return self.outcome is Outcome.KEPT

    @property
    def faulty(self) -> bool:
        """Whether the kernel is not as it should be, rather than not worth its while here."""
        return self.outcome in (Outcome.WRONG, Outcome.FAILED, Outcome.DIED)


@dataclass(frozen=True, slots=True)
class Result:
    """One array that an operation gave, on the host."""

    values: Values
    dtype: str
    """That it had in MLX, such as "bfloat16"."""


def largest_error(found: Values, exact: Values) -> float:
    """The largest relative L2 error of a row of `found`, not finite where `found` is not."""
    found, exact = _rows(found), _rows(exact)
    scale = np.maximum(_norms(exact), _floor(exact))
    with np.errstate(invalid="ignore", over="ignore"):
        errors = _norms(found.astype(np.float64) - exact) / scale
    return float(errors.max(initial=0.0)) if np.isfinite(errors).all() else float("inf")


def find_fault(
    found: Sequence[Result], stock: Sequence[Result], exact: Sequence[Values], dtype: str
) -> tuple[str | None, float]:
    """What is wrong with `found`, or None; and its largest relative error.

    `exact` is the reference in float32 on the same inputs, `stock` the reference in `dtype`, whose shapes and dtypes
    `found` must have.
    """
    if len(found) != len(stock):
        return f"gives {len(found)} arrays where {len(stock)} are expected", float("inf")
    worst = 0.0
    for mine, theirs, truth in zip(found, stock, exact, strict=True):
        if mine.values.shape != theirs.values.shape:
            return f"gives shape {mine.values.shape} where {theirs.values.shape} is expected", float("inf")
        if mine.dtype != theirs.dtype:
            return f"gives {mine.dtype} where {theirs.dtype} is expected", float("inf")
        if not np.isfinite(mine.values).all():
            bad = int((~np.isfinite(mine.values)).sum())
            return f"gives {bad} values of {mine.values.size} that are not finite", float("inf")
        error = largest_error(mine.values, truth)
        worst = max(worst, error)
        allowed = allowed_error(largest_error(theirs.values, truth), dtype)
        if error > allowed:
            return f"is off by {error:.1e} (relative), where {allowed:.1e} is allowed,", worst
        wrong = _wrong_elements(mine.values, truth, ELEMENT_TOLERANCE * allowed)
        if wrong:
            return f"is wrong in {wrong} of {mine.values.size} values", worst
    return None, worst


def allowed_error(stock_error: float, dtype: str) -> float:
    """The relative L2 error that a kernel may have where the stock path has `stock_error`."""
    tolerance = TOLERANCE[dtype]
    if not np.isfinite(stock_error):
        return tolerance
    return max(tolerance, min(STOCK_SHARE * stock_error, STOCK_TOLERANCES * tolerance))


def judge_speed(kernel: KernelClass, size: int, error: float, pairs: Sequence[tuple[float, float]]) -> Verdict:
    """The verdict on a kernel that is right, from its `pairs` of times: seconds a call, and the stock path's."""
    mine, theirs = (float(np.median(times)) for times in zip(*pairs, strict=True))
    ratios = [own / other for own, other in pairs]
    ratio = float(np.median(ratios))
    if ratio <= MUST_TAKE and np.quantile(ratios, 0.75) < 1:
        outcome, reason = Outcome.KEPT, f"is right, and takes {ratio:.2f} of the stock path's time"
    elif ratio <= MUST_TAKE:
        outcome = Outcome.SLOWER
        reason = f"takes {ratio:.2f} of the stock path's time, and between {min(ratios):.2f} and {max(ratios):.2f}"
    else:
        outcome, reason = Outcome.SLOWER, f"takes {ratio:.2f} of the stock path's time, which is not faster"
    return Verdict(kernel, outcome, reason, size, error, mine, theirs, ratio)


def _rows(values: Values) -> Values:
    return values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)


def _norms(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    norms: npt.NDArray[np.float64] = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=-1))
    return norms


def _floor(exact: Values) -> float:
    """What counts as the norm of a row of nothing: a thousandth of the typical row's."""
    return max(1e-3 * float(np.sqrt(np.square(_norms(exact)).mean())), 1e-30)


def _wrong_elements(found: Values, exact: Values, tolerance: float) -> int:
    """How many single values are off by more than `tolerance` of their row's root mean square, or of themselves."""
    found, exact = _rows(found), _rows(exact)
    typical = np.maximum(_norms(exact), _floor(exact))[:, None] / np.sqrt(exact.shape[-1])
    allowed = tolerance * np.maximum(typical, np.abs(exact))
    return int((np.abs(found.astype(np.float64) - exact) > allowed).sum())
