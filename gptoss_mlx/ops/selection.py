"""The one seam: which implementation of the operations the next forward pass uses."""

from collections.abc import Iterator
from contextlib import contextmanager

from gptoss_mlx.device import this_device
from gptoss_mlx.ops.cpu import CpuOps
from gptoss_mlx.ops.interface import Ops
from gptoss_mlx.ops.kernel_classes import KernelClass
from gptoss_mlx.ops.kernels import KernelOps
from gptoss_mlx.ops.reference import ReferenceOps

_override: Ops | None = None
_default: Ops | None = None
_chosen: frozenset[KernelClass] = frozenset()


def current_ops() -> Ops:
    """The implementation that the next forward pass uses."""
    global _default
    if _override is not None:
        return _override
    if _default is None:
        _default = _make_default()
    return _default


def choose_kernels(enabled: frozenset[KernelClass]) -> None:
    """Makes the kernels of these classes run from the next forward pass on, where there is Metal; no other does.

    Until this is called none runs: a kernel is used where it was found right and faster.
    """
    global _chosen, _default
    _chosen, _default = enabled, None


def chosen_kernels() -> frozenset[KernelClass]:
    """The classes that `choose_kernels` was given last."""
    return _chosen


@contextmanager
def use_ops(ops: Ops) -> Iterator[Ops]:
    """Makes `ops` what every thread of this process computes with, until the block ends. For tests and measurements."""
    global _override
    previous, _override = _override, ops
    try:
        yield ops
    finally:
        _override = previous


def _make_default() -> Ops:
    if this_device().metal and _chosen:
        return KernelOps(_chosen)
    return ReferenceOps() if this_device().gpu else CpuOps()
