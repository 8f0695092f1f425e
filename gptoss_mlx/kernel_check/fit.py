"""Whether a kernel serves a model at all: some widths and dtypes are left to MLX by the launchers themselves."""

from typing import Any

from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.kernel_check.trials import Trial
from gptoss_mlx.ops.kernels import KernelOps


class _AskedOps(KernelOps):
    """The reference, which notes whether a kernel would have run in its place."""

    would_run = False

    def runs_kernel(self, operation: str, *arguments: Any) -> bool:
        self.would_run |= super().runs_kernel(operation, *arguments)
        return False


def kernel_serves(trial: Trial, layer: DecoderLayer) -> bool:
    """Whether the kernel of `trial` would run for the case that is timed. Computes nothing."""
    ops = _AskedOps(frozenset({trial.kernel}))
    trial.timed.call(ops, layer, trial.timed.inputs)
    return ops.would_run
