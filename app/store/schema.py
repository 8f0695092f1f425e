"""The tables, and how a file of an older version becomes one of this version.

A turn's id holds its conversation's: `conversation << TURN_BITS | number`, numbers from 1. So the turns of a
conversation lie side by side in the file, and a match in the index tells its conversation without a look-up; number 0
stands for the title in the index.
"""

import secrets
import sqlite3
from typing import Final

from gptoss_mlx.errors import StoreError

APPLICATION_ID: Final = 0x6770746F
"""Marks the file as ours: "gpto"."""

TURN_BITS: Final = 20
"""Bits of a turn's number within its conversation."""

APART: Final = 1 << 41
"""Conversations that begin while the file cannot be written have ids from here on, at random: other apps go on
counting below."""

CHANGED_TURNS: Final = "changed_turns"
"""The table, in memory only, of the turns that are not in the file as they are."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # title: by the user, or from the first message. settings: JSON. leaf: the turn where the reader is.
        # deleted: when it was; NULL while it is there.
        """
        CREATE TABLE conversations (
            id INTEGER PRIMARY KEY,
            title TEXT NOT NULL DEFAULT '',
            created REAL NOT NULL,
            updated REAL NOT NULL,
            date TEXT NOT NULL,
            settings TEXT NOT NULL DEFAULT '{}',
            model TEXT,
            leaf INTEGER,
            deleted REAL
        )
        """,
        "CREATE INDEX conversations_updated ON conversations (updated DESC, id DESC)",
        # last_child: the turn below it on the path that the reader took last; NULL where the reader stopped at it.
        # writer: who writes it, while it runs. attachments, stats, messages: JSON. tokens: the ids behind the
        # messages, unsigned 32-bit integers, little-endian. What is large comes last: the small is read without it.
        """
        CREATE TABLE turns (
            id INTEGER PRIMARY KEY,
            conversation INTEGER NOT NULL REFERENCES conversations (id),
            parent INTEGER REFERENCES turns (id),
            last_child INTEGER,
            role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
            state TEXT NOT NULL CHECK (state IN ('running', 'complete', 'stopped', 'failed')),
            writer TEXT,
            created REAL NOT NULL,
            model TEXT,
            reasoning_seconds REAL,
            finish_reason TEXT,
            error TEXT,
            text TEXT NOT NULL DEFAULT '',
            attachments TEXT NOT NULL DEFAULT '[]',
            stats TEXT NOT NULL DEFAULT '{}',
            messages TEXT NOT NULL DEFAULT '[]',
            tokens BLOB NOT NULL DEFAULT x'',
            CHECK (id >> 20 = conversation)
        )
        """,
        "CREATE INDEX turns_tree ON turns (conversation, parent)",
        # For the check that nothing refers to a turn that goes.
        "CREATE INDEX turns_parent ON turns (parent)",
        "CREATE INDEX turns_running ON turns (writer) WHERE state = 'running'",
        # rowid: a turn's id, or `conversation << 20` for its title.
        """
        CREATE VIRTUAL TABLE search USING fts5 (
            text, tokenize = 'unicode61 remove_diacritics 2', prefix = '1 2 3', columnsize = 0
        )
        """,
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO counters VALUES ('conversations', 0)",
        f"PRAGMA application_id = {APPLICATION_ID}",
    ),
)
"""What makes version n + 1 out of version n, statement by statement. Version 0 is an empty file."""

VERSION: Final = len(MIGRATIONS)
"""The version that this code reads and writes."""


def new_conversation_id(db: sqlite3.Connection) -> int:
    """The next id, never one that was given before; in memory one that no other app gives at the same time."""
    if is_apart(db):
        return APART | secrets.randbits(40)
    db.execute("UPDATE counters SET value = value + 1 WHERE name = 'conversations'")
    identifier: int = db.execute("SELECT value FROM counters WHERE name = 'conversations'").fetchone()[0]
    return identifier


def new_turn_id(db: sqlite3.Connection, conversation: int) -> int:
    """The next id of a turn in the conversation; in memory one that no other app gives at the same time.

    Raises StoreError when the conversation is full.
    """
    first, end = conversation << TURN_BITS, (conversation + 1) << TURN_BITS
    last: int | None = db.execute("SELECT max(id) FROM turns WHERE id > ? AND id < ?", (first, end)).fetchone()[0]
    identifier = (first if last is None else last) + 1
    if is_apart(db) and db.execute(f"SELECT 1 FROM {CHANGED_TURNS} WHERE id = ?", (last,)).fetchone() is None:
        # Past what another app may add meanwhile; what follows in memory goes on from there.
        identifier += 64 + secrets.randbelow(1024)
    if identifier >= end:
        raise StoreError(f"the conversation has {end - first - 1} turns, and no more can be kept; begin a new one")
    return identifier


def is_apart(db: sqlite3.Connection) -> bool:
    """Whether `db` is the copy in memory, which other apps know nothing of."""
    return db.execute(f"SELECT 1 FROM sqlite_temp_master WHERE name = '{CHANGED_TURNS}'").fetchone() is not None


def prepare(db: sqlite3.Connection, name: str) -> None:
    """Brings the file that `db` is connected to (`name` in messages) to this version. Raises as `read_version`."""
    if read_version(db, name) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another app may have done it since.
        for number in range(read_version(db, name), VERSION):
            for statement in MIGRATIONS[number]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise


def read_version(db: sqlite3.Connection, name: str) -> int:
    """The version of the file that `db` is connected to; changes nothing in it.

    Raises StoreError for a file of a newer version or of another program, sqlite3.DatabaseError for a damaged one.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    application: int = db.execute("PRAGMA application_id").fetchone()[0]
    tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (tables or version or application):
        raise StoreError(
            f"{name} is a database of another program; expected the chats of gptoss: move it away, or set GPTOSS_HOME "
            "to another folder"
        )
    if version > VERSION:
        raise StoreError(
            f"{name} was written by a newer gptoss (version {version} of the file; this one knows {VERSION}): update "
            "gptoss-mlx, or set GPTOSS_HOME to another folder"
        )
    return version
