"""The one seam: which implementation of the operations the next forward pass uses."""

from collections.abc import Iterator
from contextlib import contextmanager

from gptoss_mlx.device import this_device
from gptoss_mlx.ops.cpu import CpuOps
from gptoss_mlx.ops.interface import Ops
from gptoss_mlx.ops.reference import ReferenceOps

_override: Ops | None = None
_default: Ops | None = None


def current_ops() -> Ops:
    """The implementation that the next forward pass uses."""
    global _default
    if _override is not None:
        return _override
    if _default is None:
        _default = ReferenceOps() if this_device().gpu else CpuOps()
    return _default


@contextmanager
def use_ops(ops: Ops) -> Iterator[Ops]:
    """Makes `ops` what every thread of this process computes with, until the block ends. For tests and measurements."""
    global _override
    previous, _override = _override, ops
    try:
        yield ops
    finally:
        _override = previous
