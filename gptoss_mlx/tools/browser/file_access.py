"""Files of the folders that a user gave, and of no other.

A path is resolved first (links, `..`), looked for among the folders next, and then opened part by part from its folder
on, following no link: what is swapped for a link meanwhile is not opened. Names that begin with a dot are nobody's
business: keys and settings lie there.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.tools.browser.backend import BrowseError

SKIPPED: Final = frozenset(("node_modules", "__pycache__"))
"""Folders that hold nothing that a person wrote."""


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that may be read, or one file of it."""

    name: str
    """By which the model calls it."""
    base: Path
    """The folder, resolved."""
    only: str | None = None
    """The file, where it is not the whole folder."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file in a folder that may be read."""

    root: Root
    relative: str
    """With `/` between its parts."""
    size: int
    changed: int
    """`st_mtime_ns`."""


def make_roots(folders: Sequence[str | os.PathLike[str]]) -> tuple[Root, ...]:
    """The folders (and files) that were given, each with a name of its own. Raises UsageError for what is not there."""
    roots: list[Root] = []
    for given in folders:
        try:
            real = Path(given).expanduser().resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"{os.fspath(given)!r} cannot be browsed: there is no such file or folder") from error
        only = None if real.is_dir() else real.name
        base = real if only is None else real.parent
        if any(root.base == base and root.only == only for root in roots):
            continue
        names = {root.name for root in roots}
        name = own = base.name or "files"
        number = 2
        while name in names:
            name = f"{own}-{number}"
            number += 1
        roots.append(Root(name, base, only))
    if not roots:
        raise UsageError("there is no folder to browse; expected at least one")
    return tuple(roots)


def find_path(roots: Sequence[Root], path: Path, address: str) -> tuple[Root, str]:
    """The root that a path lies in, and the path within it (empty: the root itself); links are followed first.

    Raises BrowseError, the same whether it is there or not, when it lies in none of them; `address` is how the model
    calls it.
    """
    try:
        real = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise BrowseError(f"`{address}` is no path of a file") from error
    for root in roots:
        if real == root.base or root.base in real.parents:
            relative = "" if real == root.base else real.relative_to(root.base).as_posix()
            if root.only is not None and relative not in ("", root.only):
                continue
            if any(_is_left_out(part) for part in relative.split("/")):
                break
            return root, relative
    raise BrowseError(f"`{address}` may not be read: it is not in the folders that the user gave")


def list_folder(root: Root, relative: str) -> list[tuple[str, bool]]:
    """Names in a folder, and whether each is a folder, in order. Raises BrowseError."""
    if root.only is not None:
        return [(root.only, False)]
    try:
        with _folder(root, relative) as opened, os.scandir(opened) as entries:
            found = [
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not _is_left_out(entry.name) and not entry.is_symlink()
            ]
    except OSError as error:
        raise BrowseError(f"the folder `{relative or root.name}` cannot be read ({error.strerror})") from error
    return sorted(found, key=lambda entry: (not entry[1], entry[0].casefold()))


def walk(root: Root) -> Iterator[FoundFile]:
    """The files of a root; links are not followed, what cannot be read is left out."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root.base / folder) as entries:
                for entry in entries:
                    if _is_left_out(entry.name) or (root.only is not None and entry.name != root.only):
                        continue
                    relative = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(relative)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(OSError):
                            found = entry.stat(follow_symlinks=False)
                            yield FoundFile(root, relative, found.st_size, found.st_mtime_ns)
        except OSError:
            continue


def read_file(root: Root, relative: str, most_bytes: int) -> bytes:
    """The bytes of a file. Raises BrowseError for a longer one, and for what is no file."""
    folder, _, name = relative.rpartition("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with _folder(root, folder) as opened:
            descriptor = os.open(name, flags, dir_fd=opened)
        with open(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise BrowseError(f"`{relative}` is no file")
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        raise BrowseError(f"`{relative}` cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > most_bytes:
        raise BrowseError(f"`{relative}` is too large: more than {most_bytes // 1_000_000} MB")
    return data


@contextlib.contextmanager
def _folder(root: Root, relative: str) -> Iterator[int]:
    """A descriptor of a folder in a root, opened part by part. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    opened = os.open(root.base, flags)
    try:
        for part in relative.split("/") if relative else ():
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED
