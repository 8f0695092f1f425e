"""`gptoss check`: which kernels are right and faster on this machine's GPU."""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from typing import Any

import mlx.core as mx

from gptoss_mlx.bench.machine import describe_machine, describe_versions
from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.cli.terminal import ProgressBar
from gptoss_mlx.config import PRESETS
from gptoss_mlx.device import this_device
from gptoss_mlx.errors import UsageError
from gptoss_mlx.kernel_check.choice import Bench, check_kernels, this_bench
from gptoss_mlx.kernel_check.combination import make_combination
from gptoss_mlx.kernel_check.run import CHECK_SECONDS
from gptoss_mlx.kernel_check.shapes import random_model
from gptoss_mlx.kernel_check.store import read_verdicts, verdict_facts
from gptoss_mlx.kernel_check.verdict import Verdict
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET, PUBLISHED, FoundModel, find_model
from gptoss_mlx.published_fit import fit_line, published_fit
from gptoss_mlx.settings import KernelSetting, kernel_setting
from gptoss_mlx.weights import load_model, needs_of

FORMAT = 1
"""Raised when a field of the JSON line changes its meaning."""

NO_KERNELS = "there are no kernels to check here: MLX has no Metal device on this machine, so that {what} runs instead"


def run(arguments: argparse.Namespace) -> int:
    """Checks; prints the table, then one JSON line; gives the exit code: 0, or 1 when a kernel is faulty."""
    return run_on(arguments, this_bench())


def run_on(arguments: argparse.Namespace, bench: Bench) -> int:
    """As `run`, on a bench of the caller's."""
    setting = kernel_setting()
    seconds = CHECK_SECONDS if arguments.seconds is None else arguments.seconds
    _check_options(arguments, seconds)
    found = None if arguments.shape else find_model(arguments.model or POCKET)
    folder = None if found is None else found.folder
    if not bench.device.metal:
        print(NO_KERNELS.format(what=_instead()))
        _print_fits(bench, found if arguments.model else None)
        print()
        print(json.dumps(_report(arguments, bench, None, (), None)))
        return 0
    if folder is None:
        model = random_model(PRESETS[arguments.shape], mx.bfloat16, dense_bits=arguments.dense_bits)
    else:
        with ProgressBar("Loading weights", unit_bytes=True) as bar:
            model = load_model(folder, progress=bar.update)
    combination = make_combination(model, bench.device)
    # What stands for a shape is not the model itself: its verdicts are shown and not kept.
    kept_in = combination if folder is not None and arguments.save else None
    with ProgressBar("Checking kernels") as bar:
        verdicts, unkept = check_kernels(
            model,
            kept_in,
            bench,
            earlier=() if kept_in is None else read_verdicts(combination).verdicts,
            again=True,
            seconds=seconds,
            checking=bar.update,
        )
    for line in _table(verdicts):
        print(line)
    kept = sum(verdict.kept for verdict in verdicts)
    print()
    print(f"{kept} of {len(verdicts)} are used on {bench.device.name}; MLX's own operations stand in for the others")
    if setting is not KernelSetting.AUTO:
        print(f"not now, though: GPTOSS_KERNELS is {setting.value}")
    if unkept is not None:
        print(f"warning: {unkept}", file=sys.stderr, flush=True)
    _print_fits(bench, found if arguments.model else None)
    file = str(combination.file) if kept_in is not None and unkept is None else None
    print()
    print(json.dumps(_report(arguments, bench, model, verdicts, file)), flush=True)
    return 1 if any(verdict.faulty for verdict in verdicts) else 0


def _print_fits(bench: Bench, found: FoundModel | None) -> None:
    """How much room the model has here, if one was named, and whether OpenAI's two have."""
    if found is not None:
        needs = needs_of(open_checkpoint(found.folder), bench.device)
        fitting = needs.longest_context(bench.device)
        estimate = needs.estimate(bench.device, fitting or needs.config.max_position_embeddings)
        print(f"{estimate.sentence(found.name)}: {'fits' if estimate.fits else 'DOES NOT FIT'}")
    for model in PUBLISHED:
        print(fit_line(published_fit(model, bench.device)))


def _check_options(arguments: argparse.Namespace, seconds: float) -> None:
    if arguments.shape is not None and arguments.model is not None:
        raise UsageError(f"{arguments.model} and --shape were both given; expected a model or a shape, not both")
    if arguments.dense_bits is not None and arguments.shape is None:
        raise UsageError("--dense-bits says how the weights of a --shape are stored; a model's are as they are")
    # Not a number is neither.
    if not seconds > 0:
        raise UsageError(f"--seconds is {seconds:g}; expected a number above 0")


def _instead() -> str:
    if this_device().gpu:
        return "MLX's own GPU back-end"
    return "MLX's processor back-end, with numpy for the large products,"


def _table(verdicts: tuple[Verdict, ...]) -> list[str]:
    width = max(len(str(verdict.kernel)) for verdict in verdicts) + 2
    lines = [f"{'kernel':<{width}}{'at':>6}{'error':>10}{'kernel':>11}{'stock':>11}{'ratio':>8}  verdict"]
    for verdict in verdicts:
        cells = (
            f"{verdict.size or '':>6}{_number(verdict.error, '.1e'):>10}{_time(verdict.kernel_seconds):>11}"
            f"{_time(verdict.stock_seconds):>11}{_number(verdict.ratio, '.2f'):>8}"
        )
        words = "kept" if verdict.kept else f"left out: it {verdict.reason}"
        lines.append(f"{verdict.kernel!s:<{width}}{cells}  {words}")
    return lines


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:,.0f} us"


def _report(
    arguments: argparse.Namespace, bench: Bench, model: Model | None, verdicts: tuple[Verdict, ...], file: str | None
) -> dict[str, Any]:
    """Everything about the check, as one JSON object."""
    combination = None if model is None else asdict(make_combination(model, bench.device))
    kernels = [{"kernel": str(verdict.kernel), **verdict_facts(verdict)} for verdict in verdicts]
    return {
        "format": FORMAT,
        "command": shlex.join(["gptoss", *arguments.words]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "metal": bench.device.metal,
        "working_set_bytes": bench.device.working_set_bytes,
        "combination": combination,
        "kernels": kernels,
        "kept": sum(verdict.kept for verdict in verdicts),
        "faulty": sum(verdict.faulty for verdict in verdicts),
        "file": file,
    }
