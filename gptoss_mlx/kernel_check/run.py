"""The trials of all kernels, one after the other, within a time budget.

Owns: their order, the budget, and what happens when one raises. Does not own: what is tried (`trials`), the rules
(`verdict`), the file (`store`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import mlx.core as mx
import numpy as np

from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.kernel_check.combination import dtype_name
from gptoss_mlx.kernel_check.fit import kernel_serves
from gptoss_mlx.kernel_check.timing import THIS_MACHINE, Machine, time_pairs
from gptoss_mlx.kernel_check.trials import Arrays, Case, Trial, make_joint_cases, make_trial
from gptoss_mlx.kernel_check.verdict import TOGETHER, Outcome, Result, Values, Verdict, find_fault, judge_speed
from gptoss_mlx.model import Model
from gptoss_mlx.ops import Ops
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass

CHECK_SECONDS: Final = 9.0
"""After this long nothing more is begun: with the last evaluation, a check takes ten seconds at most."""

PATIENCE_SECONDS: Final = 3.0
"""A trial that took this long and was not done when the time was up has its verdict, and is not tried at every load."""

Expected = tuple[list[Result], list[Values]]
"""The stock path's results, and the reference's in float32."""

MakeOps = Callable[[frozenset[KernelClass]], Ops]
"""The operations with these kernels, and the stock path for all others."""


class KernelCheck:
    """The check of a model's kernels: `run` it, and read `verdicts`, also after it was interrupted."""

    def __init__(
        self,
        model: Model,
        make_ops: MakeOps,
        stock: Ops,
        *,
        serves: Callable[[Trial, DecoderLayer], bool] = kernel_serves,
        machine: Machine = THIS_MACHINE,
        seconds: float = CHECK_SECONDS,
        known: Iterable[Verdict] = (),
    ) -> None:
        """`serves` says whether a kernel takes the model's shapes at all; `known` are verdicts of an earlier check,
        whose kernels are not tried again.
        """
        self._model = model
        self._make_ops = make_ops
        self._stock = stock
        self._serves = serves
        self._machine = machine
        self._seconds = seconds
        self._verdicts = {verdict.kernel: verdict for verdict in known if verdict.outcome is not Outcome.UNREACHED}

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each kernel that was tried, in the order of `KERNEL_CLASSES`; all of them after `run`."""
        return tuple(self._verdicts[kernel] for kernel in KERNEL_CLASSES if kernel in self._verdicts)

    def run(self, begin: Callable[[KernelClass], None]) -> tuple[Verdict, ...]:
        """Tries every kernel that there is no verdict on yet, and gives all verdicts.

        `begin` is called with each kernel before it is tried, and with `TOGETHER` before those that were kept are
        tried together; what it raises ends the check.
        """
        start = self._machine.clock()
        time_ends = start + self._seconds
        waiting = [kernel for kernel in KERNEL_CLASSES if kernel not in self._verdicts]
        for done, kernel in enumerate(waiting):
            now = self._machine.clock()
            if now > time_ends:
                self._verdicts[kernel] = _unreached(kernel)
                continue
            begin(kernel)
            share_ends = now + (time_ends - now) / (len(waiting) - done)
            verdict = self._try(kernel, share_ends, time_ends)
            seconds = self._machine.clock() - now
            if verdict.outcome is Outcome.UNREACHED and seconds > PATIENCE_SECONDS:
                reason = f"was not done with its trial after {seconds:.1f} s"
                verdict = replace(verdict, outcome=Outcome.SLOWER, reason=reason)
            self._verdicts[kernel] = verdict
        if waiting:
            begin(TOGETHER)
            self._try_together()
        return self.verdicts

    def _try(self, kernel: KernelClass, share_ends: float, time_ends: float) -> Verdict:
        """The verdict on one kernel. Whatever it raises is a reason to leave it out, and no more."""
        ops = self._make_ops(frozenset({kernel}))
        try:
            trial = make_trial(self._model, kernel)
            if not self._serves(trial, self._layer):
                return Verdict(kernel, Outcome.UNFIT, "does not serve a model of this shape")
            expected = self._expected(trial.cases, time_ends)
        except Exception as error:
            return Verdict(kernel, Outcome.FAILED, f"cannot be checked: the stock path raises {_words(error)}")
        if expected is None:
            return _unreached(kernel)
        try:
            return self._try_against(trial, ops, expected, share_ends, time_ends)
        except Exception as error:
            return Verdict(kernel, Outcome.FAILED, f"raises {_words(error)}")

    def _try_against(
        self,
        trial: Trial,
        ops: Ops,
        expected: Sequence[Expected],
        share_ends: float,
        time_ends: float,
    ) -> Verdict:
        kernel, size = trial.kernel, trial.timed.size
        worst, found = 0.0, list[Result]()
        for case, (stock, exact) in zip(trial.cases, expected, strict=True):
            if self._machine.clock() > time_ends:
                return _unreached(kernel)
            found = self._results(case.call(ops, self._layer, case.inputs))
            fault, error = self._fault(found, stock, exact)
            worst = max(worst, error)
            if fault is not None:
                return Verdict(kernel, Outcome.WRONG, f"{fault} at size {case.size}", size, worst)
        pairs = time_pairs(
            trial.timed,
            ops,
            self._stock,
            self._model.layers,
            self._machine,
            share_ends=share_ends,
            time_ends=time_ends,
        )
        if not pairs:
            return replace(_unreached(kernel), error=worst)
        # Once more, now that it ran a hundred times: a race shows like this, if anything shows it.
        again = self._results(trial.timed.call(ops, self._layer, trial.timed.inputs))
        if not all(np.array_equal(one.values, other.values) for one, other in zip(found, again, strict=True)):
            return Verdict(
                kernel, Outcome.WRONG, f"gives other results for the same inputs at size {size}", size, worst
            )
        return judge_speed(kernel, size, worst, pairs)

    def _try_together(self) -> None:
        """Leaves out all kernels where those that were kept are right one by one and wrong together."""
        kept = frozenset(verdict.kernel for verdict in self.verdicts if verdict.kept)
        if not kept:
            return
        ops = self._make_ops(kept)
        try:
            for case in make_joint_cases(self._model):
                stock, exact = self._stock_and_exact(case)
                fault, _ = self._fault(self._results(case.call(ops, self._layer, case.inputs)), stock, exact)
                if fault is not None:
                    break
            else:
                return
        except Exception as error:
            fault = f"raises {_words(error)}"
        for kernel in kept:
            reason = f"is right by itself, but all kernels together: {fault}"
            self._verdicts[kernel] = replace(self._verdicts[kernel], outcome=Outcome.WRONG, reason=reason)

    def _expected(self, cases: Sequence[Case], time_ends: float) -> list[Expected] | None:
        """What is expected in each case; None when the time is up."""
        expected = []
        for case in cases:
            if self._machine.clock() > time_ends:
                return None
            expected.append(self._stock_and_exact(case))
        return expected

    def _stock_and_exact(self, case: Case) -> Expected:
        stock = self._results(case.call(self._stock, self._layer, case.inputs))
        exact = self._results(case.in_float32(self._stock, self._layer))
        return stock, [result.values for result in exact]

    def _fault(
        self, found: Sequence[Result], stock: Sequence[Result], exact: Sequence[Values]
    ) -> tuple[str | None, float]:
        return find_fault(found, stock, exact, dtype_name(self._model.dtype))

    def _results(self, arrays: Arrays) -> list[Result]:
        self._machine.evaluate(arrays)
        return [Result(np.array(array.astype(mx.float32)), dtype_name(array.dtype)) for array in arrays]

    @property
    def _layer(self) -> DecoderLayer:
        return self._model.layers[0]


def _unreached(kernel: KernelClass) -> Verdict:
    return Verdict(kernel, Outcome.UNREACHED, "was not tried: the time for the check was up")


def _words(error: Exception) -> str:
    """An exception in a few words: a compiler's message can be pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {telling[:200]}" if telling else type(error).__name__
