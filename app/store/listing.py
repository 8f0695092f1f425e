"""The list of conversations, newest first: all, or those where some words were said."""

import re
import sqlite3
from itertools import islice

from gptoss_mlx.app.store.rows import ConversationSummary
from gptoss_mlx.app.store.schema import TURN_BITS
from gptoss_mlx.app.store.search import find, pattern_of, shown_text, snippet, terms_of

_COLUMNS = "id, title, created, updated, model"


def list_conversations(
    db: sqlite3.Connection, words: str, limit: int | None, *, deleted: bool
) -> list[ConversationSummary]:
    """At most `limit` of them. Without words, conversations in which nothing was said are left out."""
    terms = terms_of(words)
    found = find(db, terms) if terms else None
    if found is not None and not found:
        return []
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM conversations AS c WHERE deleted IS {'NOT ' if deleted else ''}NULL "
        "AND (title <> '' OR EXISTS (SELECT 1 FROM turns WHERE conversation = c.id)) ORDER BY updated DESC, id DESC"
    )
    pattern = pattern_of(terms)
    wanted = (row for row in rows if found is None or row[0] in found)
    return [_summary(db, row, pattern, found) for row in islice(wanted, limit)]


def _summary(
    db: sqlite3.Connection,
    row: tuple[int, str, float, float, str | None],
    pattern: re.Pattern[str] | None,
    found: dict[int, int] | None,
) -> ConversationSummary:
    identifier = row[0]
    counts = "SELECT count(*), count(CASE WHEN state = 'running' THEN 1 END) FROM turns WHERE conversation = ?"
    turns, running = db.execute(counts, (identifier,)).fetchone()
    shown: tuple[str, tuple[tuple[int, int], ...]] = ("", ())
    if pattern is not None and found is not None and found[identifier] != identifier << TURN_BITS:
        text = db.execute("SELECT text FROM search WHERE rowid = ?", (found[identifier],)).fetchone()
        if text is not None:
            shown = snippet(shown_text(text[0]), pattern)
    return ConversationSummary(*row, turns=turns, running=running > 0, snippet=shown[0], matches=shown[1])
