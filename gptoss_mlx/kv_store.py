"""The folder in which conversations keep what a model has read of them, for when they are resumed.

One file for each conversation, under its key, in `settings.kv_folder()`. Together they stay under a limit: the ones
that were used longest ago go first. A file is a saving of time and nothing else: without it, or when it is damaged or
belongs to another model, the conversation is read anew.

Owns: the folder, its limit, who goes. Does not own: a file's content (`kv_file`), saving and loading (`api`).
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from gptoss_mlx.errors import UsageError
from gptoss_mlx.kv_file import PART_SUFFIX
from gptoss_mlx.settings import kv_folder

DEFAULT_LIMIT_BYTES: Final = 8 << 30
"""Bytes that all files have together at most: 330,000 tokens of gpt-oss-20b as they are."""

SUFFIX: Final = ".kv"
"""What the files end in."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")

ChatT = TypeVar("ChatT", contravariant=True)


@dataclass(frozen=True, slots=True)
class KVSaved:
    """What came of saving."""

    path: Path
    tokens: int
    """Tokens that need not be read again; 0 where nothing was there to save, and no file was written."""
    file_bytes: int
    seconds: float
    """From beginning to end."""
    engine_seconds: float
    """How long the model could do nothing else."""


@dataclass(frozen=True, slots=True)
class StoredKV:
    """A file of the folder."""

    key: str
    file_bytes: int
    last_used: float
    """In seconds since 1970."""


class KeepsKV(Protocol[ChatT]):
    """What the folder needs of a model (`GptOss` is one)."""

    def save_kv(self, chat: ChatT, path: Path, *, bits: int | None = None) -> KVSaved:
        """Writes what was read of `chat` to `path`."""
        ...

    def load_kv(self, path: Path) -> int:
        """Takes over what lies in `path`; gives its tokens, 0 where it is of no use."""
        ...


def key_of_file(path: str | os.PathLike[str]) -> str:
    """The key of a conversation that is saved in a file of its own."""
    return "file-" + hashlib.sha256(os.fsencode(Path(path).resolve())).hexdigest()[:32]


class KVStore:
    """The folder."""

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """`folder` is made when something is saved; default: `settings.kv_folder()`. Raises UsageError for a limit
        below 0.
        """
        if limit_bytes < 0:
            raise UsageError(f"limit_bytes is {limit_bytes}; expected 0 or more")
        self.folder = kv_folder() if folder is None else folder
        self.limit_bytes = limit_bytes
        """Bytes of all files together at most."""

    def path(self, key: str) -> Path:
        """The file of a conversation. Raises UsageError unless `key` is letters, digits, '.', '_' and '-'."""
        if not _KEY.fullmatch(key):
            raise UsageError(f"{key!r} names no conversation; expected up to 100 letters, digits, '.', '_' or '-'")
        return self.folder / f"{key}{SUFFIX}"

    def entries(self) -> list[StoredKV]:
        """What is there, used longest ago first."""
        found = []
        for file in self.folder.glob(f"*{SUFFIX}") if self.folder.is_dir() else ():
            # Another process may have removed it.
            with contextlib.suppress(OSError):
                status = file.stat()
                found.append(StoredKV(file.name.removesuffix(SUFFIX), status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.last_used)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.file_bytes for entry in self.entries())

    def save(self, model: KeepsKV[ChatT], chat: ChatT, key: str, *, bits: int | None = None) -> KVSaved:
        """Keeps what `model` has read of `chat` under `key`; what it replaces and others may have to go for it.

        A file larger than the limit does not stay. Raises as `GptOss.save_kv`.
        """
        path = self.path(key)
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = model.save_kv(chat, path, bits=bits)
        self.shrink()
        return saved

    def load(self, model: KeepsKV[ChatT], key: str) -> int:
        """Gives `model` what is kept under `key`: how many tokens it need not read again, 0 where that is of no use."""
        path = self.path(key)
        if not path.is_file():
            return 0
        tokens = model.load_kv(path)
        if tokens:
            with contextlib.suppress(OSError):
                os.utime(path)
        return tokens

    def remove(self, key: str) -> None:
        """Removes what is kept under `key`, if anything is."""
        self.path(key).unlink(missing_ok=True)

    def shrink(self, limit_bytes: int | None = None) -> None:
        """Removes files, used longest ago first, down to `limit_bytes` (default: the folder's limit), and what is left
        of saving that was killed.
        """
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        entries = self.entries()
        total = sum(entry.file_bytes for entry in entries)
        for entry in entries:
            if total <= limit:
                break
            self.remove(entry.key)
            total -= entry.file_bytes
        newest = max((entry.last_used for entry in entries), default=0.0)
        for part in self.folder.glob(f".*{SUFFIX}.*{PART_SUFFIX}") if self.folder.is_dir() else ():
            with contextlib.suppress(OSError):
                # Older than what was just written: nobody is writing it any more.
                if part.stat().st_mtime < newest - 3600:
                    part.unlink()
