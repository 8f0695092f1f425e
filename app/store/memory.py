"""The chats in memory, while the file cannot be written: what changes there is noted and carried over afterwards."""

import contextlib
import sqlite3
from typing import Final

from gptoss_mlx.app.store.rows import TURN_COLUMNS, decode, read_turn
from gptoss_mlx.app.store.schema import CHANGED_TURNS, prepare
from gptoss_mlx.app.store.search import index_title, index_turn

_NOTES: Final = (
    "CREATE TEMP TABLE changed_conversations (id INTEGER PRIMARY KEY)",
    f"CREATE TEMP TABLE {CHANGED_TURNS} (id INTEGER PRIMARY KEY)",
    """
    CREATE TEMP TRIGGER note_created AFTER INSERT ON main.conversations
    BEGIN INSERT OR IGNORE INTO changed_conversations VALUES (new.id); END
    """,
    """
    CREATE TEMP TRIGGER note_changed AFTER UPDATE ON main.conversations
    BEGIN INSERT OR IGNORE INTO changed_conversations VALUES (new.id); END
    """,
    f"""
    CREATE TEMP TRIGGER note_said AFTER INSERT ON main.turns
    BEGIN INSERT OR IGNORE INTO {CHANGED_TURNS} VALUES (new.id); END
    """,
    # Where the reader went (last_child) is left out: the row may be another app's, and newer in the file.
    f"""
    CREATE TEMP TRIGGER note_saved AFTER UPDATE OF state, text, messages, stats ON main.turns
    BEGIN INSERT OR IGNORE INTO {CHANGED_TURNS} VALUES (new.id); END
    """,
)


def memory_copy(source: sqlite3.Connection | None, name: str) -> sqlite3.Connection:
    """A database in memory that notes what changes in it, with all that `source` has, which is closed; without any of
    it, where that cannot be read and written. `name` is the file's."""
    memory = _connect()
    if source is not None:
        try:
            with contextlib.closing(source):
                source.backup(memory)
            # A damaged header may forbid to write.
            memory.execute("BEGIN IMMEDIATE")
            memory.execute("ROLLBACK")
            prepare(memory, name)
        except (sqlite3.Error, UnicodeDecodeError):
            memory.close()
            memory = _connect()
    prepare(memory, name)
    for statement in _NOTES:
        memory.execute(statement)
    return memory


def _connect() -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    memory.execute("PRAGMA foreign_keys = ON")
    memory.text_factory = decode
    return memory


def changed_turns(memory: sqlite3.Connection) -> int:
    """How many turns are in memory only, or newer there."""
    number: int = memory.execute(f"SELECT count(*) FROM {CHANGED_TURNS}").fetchone()[0]
    return number


def carry_over(memory: sqlite3.Connection, disk: sqlite3.Connection) -> None:
    """Writes what changed in memory to the file, within the transaction that is open there."""
    disk.execute("PRAGMA defer_foreign_keys = ON")
    touched = f"SELECT id FROM changed_conversations UNION SELECT id >> 20 FROM {CHANGED_TURNS}"
    _copy(memory, disk, "conversations", f"id IN ({touched})", replace=True)
    # What the file lost meanwhile (purged by another app) is needed above the new turns.
    _copy(memory, disk, "turns", f"conversation IN ({touched})", replace=False)
    _copy(memory, disk, "turns", f"id IN (SELECT id FROM {CHANGED_TURNS})", replace=True)
    # The file may be a new one, in the place of that which was read: its numbers go on, too.
    for name, value in memory.execute("SELECT name, value FROM counters"):
        disk.execute("UPDATE counters SET value = max(value, ?) WHERE name = ?", (value, name))
    for identifier, title in memory.execute(f"SELECT id, title FROM conversations WHERE id IN ({touched})"):
        index_title(disk, identifier, title)
    turns = f"SELECT {TURN_COLUMNS} FROM turns WHERE id IN (SELECT id FROM {CHANGED_TURNS}) AND state <> 'running'"
    for row in memory.execute(turns):
        index_turn(disk, read_turn(row))


def _copy(memory: sqlite3.Connection, disk: sqlite3.Connection, table: str, condition: str, *, replace: bool) -> None:
    columns = [row[1] for row in memory.execute(f"PRAGMA main.table_info({table})")]
    names = ", ".join(columns)
    conflict = "NOTHING"
    if replace:
        conflict = "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    disk.executemany(
        f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))}) ON CONFLICT (id) DO {conflict}",
        memory.execute(f"SELECT {names} FROM {table} WHERE {condition}"),
    )
