"""Which kernels a model runs with on this machine: what was kept of the last check, or what a check finds now.

Owns: when a check is made, what `GPTOSS_KERNELS` changes, and what is said of kernels that are left out (through the
logger `gptoss_mlx.kernels`). Does not own: the check (`run`), the file (`store`), how an operation finds its kernel
(`ops`).
"""

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import mlx.core as mx

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.kernel_check.combination import Combination, combination_of, make_combination
from gptoss_mlx.kernel_check.fit import kernel_serves
from gptoss_mlx.kernel_check.run import CHECK_SECONDS, KernelCheck, MakeOps
from gptoss_mlx.kernel_check.store import read_verdicts, write_verdicts
from gptoss_mlx.kernel_check.timing import THIS_MACHINE, Machine
from gptoss_mlx.kernel_check.trials import Trial
from gptoss_mlx.kernel_check.verdict import Outcome, Verdict
from gptoss_mlx.model import Model
from gptoss_mlx.model_parts import Progress
from gptoss_mlx.ops import Ops, ReferenceOps
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass
from gptoss_mlx.ops.kernels import KernelOps
from gptoss_mlx.ops.selection import choose_kernels
from gptoss_mlx.settings import KernelSetting, kernel_setting
from gptoss_mlx.weights import load_model

LOG: Final = logging.getLogger("gptoss_mlx.kernels")
"""Says which kernels are left out, and why."""

CheckProgress = Callable[[int, int], None]
"""Called with the kernels that were tried so far and those in all; what it raises ends the check."""

_chosen: "weakref.WeakKeyDictionary[Model, frozenset[KernelClass]]" = weakref.WeakKeyDictionary()
"""What was chosen for each model of this process that is still there."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What kernels are tried on: this machine, or what a test puts in its place."""

    device: Device
    """The machine; without Metal there are no kernels."""
    make_ops: MakeOps = KernelOps
    stock: Ops = field(default_factory=ReferenceOps)
    serves: Callable[[Trial, DecoderLayer], bool] = kernel_serves
    machine: Machine = THIS_MACHINE


def this_bench() -> Bench:
    """The machine that this process runs on."""
    return Bench(this_device())


def load_ready_model(
    folder: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    progress: Progress | None = None,
    checking: CheckProgress | None = None,
) -> Model:
    """The model in `folder` as `load_model` gives it, and the kernels for it chosen.

    The first time on a new combination of chip, system, MLX, kernels and shape of model, that takes up to ten seconds
    more. Raises what `load_model` raises, and `UsageError` for a value of `GPTOSS_KERNELS` that means nothing.
    """
    setting = kernel_setting()
    model = load_model(folder, dtype=dtype, progress=progress)
    choose_for(model, setting, this_bench(), checking)
    return model


def choose_for(model: Model, setting: KernelSetting, bench: Bench, checking: CheckProgress | None = None) -> None:
    """Chooses the kernels that forward passes of this process use from now on, `model`'s among them.

    One choice serves the process: where several models are loaded it is what is right and faster for each of them.
    Does nothing on a machine without Metal.
    """
    if not bench.device.metal:
        return
    if setting is KernelSetting.AUTO:
        chosen = frozenset(verdict.kernel for verdict in _known_or_checked(model, bench, checking) if verdict.kept)
    else:
        chosen = frozenset(KERNEL_CLASSES if setting is KernelSetting.ON else ())
    _chosen[model] = chosen
    choose_kernels(frozenset.intersection(*_chosen.values()))


def known_verdicts(checkpoint: Checkpoint, device: Device) -> tuple[Verdict, ...]:
    """What is known of the kernels for the model in a folder, whose weights are not read; empty without Metal."""
    return read_verdicts(combination_of(checkpoint, device)).verdicts if device.metal else ()


def check_kernels(
    model: Model,
    combination: Combination | None,
    bench: Bench,
    *,
    earlier: Iterable[Verdict] = (),
    again: bool = False,
    seconds: float = CHECK_SECONDS,
    checking: CheckProgress | None = None,
) -> tuple[tuple[Verdict, ...], str | None]:
    """The verdicts on all kernels, kept in the file of `combination` (None: nowhere); and why they could not be kept.

    `earlier` are verdicts of this combination: they stand, or are found `again`. A check that is interrupted keeps what
    it found until then, and leaves the earlier verdicts on all others.
    """
    before = {verdict.kernel: verdict for verdict in earlier}
    check = KernelCheck(
        model,
        bench.make_ops,
        bench.stock,
        serves=bench.serves,
        machine=bench.machine,
        seconds=seconds,
        known=() if again else before.values(),
    )
    total = len(KERNEL_CLASSES) + 1
    unkept: str | None = None

    def keep(verdicts: Iterable[Verdict], trying: KernelClass | None = None) -> None:
        nonlocal unkept
        if combination is None or unkept is not None:
            return
        try:
            write_verdicts(combination, verdicts, trying)
        except OSError as error:
            # What is there names a kernel that is done by now: a later load would think that it ended the process.
            with contextlib.suppress(OSError):
                combination.file.unlink(missing_ok=True)
            unkept = f"what was found cannot be kept ({error}): the next load checks again"

    def with_earlier() -> Iterable[Verdict]:
        return {**before, **{verdict.kernel: verdict for verdict in check.verdicts}}.values()

    def begin(trying: KernelClass) -> None:
        if checking is not None:
            checking(len(check.verdicts), total)
        keep(with_earlier(), trying)

    try:
        check.run(begin)
    except BaseException:
        keep(with_earlier())
        raise
    finally:
        # The trials' memory goes back to the system.
        mx.clear_cache()
    keep(check.verdicts)
    if checking is not None:
        checking(total, total)
    return check.verdicts, unkept


def _known_or_checked(model: Model, bench: Bench, checking: CheckProgress | None) -> tuple[Verdict, ...]:
    """The verdicts of the last check, with those that were missing found now."""
    combination = make_combination(model, bench.device)
    stored = read_verdicts(combination)
    if stored.why_not is not None:
        LOG.warning("%s", stored.why_not)
    old = {verdict.kernel for verdict in stored.verdicts} - stored.died
    if old == set(KERNEL_CLASSES):
        return stored.verdicts
    verdicts, unkept = check_kernels(model, combination, bench, earlier=stored.verdicts, checking=checking)
    late: list[str] = []
    for verdict in verdicts:
        if verdict.outcome is Outcome.UNREACHED:
            late.append(str(verdict.kernel))
        elif verdict.kernel not in old and not verdict.kept and verdict.outcome is not Outcome.UNFIT:
            LOG.warning("the kernel %s is left out: it %s", verdict.kernel, verdict.reason)
    if late:
        LOG.warning("no time was left to check %s: left out until the next load checks them", ", ".join(late))
    if unkept is not None:
        LOG.warning("%s", unkept)
    return verdicts
