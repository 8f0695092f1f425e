"""PathCompletion: after an "@", the files and folders that the word may become."""

import asyncio
import os
import re
from codecs import getincrementaldecoder
from pathlib import Path

from gptoss_mlx.app.widgets.choices import Choices

SHOWN = 50
"""Paths on offer at once."""
EXAMINED = 5000
"""Entries of a folder that are looked at."""

_MENTION = re.compile(r"""(?<!\S)@(?:"([^"]*)|'([^']*)|([^\s"'][^\s]*|))$""")
_UNQUOTED = re.compile(r"""[^\s\\"']*[^\s\\"'.,;:!?)\]}>]""")
"""A path that is read as it is, see `attachments`."""


def mentioned_path(before_cursor: str) -> str | None:
    """What stands after the "@" that the cursor is in: `@src/ma` or `@"my no`; None if it is in none."""
    found = _MENTION.search(before_cursor)
    return None if found is None else next(path for path in found.groups() if path is not None)


def mention(path: str, *, done: bool = True) -> str:
    """The "@" word for a path, in quotes where it needs them; without the closing one until it is done."""
    if _UNQUOTED.fullmatch(path):
        return f"@{path}"
    quote = "'" if '"' in path else '"'
    return f"@{quote}{path}{quote if done else ''}"


def matching_paths(written: str, folder: Path | None = None) -> list[str]:
    """Paths that begin as `written` does, as the user would write them: text files first, then folders (with a "/").

    Hidden ones only when asked for by a dot, binary files never. Relative paths are from `folder` (default: here).
    """
    head, name = os.path.split(written)
    base = Path(folder or "", os.path.expanduser(head))
    prefix = head if not head or head.endswith("/") else f"{head}/"
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(base) as entries:
            for _, entry in zip(range(EXAMINED), entries, strict=False):
                if not entry.name.lower().startswith(name.lower()) or (entry.name[0] == "." and not name):
                    continue
                if entry.is_dir():
                    folders.append(f"{prefix}{entry.name}/")
                elif entry.is_file():
                    files.append(entry.name)
    except OSError:
        return []
    texts: list[str] = []
    for file in sorted(files, key=str.lower):
        if len(texts) == SHOWN:
            break
        if not _is_binary(base / file):
            texts.append(prefix + file)
    return (texts + sorted(folders, key=str.lower))[:SHOWN]


def _is_binary(path: Path) -> bool:
    """Whether the file is no text in UTF-8 by its beginning; one that cannot be read is none either."""
    try:
        with path.open("rb") as file:
            return "\0" in getincrementaldecoder("utf-8")().decode(file.read(1024))
    except (OSError, UnicodeDecodeError):
        return True


class PathCompletion(Choices):
    """Offers paths for what is written before the cursor."""

    async def look_up(self, before_cursor: str) -> None:
        """Offers what the word at the cursor may become, or closes."""
        written = mentioned_path(before_cursor)
        paths = [] if written is None else await asyncio.to_thread(matching_paths, written)
        self.offer([] if paths == [written] else paths)
