"""The check itself, over our own kernels, run by the simulator: every case of every class, and all kernels together."""

import mlx.core as mx
import pytest

from gptoss_mlx.kernel_check.run import KernelCheck
from gptoss_mlx.kernel_check.timing import Machine
from gptoss_mlx.kernel_check.trials import make_joint_cases
from gptoss_mlx.kernel_check.verdict import Outcome, find_fault
from gptoss_mlx.ops import ReferenceOps
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES
from gptoss_mlx.ops.kernels import KernelOps
from tests.kernel_check.device import small_model
from tests.simulator import simulated


class Ticking:
    """A clock on which every evaluation takes a second, so that a sample is one call."""

    now = 0.0

    def evaluate(self, arrays: object) -> None:
        self.now += 1.0

    @property
    def machine(self) -> Machine:
        return Machine(self.evaluate, lambda: self.now)


def make_check(dtype: mx.Dtype) -> KernelCheck:
    # All shares are spent before they begin, so that each kernel is timed as rarely as can be.
    return KernelCheck(small_model(dtype), KernelOps, ReferenceOps(), machine=Ticking().machine, seconds=1e4)


@pytest.mark.slow
def test_every_kernel_passes_its_trial():
    with simulated(checks=False):
        verdicts = make_check(mx.bfloat16).run(lambda kernel: None)
    # In a simulator nothing is faster; that it comes to be timed says that it is right.
    assert {str(verdict.kernel): verdict.outcome for verdict in verdicts} == {
        str(kernel): Outcome.SLOWER for kernel in KERNEL_CLASSES
    }
    assert all(verdict.ratio == 1.0 for verdict in verdicts)


def test_all_kernels_together_pass_the_joint_cases():
    check = make_check(mx.bfloat16)
    ops, layer = KernelOps(frozenset(KERNEL_CLASSES)), check._layer
    with simulated(checks=False):
        for case in make_joint_cases(check._model):
            stock, exact = check._stock_and_exact(case)
            found = check._results(case.call(ops, layer, case.inputs))
            assert find_fault(found, stock, exact, "bfloat16")[0] is None
