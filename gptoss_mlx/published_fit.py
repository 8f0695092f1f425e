"""Whether OpenAI's models fit this machine, reckoned without asking anybody."""

import shutil
from pathlib import Path

from gptoss_mlx.config import PRESETS
from gptoss_mlx.convert.destination import SPARE_BYTES
from gptoss_mlx.convert.fit import Fit, make_fit
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.errors import UsageError
from gptoss_mlx.memory import gigabytes
from gptoss_mlx.models import PUBLISHED, PUBLISHED_GB
from gptoss_mlx.settings import models_folder
from gptoss_mlx.weight_sizes import planned_files, planned_sizes

CONTEXT = 8192
"""Tokens that memory is reckoned with."""


def published_fit(model: str, device: Device | None = None) -> Fit:
    """What `20b` or `120b` takes on `device` (default: this machine), with 8,192 tokens of context.

    Raises UsageError for another name.
    """
    if model not in PUBLISHED:
        raise UsageError(f"{model!r} is not published by OpenAI; expected one of {', '.join(PUBLISHED)}")
    device = this_device() if device is None else device
    config = PRESETS[model]
    folder = models_folder().absolute()
    there = next(path for path in (folder, *folder.parents, Path("/")) if path.is_dir())
    return make_fit(
        model,
        config,
        device,
        dense_bits=None,
        files_of=lambda bits: planned_files(config, bits),
        download_bytes=round(float(PUBLISHED_GB[model]) * 1e9),
        disk_needed_bytes=planned_sizes(config, None).weight_bytes + SPARE_BYTES,
        disk_free_bytes=shutil.disk_usage(there).free,
        context=CONTEXT,
    )


def fit_line(fit: Fit) -> str:
    """The figures of memory and disk in one line, with advice where it does not fit."""
    memory = f"fits, and up to {fit.longest_context:,} tokens do" if fit.memory_ok else "DOES NOT FIT"
    disk = "fits" if fit.disk_ok else "DOES NOT FIT"
    limit = "that Metal recommends" if fit.on_gpu else "of this machine"
    advice = "".join(f"; {sentence}" for sentence in fit.advice)
    return (
        f"{fit.name}: {gigabytes(fit.memory_needed_bytes)} of memory with {fit.context:,} tokens of context, of the "
        f"{gigabytes(fit.memory_bytes)} {limit}: {memory}; {gigabytes(fit.disk_needed_bytes)} of disk to get it, "
        f"{gigabytes(fit.disk_free_bytes)} free: {disk}{advice}"
    )
