"""Which Python runs the cells: the one that runs us, without its virtual environment, beside the installed packages."""

import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/gnu/store")
"""Programs and libraries of a Linux system."""

PACKAGE_FOLDERS = ("site-packages", "dist-packages")
"""What folders of installed packages are called."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python installation, as paths without links."""

    executable: str
    folders: tuple[str, ...]
    """What it is made of beside the system's folders: its own folders and files."""
    packages: tuple[str, ...]
    """Folders of installed packages, for `sys.path`."""


def find_interpreter() -> Interpreter:
    """The installation behind the running Python."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    # Those of the installation, where this is a virtual environment.
    bases = {"platbase": sys.base_exec_prefix, "base": sys.base_prefix}
    standard = [os.path.realpath(sysconfig.get_path(name, vars=bases)) for name in ("stdlib", "platstdlib")]
    # A folder above is wanted for the libraries beside it; where that would show the home folder, only what is named.
    parts = [executable if _shows_home(os.path.dirname(executable)) else os.path.dirname(executable)]
    for folder in standard:
        above = os.path.dirname(folder)
        parts.append(folder if _shows_home(above) else above)
    library = sysconfig.get_config_var("LIBDIR")
    if isinstance(library, str) and sysconfig.get_config_var("Py_ENABLE_SHARED"):
        names = Path(library).glob("libpython*") if os.path.isdir(library) else ()
        parts += [os.path.realpath(name) for name in names]
    packages = [
        os.path.realpath(entry)
        for entry in sys.path
        if os.path.basename(entry) in PACKAGE_FOLDERS and os.path.isdir(entry)
    ]
    folders = outermost(
        path for path in [*parts, *packages] if os.path.exists(path) and not is_below(path, SYSTEM_FOLDERS)
    )
    return Interpreter(executable, tuple(folders), tuple(dict.fromkeys(packages)))


def outermost(paths: Iterable[str]) -> list[str]:
    """The paths without those that lie in another of them."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not is_below(path, kept):
            kept.append(path)
    return kept


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Whether `path` is one of `folders`, or lies in one."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _shows_home(folder: str) -> bool:
    """Whether the home folder, or the root, would be seen with that folder."""
    return is_below(os.path.realpath(os.path.expanduser("~")), [folder]) or folder == "/"
