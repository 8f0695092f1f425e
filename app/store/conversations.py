"""One conversation in the file: found, given a title, brought up to what was said, and removed for good."""

import sqlite3
import time
from typing import Final

from gptoss_mlx.app.conversation import Conversation, Turn
from gptoss_mlx.app.store.rows import (
    CONVERSATION_COLUMNS,
    TURN_COLUMNS,
    read_conversation,
    read_turn,
    storable,
    title_from,
)
from gptoss_mlx.app.store.schema import TURN_BITS
from gptoss_mlx.app.store.search import index_title, index_turn
from gptoss_mlx.errors import UsageError

KEPT_DELETED_SECONDS: Final = 30 * 24 * 3600.0
"""How long a deleted conversation can be restored."""

KEPT_EMPTY_SECONDS: Final = 24 * 3600.0
"""How long a conversation is kept in which nothing was ever said."""


def find_conversation(db: sqlite3.Connection, conversation: int) -> Conversation:
    """The conversation. Raises UsageError when there is none of this id, or when it was deleted."""
    query = f"SELECT {CONVERSATION_COLUMNS}, deleted FROM conversations WHERE id = ?"
    row = db.execute(query, (conversation,)).fetchone()
    if row is None:
        raise unknown_conversation(conversation)
    if row[-1] is not None:
        raise UsageError(f"conversation {conversation} was deleted; restore it first")
    return read_conversation(row[:-1])


def unknown_conversation(conversation: int) -> UsageError:
    """What is raised for an id that is none."""
    return UsageError(f"there is no conversation {conversation}; it may have been deleted for good")


def find_turn(db: sqlite3.Connection, turn: int) -> Turn:
    """The turn. Raises UsageError when there is none of this id."""
    row = db.execute(f"SELECT {TURN_COLUMNS} FROM turns WHERE id = ?", (turn,)).fetchone()
    if row is None:
        raise _unknown_turn(turn)
    return read_turn(row)


def check_turn(db: sqlite3.Connection, turn: int, conversation: int | None = None) -> None:
    """Raises UsageError when there is no turn of this id (in that conversation)."""
    row = db.execute("SELECT conversation FROM turns WHERE id = ?", (turn,)).fetchone()
    if row is None:
        raise _unknown_turn(turn)
    if conversation not in (None, row[0]):
        raise UsageError(f"there is no turn {turn} in conversation {conversation}; it belongs to another one")


def _unknown_turn(turn: int) -> UsageError:
    return UsageError(f"there is no turn {turn}; its conversation may have been deleted for good")


def note_said(db: sqlite3.Connection, conversation: int, turn: Turn, moment: float) -> None:
    """Brings the conversation's row and the index up to what the turn says."""
    values = (moment, turn.model, conversation)
    db.execute("UPDATE conversations SET updated = ?, model = coalesce(?, model) WHERE id = ?", values)
    if turn.state != "running":
        index_turn(db, turn)


def set_title(db: sqlite3.Connection, conversation: int, title: str) -> None:
    """Gives the conversation this title, in the index, too."""
    db.execute("UPDATE conversations SET title = ? WHERE id = ?", (storable(title), conversation))
    index_title(db, conversation, title)


def automatic_title(db: sqlite3.Connection, conversation: int) -> str:
    """The title that its first message gives; empty before it."""
    query = f"SELECT {TURN_COLUMNS} FROM turns WHERE conversation = ? AND parent IS NULL ORDER BY created, id LIMIT 1"
    row = db.execute(query, (conversation,)).fetchone()
    return "" if row is None else title_from(read_turn(row))


def outdated(db: sqlite3.Connection) -> list[int]:
    """Conversations to remove for good: deleted 30 days ago, or begun and never used."""
    now = time.time()
    rows = db.execute(
        "SELECT id FROM conversations WHERE deleted < ? OR (title = '' AND updated < ? AND leaf IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM turns WHERE conversation = conversations.id))",
        (now - KEPT_DELETED_SECONDS, now - KEPT_EMPTY_SECONDS),
    )
    return [row[0] for row in rows]


def purge(db: sqlite3.Connection) -> None:
    """Removes what is outdated, with all that was said in it."""
    for conversation in outdated(db):
        first, end = conversation << TURN_BITS, (conversation + 1) << TURN_BITS
        db.execute("DELETE FROM search WHERE rowid >= ? AND rowid < ?", (first, end))
        db.execute("DELETE FROM turns WHERE conversation = ?", (conversation,))
        db.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
