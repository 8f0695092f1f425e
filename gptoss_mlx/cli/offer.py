"""The offer to get a model that is named and not here. Nothing is asked of the hub before somebody says yes."""

import sys

from gptoss_mlx.device import this_device
from gptoss_mlx.errors import ModelNotFound
from gptoss_mlx.memory import gigabytes
from gptoss_mlx.models import PUBLISHED, PUBLISHED_GB, FoundModel, find_model
from gptoss_mlx.published_fit import published_fit

LINE_MEGABYTES = 12.5
"""Megabytes a second of a line that the time is given for: 100 Mbit/s."""


def find_or_offer(model: str) -> FoundModel:
    """As `find_model`; asks, where somebody sits at a terminal, whether to get a published model that is missing."""
    try:
        return find_model(model)
    except ModelNotFound:
        if model not in PUBLISHED or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        if not _accepted(model):
            raise
    from gptoss_mlx.cli.pull import pull

    pull(model)
    return find_model(model)


def _accepted(model: str) -> bool:
    minutes = float(PUBLISHED_GB[model]) * 1000 / LINE_MEGABYTES / 60
    print(
        f"{model} is not here: {PUBLISHED_GB[model]} GB, {_fit(model)}, about {minutes:.0f} minutes at 100 Mbit/s; "
        "get it? [Y/n] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    answer = sys.stdin.readline()
    return answer != "" and answer.strip().lower() in ("", "y", "yes")


def _fit(model: str) -> str:
    device = this_device()
    fit = published_fit(model, device)
    machine = "this Mac" if device.metal else "this machine"
    if fit.memory_ok:
        return f"fits {machine}"
    return (
        f"DOES NOT FIT {machine} (it takes {gigabytes(fit.memory_needed_bytes)} of memory, there are "
        f"{gigabytes(fit.memory_bytes)})"
    )
