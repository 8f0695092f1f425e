"""Where the worker is: a Linux sandbox, a macOS sandbox, or nothing but limits. Each can be asked what is in it, and
ended with all that is in it."""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from gptoss_mlx.python_sandbox.linux_root import SCRATCH_FOLDERS
from gptoss_mlx.python_sandbox.worker_process import Bounds, Ends, adopt_orphans, become, die_with_parent

if TYPE_CHECKING:
    from gptoss_mlx.python_sandbox.processes import Usage

INTERPRETER_FLAGS: Final = ("-I", "-S", "-B")
"""Nothing of the user's settings is read; nothing is written beside sources."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What all in a cage takes at the moment."""

    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    scratch_bytes: int = 0
    tasks: int = 0
    """Processes and threads."""


class Cage(Protocol):
    """A worker and all that it begins."""

    worker: int
    """Its process."""
    child: int
    """The process to wait for: when it ends, all has ended."""

    def measure(self) -> Taken: ...

    def leftovers(self) -> Sequence[int]:
        """Processes beside the worker."""
        ...

    def destroy(self) -> None:
        """Ends all of it, at once, and removes what it kept."""
        ...


def open_cage(settings: dict[str, Any], output: int, cells: int, done: int) -> Cage:
    """Starts a worker that prints to `output`, reads `cells` and answers on `done`.

    `settings`: `executable`, `folders`, `packages`, `worker` (path), `home`, `temporary`, `unsandboxed`, `limits`.
    Raises OSError or SandboxStep when it cannot be made.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        ends = Ends(nothing, output, cells, done)
        if settings["unsandboxed"]:
            return _Bare(settings, ends, make_folder(settings))
        if sys.platform == "darwin":
            return _Seatbelt(settings, ends)
        return _LinuxCage(settings, ends)
    finally:
        os.close(nothing)


def environment(settings: dict[str, Any], folder: str) -> dict[str, str]:
    """All variables that the worker has."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "MPLBACKEND": "Agg",
        # Each thread takes address space; two show that there are some.
        "OPENBLAS_NUM_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "PACKAGES": os.pathsep.join(settings["packages"]),
        "CPU_SECONDS": str(int(settings["limits"]["cpu_seconds"]) + 1),
    }


class _LinuxCage:
    def __init__(self, settings: dict[str, Any], ends: Ends) -> None:
        # Of no use on other systems.
        from gptoss_mlx.python_sandbox.linux import USER, start
        from gptoss_mlx.python_sandbox.linux_root import WORKER, RootPlan

        limits = settings["limits"]
        plan = RootPlan(
            settings["folders"],
            settings["home"],
            Path(settings["worker"]).read_text(encoding="utf-8"),
            limits["scratch_bytes"],
            USER,
        )
        bounds = Bounds(limits["memory_bytes"], limits["processes"], limits["file_bytes"])
        command = [settings["executable"], *INTERPRETER_FLAGS, WORKER]
        adopt_orphans()
        started = start(plan, bounds, command, environment(settings, SCRATCH_FOLDERS[0]), ends)
        self.child, self.worker = started.first, started.worker
        self._limit = limits["memory_bytes"]

    def measure(self) -> Taken:
        from gptoss_mlx.python_sandbox.processes import descendants

        inside = descendants(self.child)
        return _taken(inside, self._limit)

    def leftovers(self) -> Sequence[int]:
        from gptoss_mlx.python_sandbox.processes import descendants

        inside = descendants(self.child)
        return [number for number, usage in inside.items() if number != self.worker and not usage.ended]

    def destroy(self) -> None:
        _end(self.child)


class _Bare:
    """No sandbox: a process of the user's, with limits. `wrapper` is what the worker is begun by."""

    def __init__(self, settings: dict[str, Any], ends: Ends, folder: str, wrapper: Sequence[str] = ()) -> None:
        self.folder = folder
        limits = settings["limits"]
        on_linux = sys.platform == "linux"
        if on_linux:
            adopt_orphans()
        self._limit = limits["memory_bytes"]
        command = [*wrapper, settings["executable"], *INTERPRETER_FLAGS, settings["worker"]]
        variables = environment(settings, self.folder)
        self.worker = self.child = os.fork()
        if self.child == 0:
            try:
                if on_linux:
                    die_with_parent()
                # A group of its own in the keeper's session: stopped, it ends when the keeper does.
                os.setpgid(0, 0)
                os.chdir(self.folder)
                # Elsewhere than on Linux, address space is not what is used, and processes are counted with all others.
                bounds = Bounds(
                    limits["memory_bytes"] if on_linux else None,
                    _processes_of_user(limits["processes"]) if on_linux else None,
                    limits["file_bytes"],
                )
                become(command, variables, ends, bounds)
            finally:
                os._exit(1)

    def measure(self) -> Taken:
        scratch = _folder_bytes(self.folder)
        if sys.platform != "linux":
            return Taken(_mac_memory_bytes(self.worker), 0.0, scratch)
        from gptoss_mlx.python_sandbox.processes import descendants

        return _taken(descendants(os.getpid()), self._limit, scratch)

    def leftovers(self) -> Sequence[int]:
        if sys.platform != "linux":
            return []
        from gptoss_mlx.python_sandbox.processes import descendants

        inside = descendants(os.getpid())
        for number, usage in inside.items():
            if usage.ended and usage.parent == os.getpid() and number != self.worker:
                # An orphan of the worker's.
                os.waitpid(number, os.WNOHANG)
        return [number for number, usage in inside.items() if number != self.worker and not usage.ended]

    def destroy(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.child, signal.SIGKILL)
        for _ in range(20):
            others = self.leftovers()
            for number in others:
                with contextlib.suppress(OSError):
                    os.kill(number, signal.SIGKILL)
            if not others:
                break
        _end(self.child)
        shutil.rmtree(self.folder, ignore_errors=True)


class _Seatbelt(_Bare):
    """A process that sandbox-exec holds to a profile; it can make no others."""

    def __init__(self, settings: dict[str, Any], ends: Ends) -> None:
        from gptoss_mlx.python_sandbox.seatbelt import SANDBOX_EXEC, make_profile

        folder = make_folder(settings)
        profile = make_profile(
            executable=settings["executable"],
            readable=[*settings["folders"], os.path.realpath(settings["worker"])],
            scratch=folder,
            home=os.path.realpath(settings["home"]),
        )
        super().__init__(settings, ends, folder, [SANDBOX_EXEC, "-p", profile])


def _taken(inside: "dict[int, Usage]", limit: int, scratch: int = 0) -> Taken:
    from gptoss_mlx.python_sandbox.processes import memory_bytes

    return Taken(
        memory_bytes(inside, limit),
        sum(usage.cpu_seconds for usage in inside.values()),
        scratch,
        sum(usage.threads for usage in inside.values()),
    )


def make_folder(settings: dict[str, Any]) -> str:
    """A private folder for the scratch, without links in its path."""
    return os.path.realpath(tempfile.mkdtemp(prefix="gptoss-python-", dir=settings["temporary"]))


def _processes_of_user(more: int) -> int:
    """The user's processes now, and so many more."""
    from gptoss_mlx.python_sandbox.processes import count_tasks

    return more + count_tasks(os.getuid())


def _folder_bytes(folder: str) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total


def _mac_memory_bytes(process: int) -> int:
    """What macOS counts as the process's memory."""
    # struct rusage_info_v0: 16 bytes of identity, then 64-bit numbers, of which the eighth is ri_phys_footprint.
    found = (ctypes.c_uint64 * 12)()
    if ctypes.CDLL(None).proc_pid_rusage(process, 0, ctypes.byref(found)):
        return 0
    return int(found[2 + 7])


def _end(child: int) -> None:
    """Kills it and waits for its end."""
    with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.waitpid(child, 0)
