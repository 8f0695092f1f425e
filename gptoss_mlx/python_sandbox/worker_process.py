"""What processes do on their way to being the worker: who ends with whom, descriptors, limits, program."""

import ctypes
import os
import resource
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits that the kernel keeps, of every process that runs code. None: no limit."""

    memory_bytes: int | None
    """Address space."""
    processes: int | None
    file_bytes: int | None


@dataclass(frozen=True, slots=True)
class Ends:
    """The descriptors that the worker gets as 0 to 4."""

    nothing: int
    output: int
    cells: int
    done: int


_PDEATHSIG, _SUBREAPER = 1, 36


def load_libc() -> ctypes.CDLL:
    """The C library, with errno."""
    return ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """On Linux: processes below this one whose parent ends become its children."""
    load_libc().prctl(_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """On Linux: has this process killed when the one that made it ends."""
    load_libc().prctl(_PDEATHSIG, 9, 0, 0, 0)


def become(command: list[str], environment: dict[str, str], ends: Ends, bounds: Bounds) -> NoReturn:
    """Becomes the worker, with these descriptors and no others, within these limits."""
    places = [ends.nothing, ends.output, ends.output, ends.cells, ends.done]
    # Out of the way first: one of them may stand where another has to go.
    moved = [os.dup2(place, 100 + number) for number, place in enumerate(places)]
    for number, place in enumerate(moved):
        os.dup2(place, number)
    os.closerange(len(places), 256)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_FSIZE: bounds.file_bytes,
        resource.RLIMIT_AS: bounds.memory_bytes,
        resource.RLIMIT_NPROC: bounds.processes,
    }
    for kind, most in limits.items():
        if most is not None:
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
    os.execve(command[0], command, environment)
