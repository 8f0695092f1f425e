"""The files of a Linux sandbox: a root of its own, in memory, in which only what a Python needs is mounted, read-only.

    /usr /lib* /bin /sbin, the interpreter's folders, packages    the machine's, read-only
    /etc                       the list of libraries, the time zone, one user
    /dev                       null, zero, full, random, urandom; shm
    /proc                      the sandbox's own processes and nothing else (empty where the system refuses that)
    /mnt/data /tmp /dev/shm    the scratch: memory, bounded, the only place that can be written

Everything else does not exist: the root of the machine is taken away at the end. Runs as process 1 of the sandbox, in a
mount namespace of its own, with all privileges in it.
"""

import contextlib
import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.python_sandbox.interpreter import SYSTEM_FOLDERS, is_below

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT = 1, 2, 4, 8, 32
BIND, REC, PRIVATE, RELATIME = 4096, 16384, 1 << 18, 1 << 21
_DETACH: Final = 2
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}

SCRATCH_FOLDERS: Final = ("/mnt/data", "/tmp", "/dev/shm")
"""What can be written. The model was told of the first one when it was trained."""

WORKER: Final = "/worker.py"
"""The interpreter's script in the sandbox."""

_OLD: Final = "/.machine"
_SCRATCH: Final = "/.scratch"
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_KEPT_ETC: Final = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
_STATVFS_RELATIME: Final = 4096


class SandboxStep(Exception):
    """A step that the system refused; the text says which and why."""


@dataclass(frozen=True, slots=True)
class RootPlan:
    """What the root is made of."""

    folders: Sequence[str]
    """Folders and files beside the system's, without links in their paths."""
    home: str
    worker: str
    """Text of the interpreter's script."""
    scratch_bytes: int
    user: int
    """Whose the scratch is, as the sandbox numbers users."""


def make_root(libc: ctypes.CDLL, plan: RootPlan) -> None:
    """Puts this process, and all that it begins, into the new root. Raises SandboxStep."""
    mount = _Mounting(libc)
    mount("none", "/", "", REC | PRIVATE)
    base = next(folder for folder in ("/tmp", "/run", "/usr") if os.path.isdir(folder))
    mount("tmpfs", base, "tmpfs", NOSUID | NODEV, "size=4m,mode=755")
    os.mkdir(base + _OLD, 0o700)
    mount.pivot(base, base + _OLD)
    os.chdir("/")
    # First, since the interpreter's folders may lie below /tmp.
    _make_scratch(mount, plan)
    for folder in SYSTEM_FOLDERS:
        old = _OLD + folder
        if os.path.islink(old):
            os.symlink(os.readlink(old), folder)
        elif os.path.isdir(old):
            mount.bind(old, folder)
    for path in (*plan.folders, *_KEPT_ETC):
        old = os.path.realpath(_OLD + path) if path in _KEPT_ETC else _OLD + path
        # What a link of the machine points to is looked for within it.
        if path in _KEPT_ETC and not is_below(old, [_OLD]):
            old = _OLD + old
        if os.path.exists(old) and not os.path.lexists(path):
            mount.bind(old, path)
    _cover(mount, plan)
    for device in _DEVICES:
        mount.bind(f"{_OLD}/dev/{device}", f"/dev/{device}")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.symlink("/proc/self/fd", "/dev/fd")
    os.mkdir("/proc", 0o555)
    # Where parts of /proc are hidden, as in many containers, a new one is refused; Python does without.
    with contextlib.suppress(SandboxStep):
        mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC, "subset=pid")
    _write("/etc/passwd", f"user:x:{plan.user}:{plan.user}::/mnt/data:/bin/sh\n")
    _write("/etc/group", f"user:x:{plan.user}:\n")
    _write(WORKER, plan.worker)
    mounted = _mount_points(f"{_OLD}/proc/self/mountinfo")
    mount.unmount(_OLD)
    os.rmdir(_OLD)
    for point in mounted:
        if not is_below(point, [_OLD]) and point not in (_SCRATCH, *SCRATCH_FOLDERS):
            mount.make_read_only(point)
    os.chdir(SCRATCH_FOLDERS[0])


def _make_scratch(mount: "_Mounting", plan: RootPlan) -> None:
    owner = f"size={plan.scratch_bytes},nr_inodes=16384,mode=700,uid={plan.user},gid={plan.user}"
    os.mkdir(_SCRATCH)
    mount("tmpfs", _SCRATCH, "tmpfs", NOSUID | NODEV, owner)
    for folder in SCRATCH_FOLDERS:
        inner = f"{_SCRATCH}/{os.path.basename(folder)}"
        os.mkdir(inner, 0o700)
        os.chown(inner, plan.user, plan.user)
        os.makedirs(folder, exist_ok=True)
        mount(inner, folder, "", BIND)


def _cover(mount: "_Mounting", plan: RootPlan) -> None:
    """The home folder is not there, wherever it is."""
    if os.path.isdir(plan.home) and not any(is_below(folder, [plan.home]) for folder in plan.folders):
        mount("tmpfs", plan.home, "tmpfs", NOSUID | NODEV, "size=4k,mode=755")


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _mount_points(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    return [_unescaped(point) for point in points]


def _unescaped(point: str) -> str:
    """A path of mountinfo, in which blanks and backslashes are written as octal numbers."""
    for sign in " \t\n\\":
        point = point.replace(f"\\{ord(sign):03o}", sign)
    return point


class _Mounting:
    """mount(2) and what belongs to it. Raises SandboxStep for what is refused."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        self._libc = libc

    def __call__(self, source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        done = self._libc.mount(
            os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
        )
        self._check(done, f"mounting {target.removeprefix(_OLD) or '/'}")

    def bind(self, source: str, target: str) -> None:
        """What is at `source` is at `target`, too."""
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        self(source, target, "", BIND | REC)

    def make_read_only(self, target: str) -> None:
        """Nothing can be written there, and no program there has more rights than who runs it."""
        try:
            set_already = os.statvfs(target).f_flag
        except OSError:
            # It lies below another mount, or cannot be reached: nobody can write there.
            return
        # What the machine has set must not be taken away: that is refused.
        flags = set_already & (NOSUID | NODEV | NOEXEC | 1024 | 2048)
        if set_already & _STATVFS_RELATIME:
            flags |= RELATIME
        if not is_below(target, ["/dev"]):
            flags |= NODEV
        self("none", target, "", REMOUNT | BIND | RDONLY | NOSUID | flags)

    def pivot(self, root: str, old: str) -> None:
        """`root` is the root from now on; the one before is at `old`."""
        number = _SYS_PIVOT_ROOT[os.uname().machine]
        done = self._libc.syscall(ctypes.c_long(number), os.fsencode(root), os.fsencode(old))
        self._check(done, "changing the root")

    def unmount(self, target: str) -> None:
        """Takes the mount away, with all below it."""
        self._check(self._libc.umount2(os.fsencode(target), _DETACH), "leaving the machine's files")

    def _check(self, result: int, what: str) -> None:
        if result:
            raise SandboxStep(f"{what}: {os.strerror(ctypes.get_errno())}")
