"""What can still be read of a file of chats: of a damaged one, and of one that may only be read.

A damaged file is read row by row from both ends, so that one bad page costs the rows on it; the rows go into a new file
that takes its place, and the damaged one stays beside it under another name.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gptoss_mlx.app.store.rows import TURN_COLUMNS, decode, read_turn
from gptoss_mlx.app.store.schema import APART, prepare
from gptoss_mlx.app.store.search import index_title, index_turn
from gptoss_mlx.app.store.writers import lock_file

SIDE_FILES: Final = ("-wal", "-shm")
"""What SQLite keeps beside the file: what was written last, and an index of it."""


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file from another one in its place; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unwritable_copy(path: Path) -> sqlite3.Connection | None:
    """A connection to what the file held when it was last closed well, or to a copy of it; None where it cannot be
    read."""
    if not path.is_file():
        return None
    with contextlib.suppress(sqlite3.Error):
        return _read_only(path)
    with contextlib.suppress(sqlite3.Error, OSError), tempfile.TemporaryDirectory() as folder:
        # What was written last may be in the log only, which SQLite reads where it may write beside it.
        for name in (path.name, path.name + SIDE_FILES[0]):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path.with_name(name), Path(folder) / name)
        memory = sqlite3.connect(":memory:", check_same_thread=False)
        with contextlib.closing(sqlite3.connect(Path(folder) / path.name)) as source:
            source.backup(memory)
        return memory
    return None


def _read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing. Raises sqlite3.Error when the file cannot be read so."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        db.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.OperationalError:
        db.close()
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        # Damaged: what can be read is for the caller to find out.
        return db
    return db


def replace_damaged(path: Path, seen: tuple[int, int] | None) -> str | None:
    """Moves the damaged file aside and puts a new one in its place with all that can be read; one sentence about it.

    `seen` is the identity of the damaged file: None is given when another app has replaced it meanwhile. Raises
    OSError and sqlite3.Error when it cannot be done.
    """
    handle = lock_file(path.with_name(path.name + "-writers") / "repair")
    try:
        if identity(path) != seen:
            return None
        fresh = path.with_name(f"{path.name}-recovered-{os.getpid()}")
        fresh.unlink(missing_ok=True)
        try:
            kept, turns = _copy_readable(path, fresh)
            aside = _free_name(path)
            path.rename(aside)
            # With it go its side files: beside another file, they would be taken for that file's own.
            for ending in SIDE_FILES:
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
            fresh.rename(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    finally:
        os.close(handle)
    found = f"{kept} conversations with {turns} turns were recovered from it" if kept else "nothing could be read of it"
    return f"{path} was damaged and is now {aside.name}; {found}"


def _free_name(path: Path) -> Path:
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    aside = path.with_name(f"{path.name}-damaged-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}-damaged-{stamp}-{number}")
    return aside


def _copy_readable(path: Path, fresh: Path) -> tuple[int, int]:
    """Makes `fresh` out of what can be read of `path`; how many conversations and turns that is."""
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as target:
        prepare(target, str(fresh))
        target.execute("BEGIN")
        with contextlib.closing(_read_only(path)) as source:
            # Lets a file be read of which the end is missing.
            source.execute("PRAGMA writable_schema = ON")
            source.text_factory = decode
            _copy_rows(source, target, "conversations")
            _copy_rows(source, target, "turns")
        _mend(target)
        target.execute("COMMIT")
        counts = [target.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("conversations", "turns")]
        return counts[0], counts[1]


def _copy_rows(source: sqlite3.Connection, target: sqlite3.Connection, table: str) -> None:
    columns = [row[1] for row in target.execute(f"PRAGMA table_info({table})")]
    names = ", ".join(columns)
    command = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
    for order in ("ASC", "DESC"):
        for row in _until_damage(source, f"SELECT {names} FROM {table} ORDER BY id {order}"):
            # A row that breaks a rule of the table (a broken state, no number for a time) is none.
            with contextlib.suppress(sqlite3.IntegrityError):
                target.execute(command, row)


def _until_damage(source: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        yield from source.execute(query)


def _mend(db: sqlite3.Connection) -> None:
    """Makes whole conversations of the rows that are there, and their index."""
    # A turn whose conversation is lost gets one; a turn whose parent is lost becomes a first one.
    db.execute(
        "INSERT INTO conversations (id, title, created, updated, date) "
        "SELECT conversation, 'Recovered', min(created), max(created), strftime('%Y-%m-%d', min(created), 'unixepoch') "
        "FROM turns WHERE conversation NOT IN (SELECT id FROM conversations) GROUP BY conversation"
    )
    db.execute("UPDATE turns SET parent = NULL WHERE parent NOT IN (SELECT id FROM turns)")
    db.execute("UPDATE turns SET last_child = (SELECT max(id) FROM turns AS child WHERE child.parent = turns.id)")
    db.execute(
        "UPDATE conversations SET leaf = (SELECT max(id) FROM turns WHERE conversation = conversations.id) "
        "WHERE leaf IS NULL OR leaf NOT IN (SELECT id FROM turns)"
    )
    db.execute(f"UPDATE counters SET value = (SELECT coalesce(max(id), 0) FROM conversations WHERE id < {APART})")
    for identifier, title in db.execute("SELECT id, title FROM conversations").fetchall():
        index_title(db, identifier, title)
    for (identifier,) in db.execute("SELECT id FROM turns WHERE state <> 'running'").fetchall():
        row = db.execute(f"SELECT {TURN_COLUMNS} FROM turns WHERE id = ?", (identifier,)).fetchone()
        index_turn(db, read_turn(row))
