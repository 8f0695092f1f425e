"""The macOS sandbox: a profile for sandbox-exec, in which what is not allowed is refused.

Of several rules that fit, the last one counts. Paths are those that the kernel sees, without links: /private/tmp and
not /tmp. The text is tested everywhere; what it does, on a Mac only.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Final

SANDBOX_EXEC: Final = "/usr/bin/sandbox-exec"

_HIDDEN: Final = (
    "/Users",
    "/Volumes",
    "/Network",
    "/Library/Keychains",
    "/Library/Preferences",
    "/private/etc",
    "/private/tmp",
    "/private/var",
    "/System/Volumes",
    "/cores",
)
"""Where users' files, other volumes and other programs' temporary files are."""

_SHOWN: Final = (
    "/private/etc/localtime",
    "/private/var/db/timezone",
    "/private/var/db/dyld",
    "/private/var/select",
    "/System/Volumes/Preboot/Cryptexes",
)
"""Parts of these that the system's libraries read."""

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dtracehelper")

_SYSCTLS: Final = ("hw.", "machdep.", "vm.", "security.mac.lockdown_mode_state", "sysctl.proc_cputype")
"""Beginnings of names: facts about the machine."""

_KERNEL_SYSCTLS: Final = (
    "kern.argmax",
    "kern.maxfilesperproc",
    "kern.ngroups",
    "kern.osproductversion",
    "kern.osrelease",
    "kern.ostype",
    "kern.osvariant_status",
    "kern.osversion",
    "kern.usrstack64",
    "kern.version",
)
"""Facts about the system; kern.procargs2, the environment of other processes, is none of them."""


def make_profile(*, executable: str, readable: Sequence[str], scratch: str, home: str) -> str:
    """The profile: the code may read the system, `readable` (folders and files), and use `scratch`, a folder.

    It may become `executable` and programs beside it (a framework's Python begins itself anew), and make no process.
    All paths without links.
    """
    prefix = os.path.dirname(os.path.dirname(executable))
    lines = [
        "(version 1)",
        "(deny default)",
        "; the system, and nothing of its users",
        "(allow file-read*)",
        _rule("deny", "file-read*", (_subpath(path) for path in (*_HIDDEN, home))),
        _rule("allow", "file-read*", (_subpath(path) for path in (*_SHOWN, *readable))),
        "; what can be read can be run in this process",
        "(allow file-map-executable)",
        "; whoever resolves a path looks at the folders on the way, not at what is in them",
        _rule("allow", "file-read-metadata", (_literal(path) for path in _ways([*readable, scratch, *_SHOWN]))),
        "; the scratch",
        _rule("allow", "file-read* file-write*", [_subpath(scratch)]),
        _rule("allow", "file-read* file-write-data file-ioctl", (_literal(path) for path in _DEVICES)),
        "; one process",
        _rule("allow", "process-exec*", [_literal(executable), _subpath(prefix)]),
        "(deny process-fork)",
        "(allow process-info* (target self))",
        "(allow signal (target self))",
        _rule("allow", "sysctl-read", [*(f'(sysctl-name-prefix "{name}")' for name in _SYSCTLS), *_kernel_facts()]),
        '(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))',
        "(allow ipc-posix-sem)",
        "; no network, other processes' or machines'",
        "(deny network*)",
        "(deny system-socket)",
    ]
    return "\n".join(lines) + "\n"


def quoted(path: str) -> str:
    """A path as text of a profile."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _kernel_facts() -> list[str]:
    return [f'(sysctl-name "{name}")' for name in _KERNEL_SYSCTLS]


def _rule(verdict: str, operations: str, filters: Iterable[str]) -> str:
    return f"({verdict} {operations}" + "".join(f"\n    {each}" for each in filters) + ")"


def _subpath(path: str) -> str:
    return f"(subpath {quoted(path)})"


def _literal(path: str) -> str:
    return f"(literal {quoted(path)})"


def _ways(paths: Iterable[str]) -> list[str]:
    """The folders above these paths."""
    above: set[str] = set()
    for path in paths:
        while (path := os.path.dirname(path)) not in above:
            above.add(path)
    return sorted(above)
