"""Facts about the machine and the installed versions, without importing MLX."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptoss_mlx.command_buffers import environment_without_limits

VERSIONED = ("gptoss-mlx", "mlx", "mlx-lm")
"""The distributions whose versions belong to a measurement."""


def describe_machine() -> dict[str, Any]:
    """Processor or chip, cores, memory in bytes, operating system, and how busy the machine is before the first run."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": os_name(),
        "architecture": platform.machine(),
        "load_average": os.getloadavg()[0],
    }


def processor_name() -> str:
    """The processor's or the chip's name, such as "Apple M3 Max"."""
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, timeout=10).strip()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def os_name() -> str:
    """The operating system with its version."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release()}"


def describe_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a measurement depends on; None for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def describe_limits(environment: Mapping[str, str] | None) -> dict[str, str]:
    """What MLX is told of the size of command buffers in `environment` (None: in another engine's process)."""
    values = environment_without_limits() if environment is None else environment
    return {name: values[name] for name in ("MLX_MAX_OPS_PER_BUFFER", "MLX_MAX_MB_PER_BUFFER") if name in values}
