"""Full-text search: what is searched, words to a query of the index, and the snippet that is shown.

A word matches where a word begins with it, whatever its case and accents; words in double quotes match in that order.
Scripts that are written without spaces are indexed character by character, so that any part of such a text is found.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from typing import Final

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.store.rows import said
from gptoss_mlx.app.store.schema import TURN_BITS

SNIPPET_LENGTH: Final = 120
"""Characters of a snippet, at most."""

_LEAD: Final = 30
"""Characters of a snippet before the word that was found."""

_BREAK: Final = "\u200b"
"""Ends a word for the index and shows nothing: a zero-width space."""

_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese characters."""

_TERM: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')

_MARKS: Final = re.compile("[\u0300-\u036f]+")


def searched_text(text: str) -> str:
    """The text as the index has it."""
    return _UNSPACED.sub(rf"\g<0>{_BREAK}", text)


def shown_text(text: str) -> str:
    """The text of the index as it was."""
    return text.replace(_BREAK, "")


def index_turn(db: sqlite3.Connection, turn: Turn) -> None:
    """Puts what was said in the turn into the index, in place of what stood there."""
    put(db, turn.id, said(turn))


def index_title(db: sqlite3.Connection, conversation: int, title: str) -> None:
    """Puts the title into the index, in place of the one before."""
    put(db, conversation << TURN_BITS, title)


def put(db: sqlite3.Connection, rowid: int, text: str) -> None:
    """Puts the text into the index under this number, in place of what stood there."""
    db.execute("DELETE FROM search WHERE rowid = ?", (rowid,))
    if text.strip():
        # What is no UTF-8 cannot be stored, and not be searched for.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        db.execute("INSERT INTO search (rowid, text) VALUES (?, ?)", (rowid, searched_text(clean)))


def rebuild_index(db: sqlite3.Connection) -> None:
    """Makes the index anew, out of its own copy of the texts."""
    db.execute("INSERT INTO search (search) VALUES ('rebuild')")


def terms_of(words: str) -> list[str]:
    """The words, and phrases in double quotes, that are searched for."""
    terms = [(phrase or word).strip() for phrase, word in _TERM.findall(words)]
    return [term for term in terms if term]


def find(db: sqlite3.Connection, terms: list[str]) -> dict[int, int]:
    """Conversations where each term is said somewhere, with a row of the index to show: one with as many terms as
    there are, the latest of them."""
    found: dict[int, int] | None = None
    for term in terms:
        rows = _rows(db, [term])
        found = rows if found is None else {key: row for key, row in rows.items() if key in found}
    if not found:
        return {}
    if len(terms) > 1:
        together = _rows(db, terms)
        found = {key: together.get(key, row) for key, row in found.items()}
    return found


def _rows(db: sqlite3.Connection, terms: list[str]) -> dict[int, int]:
    """The last row of each conversation that holds all the terms."""
    words = [term for term in terms if any(character.isalnum() for character in term)]
    signs = [term for term in terms if term not in words]
    conditions = ["instr(text, ?)"] * len(signs)
    values = list(signs)
    if words:
        conditions.insert(0, "search MATCH ?")
        values.insert(0, " AND ".join(_match(word) for word in words))
    return dict(
        db.execute(
            f"SELECT rowid >> {TURN_BITS}, max(rowid) FROM search WHERE {' AND '.join(conditions)} GROUP BY 1", values
        )
    )


def _match(term: str) -> str:
    """The term in the index's language: its words one after the other, the last one as a beginning."""
    return '"' + searched_text(term).replace('"', '""') + '"*'


def pattern_of(terms: list[str]) -> re.Pattern[str] | None:
    """What finds the terms in decomposed text; None without any."""
    parts = [_expression(term) for term in terms]
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


def snippet(text: str, pattern: re.Pattern[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A line around the first place of the pattern in `text`, and where it stands in the line."""
    # Decomposed, accents are characters of their own, which the pattern passes over.
    plain = unicodedata.normalize("NFD", text)
    first = pattern.search(plain)
    start = 0 if first is None else max(0, first.start() - _LEAD)
    if first is not None and start:
        # From the beginning of a word, if one begins before what was found.
        start = plain.find(" ", start, first.start()) + 1 or start
    end = start + 4 * SNIPPET_LENGTH
    line = ("…" if start else "") + unicodedata.normalize("NFC", " ".join(plain[start:end].split()))
    if len(line) > SNIPPET_LENGTH or end < len(plain):
        line = line[: SNIPPET_LENGTH - 1].rstrip() + "…"
    return line, tuple(_places(pattern, line))


def _expression(term: str) -> str:
    """A regular expression for the term in decomposed text."""
    letters = _MARKS.sub("", unicodedata.normalize("NFD", term))
    words = re.findall(r"\w+", letters) or [letters]
    joined = r"\W+".join("".join(re.escape(letter) + "[\u0300-\u036f]*" for letter in word) for word in words)
    # Where words are not kept apart by spaces, any place is the beginning of one; so it is for signs.
    anywhere = _UNSPACED.match(words[0]) is not None or not words[0][0].isalnum()
    return joined if anywhere else r"(?<![^\W_])" + joined


def _places(pattern: re.Pattern[str], line: str) -> Iterator[tuple[int, int]]:
    """Where the pattern, made for decomposed text, stands in `line`."""
    parts = [unicodedata.normalize("NFD", character) for character in line]
    # For each character of the decomposed line, that of `line` which it comes from.
    origins = [number for number, part in enumerate(parts) for _ in part]
    for match in pattern.finditer("".join(parts)):
        if match.end() > match.start():
            yield origins[match.start()], origins[match.end() - 1] + 1
