"""Connections to the file, one for each thread that is at it, and what happens when it cannot be used.

    cannot be written (full disk, read-only, held by another program)
        all goes on in a copy in memory, `trouble` says so in one sentence, and what changed there is written as soon as
        the file can be
    damaged
        moved aside, never deleted; what can be read of it is copied into a new file; `take_notices` says so
    of a newer version, or another program's
        StoreError

SQLite's write-ahead log lets others read while one writes. A commit outlives the process at once, whatever kills it;
one that is `durable` outlives a power cut, too.
"""

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from gptoss_mlx.app.store.memory import carry_over, changed_turns, memory_copy
from gptoss_mlx.app.store.rows import decode
from gptoss_mlx.app.store.salvage import identity, replace_damaged, unwritable_copy
from gptoss_mlx.app.store.schema import prepare, read_version
from gptoss_mlx.app.store.search import rebuild_index
from gptoss_mlx.errors import StoreError

_Result = TypeVar("_Result")

BUSY_SECONDS: Final = 3.0
"""How long a write waits for that of another app."""

RETRY_SECONDS: Final = 1.0
"""Between two attempts to write what is in memory only."""

_REASONS: Final = {
    sqlite3.SQLITE_FULL: "there is no room left on the disk",
    sqlite3.SQLITE_READONLY: "it may only be read",
    sqlite3.SQLITE_PERM: "it may not be written",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened for writing",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_BUSY: "another program holds it",
    sqlite3.SQLITE_LOCKED: "another program holds it",
    sqlite3.SQLITE_PROTOCOL: "another program holds it",
}
"""Result codes of SQLite that the chat outlives."""

_FAILURES: Final = (sqlite3.Error, OSError, UnicodeDecodeError)
"""What SQLite raises: the last, when a message of its own quotes damaged bytes."""

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_CORRUPT_INDEX: Final = 267
"""SQLITE_CORRUPT_VTAB: the search index is damaged, not the file."""


class Database:
    """The file of chats."""

    def __init__(self, path: Path) -> None:
        """Opens it, making it where it is not there. Raises StoreError, see above."""
        self.path: Path = path
        self.trouble: str | None = None
        """One sentence while nothing is written to the file."""
        self._notices: list[str] = []
        # Held by one writer, from its first attempt until what it wrote is kept: nothing is written to the file while
        # the copy in memory is made.
        self._writing = threading.RLock()
        # Held for moments, around what follows, and the copy in memory. Taken after the other one.
        self._lock = threading.RLock()
        self._generation = 0
        self._identity: tuple[int, int] | None = None
        self._idle: list[sqlite3.Connection] = []
        self._memory: sqlite3.Connection | None = None
        self._next_try = 0.0
        self._closed = False
        try:
            self._idle.append(self._connect())
        except _FAILURES as error:
            if _is_damage(error):
                self._repair(error)
            else:
                self._go_to_memory(error)

    @property
    def unsaved(self) -> int:
        """Turns that are in memory only."""
        with self._lock:
            return 0 if self._memory is None else changed_turns(self._memory)

    def read(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """What `work` reads. Raises StoreError when the file cannot be read."""
        try:
            return self._read(work)
        except _FAILURES as error:
            if not _is_damage(error):
                raise self._unusable(error) from error
            self._repair(error)
        try:
            return self._read(work)
        except _FAILURES as error:
            raise self._unusable(error) from error

    def write(self, work: Callable[[sqlite3.Connection], _Result], *, durable: bool = True) -> _Result:
        """What `work` gives: all that it writes is kept, or nothing when it raises. May call it again, when the first
        attempt could not be kept."""
        with self._writing:
            self.retry()
            mended = False
            while True:
                if self._memory is not None:
                    with self._lock:
                        return _transact(self._memory, work)
                try:
                    if identity(self.path) != self._identity:
                        raise FileNotFoundError(errno.ENOENT, "it was moved or deleted while it was open")
                    return self._write_to_disk(work, durable)
                except _FAILURES as error:
                    # No row that is written here breaks a rule of its table: then the index is not what it should be.
                    if not mended and (_is_damage(error) or isinstance(error, sqlite3.IntegrityError)):
                        mended = True
                        self._repair(error)
                    else:
                        self._go_to_memory(error)

    def take_notices(self) -> list[str]:
        """Sentences about what was found damaged and what was done; each is given once."""
        with self._lock:
            notices, self._notices = self._notices, []
        return notices

    def retry(self) -> bool:
        """Writes what is in memory only, if the file can be written again; whether nothing is left there."""
        with self._writing, self._lock:
            if self._memory is None:
                return True
            if time.monotonic() < self._next_try:
                return False
            self._next_try = time.monotonic() + RETRY_SECONDS
            return self._return_to_disk(self._memory)

    def close(self) -> None:
        """Writes what is left, if it can be, and closes the file."""
        with self._writing, self._lock:
            self._next_try = 0.0
            if not self._closed:
                self.retry()
            self._closed = True
            if self._memory is not None:
                self._memory.close()
                self._memory = None
            self._drop_connections()

    # How it works

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # What is said in a chat is nobody else's; SQLite gives the files beside it the same permissions.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self._identity = self._identity or identity(self.path)
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.text_factory = decode
            db.execute("PRAGMA temp_store = MEMORY")
            db.execute("PRAGMA foreign_keys = ON")
            # On a Mac, what is written through is otherwise in the drive's own memory.
            db.execute("PRAGMA fullfsync = ON")
            # Another program's file stays as it is, the kind of its log, too.
            read_version(db, str(self.path))
            _use_log(db)
            prepare(db, str(self.path))
        except BaseException:
            db.close()
            raise
        return db

    def _read(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        with self._lock:
            if self._memory is not None:
                return work(self._memory)
        with self._borrowed() as db:
            return work(db)

    def _write_to_disk(self, work: Callable[[sqlite3.Connection], _Result], durable: bool) -> _Result:
        with self._borrowed() as db:
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            return _transact(db, work)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile."""
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path} was closed; open the chats again")
            generation = self._generation
            db = self._idle.pop() if self._idle else None
        db = db or self._connect()
        try:
            yield db
        finally:
            with self._lock:
                if self._closed or generation != self._generation:
                    db.close()
                else:
                    self._idle.append(db)

    def _drop_connections(self) -> None:
        """Closes the connections: at once those that are idle, the others when they are given back."""
        self._generation += 1
        for db in self._idle:
            db.close()
        self._idle.clear()

    def _go_to_memory(self, error: Exception) -> None:
        reason = _reason(error)
        if reason is None:
            raise self._unusable(error) from error
        with self._lock:
            if self._memory is not None:
                return
            source = self._idle.pop() if self._idle else unwritable_copy(self.path)
            memory = memory_copy(source, str(self.path))
            self._drop_connections()
            self._identity = None
            self._memory = memory
            self._next_try = time.monotonic() + RETRY_SECONDS
            self.trouble = (
                f"chats cannot be saved to {self.path}: {reason}; they are kept in memory and saved when that is over"
            )

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(f"the chats in {self.path} cannot be used: {error}; move the file away to begin anew")

    def _return_to_disk(self, memory: sqlite3.Connection) -> bool:
        try:
            disk = self._connect()
        except (*_FAILURES, StoreError):
            return False
        try:
            disk.execute("PRAGMA synchronous = FULL")
            _transact(disk, lambda db: carry_over(memory, db))
        except sqlite3.Error:
            disk.close()
            return False
        memory.close()
        self._idle.append(disk)
        self._memory = None
        self.trouble = None
        return True

    def _repair(self, error: BaseException) -> None:
        """Puts a readable file in the place of a damaged one, or mends the index when that is all."""
        with self._writing, self._lock:
            index_only = getattr(error, "sqlite_errorcode", None) == _CORRUPT_INDEX
            if (index_only or isinstance(error, sqlite3.IntegrityError)) and self._mend_index():
                return
            self._drop_connections()
            seen, self._identity = self._identity, None
            try:
                notice = replace_damaged(self.path, seen)
                self._idle.append(self._connect())
            except _FAILURES as trouble:
                self._go_to_memory(trouble)
                notice = f"{self.path} is damaged ({error}) and cannot be moved aside: {trouble}"
            if notice is not None:
                self._notices.append(notice)

    def _mend_index(self) -> bool:
        try:
            self._write_to_disk(rebuild_index, durable=True)
        except sqlite3.Error:
            return False
        return True


def _transact(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
    db.execute("BEGIN IMMEDIATE")
    try:
        result = work(db)
        db.execute("COMMIT")
    except BaseException:
        # Some errors have ended the transaction already.
        with contextlib.suppress(sqlite3.Error):
            db.rollback()
        raise
    return result


def _use_log(db: sqlite3.Connection) -> None:
    """Turns the write-ahead log on. SQLite does not wait for another app that does the same, so this does."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _is_damage(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, UnicodeDecodeError) or (code is not None and code & 0xFF in _DAMAGED)


def _reason(error: Exception) -> str | None:
    """Why the file cannot be written, in words; None when the error is of another kind."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else _REASONS.get(code & 0xFF)
