"""The tree of turns in the file: the path to a turn, its siblings, and where the reader went last below it."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.store.conversations import check_turn
from gptoss_mlx.app.store.rows import TURN_COLUMNS, read_turn
from gptoss_mlx.app.store.schema import TURN_BITS

# UNION, not UNION ALL: a circle, which only a damaged file could hold, then ends.
_UPWARDS = """
    WITH RECURSIVE up (id) AS (
        SELECT ? UNION SELECT turns.parent FROM turns JOIN up ON turns.id = up.id WHERE turns.parent IS NOT NULL
    )
"""


def insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> None:
    """Adds a row."""
    names = ", ".join(values)
    db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))


def read_path(db: sqlite3.Connection, conversation: int, leaf: int) -> list[Turn]:
    """The turns from the root to `leaf`. Raises UsageError when that is none of the conversation."""
    check_turn(db, leaf, conversation)
    columns = ", ".join(f"turns.{name}" for name in TURN_COLUMNS.split(", "))
    rows = db.execute(f"{_UPWARDS} SELECT {columns} FROM up JOIN turns ON turns.id = up.id", (leaf,))
    turns = {row[0]: read_turn(row) for row in rows}
    path: list[Turn] = []
    at: int | None = leaf
    while at is not None and at in turns:
        path.append(turns.pop(at))
        at = path[-1].parent
    return path[::-1]


def read_siblings(db: sqlite3.Connection, turn: Turn) -> list[int]:
    """Ids of the turns with the same parent, oldest first, the turn's own among them."""
    query = "SELECT id FROM turns WHERE conversation = ? AND parent IS ? ORDER BY created, id"
    return [row[0] for row in db.execute(query, (turn.id >> TURN_BITS, turn.parent))]


def read_branches(db: sqlite3.Connection, turns: Sequence[Turn]) -> dict[int, list[int]]:
    """`read_siblings` of each of the turns, by id; all of one conversation."""
    if not turns:
        return {}
    places: dict[int | None, list[int]] = {}
    query = "SELECT parent, id FROM turns WHERE conversation = ? ORDER BY created, id"
    for parent, identifier in db.execute(query, (turns[0].id >> TURN_BITS,)):
        places.setdefault(parent, []).append(identifier)
    return {turn.id: places.get(turn.parent, [turn.id]) for turn in turns}


def read_deepest(db: sqlite3.Connection, turn: int) -> int:
    """The turn that the reader visited last below this one (or this one, where the reader stopped at it)."""
    # As in a path upwards, but from a turn to the child that was visited last.
    query = """
        WITH RECURSIVE down (id, depth) AS (
            SELECT ?, 0
            UNION SELECT turns.last_child, depth + 1 FROM turns JOIN down ON turns.id = down.id
            WHERE turns.last_child IS NOT NULL AND depth < 1000000
        )
        SELECT id FROM down ORDER BY depth DESC LIMIT 1
    """
    deepest: int = db.execute(query, (turn,)).fetchone()[0]
    return deepest


def visit(db: sqlite3.Connection, conversation: int, leaf: int | None) -> None:
    """Moves the reader to `leaf`, and notes the way there in the turns above it."""
    db.execute("UPDATE conversations SET leaf = ? WHERE id = ?", (leaf, conversation))
    if leaf is None:
        return
    above = f"{_UPWARDS} SELECT turns.id, turns.parent, turns.last_child FROM up JOIN turns ON turns.id = up.id"
    rows = {row[0]: row for row in db.execute(above, (leaf,))}
    # Only what changes: a row is written whole, with all that was said in it.
    below = {parent: identifier for identifier, parent, _ in rows.values()}
    changes = [
        (below.get(identifier), identifier) for identifier, _, last in rows.values() if last != below.get(identifier)
    ]
    db.executemany("UPDATE turns SET last_child = ? WHERE id = ?", changes)
