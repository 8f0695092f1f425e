"""What this machine offers to MLX: accelerator, memory, cores.

Owns: facts about the machine. Knows nothing of the model, and changes no setting.
"""

import os
import platform
from dataclasses import dataclass
from functools import cache

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Device:
    """The machine that MLX computes on, as `this_device()` found it."""

    name: str
    """What MLX calls the device, such as "Apple M3 Max" or the processor's name."""
    architecture: str
    """The GPU's family on Metal, such as "applegpu_g15s"; else the processor's."""
    metal: bool
    """Whether MLX has a Metal device: Apple silicon."""
    gpu: bool
    """Whether MLX has any GPU, Metal or CUDA."""
    memory_bytes: int
    """All memory that the model could live in: the machine's, which on Apple silicon is the GPU's too."""
    working_set_bytes: int | None
    """What Metal recommends to keep resident at most; None without Metal."""
    cpu_cores: int
    """Processor cores that this process may use."""


@cache
def this_device() -> Device:
    """The machine that this process runs on, looked up once."""
    info = mx.device_info()
    working_set = info.get("max_recommended_working_set_size")
    return Device(
        name=str(info.get("device_name", platform.processor() or platform.machine())),
        architecture=str(info.get("architecture", platform.machine())),
        metal=mx.metal.is_available(),
        gpu=mx.is_available(mx.gpu),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        working_set_bytes=int(working_set) if isinstance(working_set, int) else None,
        cpu_cores=_usable_cores(),
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
