"""The conversations that are kept: made, read, searched, changed, deleted. Every call is whole or did nothing.

May be called from any thread. Ids that are unknown raise UsageError, a file that cannot be used StoreError; a file that
only cannot be written raises nothing: see `Store.trouble`.
"""

import builtins
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gptoss_mlx.app.conversation import ChatSettings, Conversation, Turn
from gptoss_mlx.app.store.conversations import (
    automatic_title,
    check_turn,
    find_conversation,
    find_turn,
    note_said,
    outdated,
    purge,
    set_title,
    unknown_conversation,
)
from gptoss_mlx.app.store.database import Database
from gptoss_mlx.app.store.listing import list_conversations
from gptoss_mlx.app.store.rows import (
    TURN_COLUMNS,
    ConversationSummary,
    conversation_values,
    read_turn,
    settings_json,
    title_from,
    turn_values,
)
from gptoss_mlx.app.store.schema import TURN_BITS, is_apart, new_conversation_id, new_turn_id
from gptoss_mlx.app.store.search import index_turn
from gptoss_mlx.app.store.tree import (
    insert,
    read_branches,
    read_deepest,
    read_path,
    read_siblings,
    visit,
)
from gptoss_mlx.app.store.writers import Writer
from gptoss_mlx.errors import UsageError
from gptoss_mlx.settings import home_folder

FILE_NAME: Final = "chats.sqlite3"


class Store:
    """All conversations of one file. Use it as a context manager or `close()` it."""

    def __init__(self, path: Path | None = None) -> None:
        """Opens the file, making it where it is not there; default: `chats.sqlite3` in `home_folder()`.

        Raises StoreError for a file of a newer version or of another program.
        """
        path = home_folder() / FILE_NAME if path is None else path
        self._writer = Writer(path.with_name(path.name + "-writers"))
        self._database = Database(path)
        # A write waits for other apps, and the screen for this: only where there is something to remove.
        if self._database.read(outdated):
            self._database.write(purge)
        self._writer.sweep()

    # Conversations

    def create(self, *, settings: ChatSettings | None = None, date: str, model: str | None = None) -> Conversation:
        """A new conversation, nothing said yet. `list` and `latest` leave it out until something is."""

        def work(db: sqlite3.Connection) -> Conversation:
            now = time.time()
            identifier = new_conversation_id(db)
            conversation = Conversation(identifier, "", now, now, date, settings or ChatSettings(), model)
            insert(db, "conversations", conversation_values(conversation))
            return conversation

        return self._database.write(work)

    def get(self, conversation: int) -> Conversation:
        """The conversation. Raises UsageError when there is none of this id, or when it was deleted."""
        return self._database.read(lambda db: find_conversation(db, conversation))

    def known(self) -> set[int]:
        """Ids of all conversations, those that can be restored among them."""
        return self._database.read(lambda db: {row[0] for row in db.execute("SELECT id FROM conversations")})

    def latest(self) -> Conversation | None:
        """The one in which something was said last; None when there is none."""
        found = self.list(limit=1)
        return self.get(found[0].id) if found else None

    def list(
        self, search: str = "", limit: int | None = 200, *, deleted: bool = False
    ) -> builtins.list[ConversationSummary]:
        """Conversations in which something was said, newest first; with `search`, those whose title or what was said
        in them has all of its words (as beginnings of words; in double quotes: one after the other).

        `deleted`: those that can be restored, instead.
        """
        return self._database.read(lambda db: list_conversations(db, search, limit, deleted=deleted))

    def rename(self, conversation: int, title: str) -> None:
        """Gives the conversation a title of the user's; an empty one brings back that from its first message."""

        def work(db: sqlite3.Connection) -> None:
            find_conversation(db, conversation)
            chosen = " ".join(title.split()) or automatic_title(db, conversation)
            set_title(db, conversation, chosen)

        self._database.write(work)

    def change(self, conversation: int, *, settings: ChatSettings | None = None, model: str | None = None) -> None:
        """Other settings, or another model; None leaves it."""

        def work(db: sqlite3.Connection) -> None:
            find_conversation(db, conversation)
            if settings is not None:
                values = (settings_json(settings), time.time(), conversation)
                db.execute("UPDATE conversations SET settings = ?, updated = ? WHERE id = ?", values)
            if model is not None:
                db.execute("UPDATE conversations SET model = ? WHERE id = ?", (model, conversation))

        self._database.write(work)

    def delete(self, conversation: int) -> None:
        """Takes the conversation out of the list; `restore` brings it back, for 30 days."""
        self._mark_deleted(conversation, time.time())

    def restore(self, conversation: int) -> None:
        """Brings a deleted conversation back."""
        self._mark_deleted(conversation, None)

    # Turns

    def path(self, conversation: int, leaf: int | None) -> builtins.list[Turn]:
        """The turns from the first one to `leaf`; none for None."""
        if leaf is None:
            return []
        return self._database.read(lambda db: read_path(db, conversation, leaf))

    def turn(self, turn: int) -> Turn:
        """The turn of this id."""
        return self._database.read(lambda db: find_turn(db, turn))

    def siblings(self, turn: Turn) -> builtins.list[int]:
        """Ids of the turns that stand in one place with this one, oldest first, itself included."""
        return self._database.read(lambda db: read_siblings(db, turn))

    def branches(self, turns: Sequence[Turn]) -> dict[int, builtins.list[int]]:
        """`siblings` of each of the turns, by id; all of one conversation."""
        return self._database.read(lambda db: read_branches(db, turns))

    def deepest(self, turn: int) -> int:
        """Where the reader was last below this turn: for going to another branch."""

        def work(db: sqlite3.Connection) -> int:
            check_turn(db, turn)
            return read_deepest(db, turn)

        return self._database.read(work)

    def add_turn(self, conversation: int, turn: Turn) -> Turn:
        """The turn as it is kept: with an id of its own, and with a time where it has none. The reader moves to it.

        The first message gives an untitled conversation its title.
        """
        running = turn.state == "running"

        def work(db: sqlite3.Connection) -> Turn:
            title = find_conversation(db, conversation).title
            if turn.parent is not None:
                check_turn(db, turn.parent, conversation)
            now = time.time()
            identifier = new_turn_id(db, conversation)
            added = replace(turn, id=identifier, created=turn.created or now)
            row = {**turn_values(added), "conversation": conversation, "writer": self._name(db, running)}
            insert(db, "turns", row)
            visit(db, conversation, identifier)
            note_said(db, conversation, added, now)
            if not title and turn.role == "user":
                set_title(db, conversation, title_from(turn))
            return added

        return self._database.write(work)

    def save_turn(self, turn: Turn) -> None:
        """Keeps the turn as it now is, in place of what was kept of it.

        Raises UsageError when another app writes it.
        """
        running = turn.state == "running"

        def work(db: sqlite3.Connection) -> None:
            self._check_own(db, turn.id)
            values = turn_values(turn)
            # Where it stands in the tree, and since when, does not change.
            for fixed in ("id", "parent", "role", "created"):
                del values[fixed]
            values["writer"] = self._name(db, running)
            changes = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE turns SET {changes} WHERE id = ?", (*values.values(), turn.id))
            if not running:
                note_said(db, turn.id >> TURN_BITS, turn, time.time())

        # What runs is saved again in a moment; only what is done has to outlive a power cut.
        self._database.write(work, durable=not running)

    def set_leaf(self, conversation: int, turn: int | None) -> None:
        """Moves the reader to the turn; None: before the first."""

        def work(db: sqlite3.Connection) -> None:
            find_conversation(db, conversation)
            if turn is not None:
                check_turn(db, turn, conversation)
            visit(db, conversation, turn)

        self._database.write(work, durable=False)

    # Running turns

    def mark_interrupted(self) -> int:
        """Makes running turns whose app has ended stopped ones; how many there were. For the start of the app."""

        def work(db: sqlite3.Connection) -> int:
            writers = [row[0] for row in db.execute("SELECT DISTINCT writer FROM turns WHERE state = 'running'")]
            gone = [writer for writer in writers if writer is None or self._writer.is_gone(writer)]
            number = 0
            for writer in gone:
                query = f"SELECT {TURN_COLUMNS} FROM turns WHERE state = 'running' AND writer IS ?"
                for row in db.execute(query, (writer,)).fetchall():
                    db.execute("UPDATE turns SET state = 'stopped', writer = NULL WHERE id = ?", (row[0],))
                    index_turn(db, read_turn(row))
                    number += 1
            return number

        number = self._database.write(work)
        self._writer.sweep()
        return number

    def written_elsewhere(self, turn: int) -> bool:
        """Whether another app that still lives writes this turn: it can be read here only."""
        return self._database.read(lambda db: self._foreign_writer(db, turn))

    # The file

    @property
    def trouble(self) -> str | None:
        """One sentence while chats are kept in memory only, because the file cannot be written."""
        return self._database.trouble

    @property
    def unsaved(self) -> int:
        """Turns that are in memory only."""
        return self._database.unsaved

    def retry(self) -> bool:
        """Tries to write what is in memory only; whether nothing is left. Every change does the same, at most once a
        second."""
        return self._database.retry()

    def take_notices(self) -> builtins.list[str]:
        """Sentences about what happened to the file since the last call: for the user, once."""
        return self._database.take_notices()

    @property
    def file(self) -> Path:
        """Where the conversations are kept."""
        return self._database.path

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._database.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # How it works

    def _name(self, db: sqlite3.Connection, running: bool) -> str | None:
        """This store's name in the row of a running turn."""
        if running and not is_apart(db):
            self._writer.begin()
        return self._writer.name if running else None

    def _foreign_writer(self, db: sqlite3.Connection, turn: int) -> bool:
        row = db.execute("SELECT writer FROM turns WHERE id = ? AND state = 'running'", (turn,)).fetchone()
        return row is not None and row[0] not in (None, self._writer.name) and not self._writer.is_gone(row[0])

    def _check_own(self, db: sqlite3.Connection, turn: int) -> None:
        check_turn(db, turn)
        if self._foreign_writer(db, turn):
            raise UsageError("another window of gptoss writes this answer; it can be changed when it is done")

    def _mark_deleted(self, conversation: int, moment: float | None) -> None:
        def work(db: sqlite3.Connection) -> None:
            if db.execute("UPDATE conversations SET deleted = ? WHERE id = ?", (moment, conversation)).rowcount == 0:
                raise unknown_conversation(conversation)

        self._database.write(work)
