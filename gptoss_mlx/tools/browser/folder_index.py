"""Full-text search over files: SQLite's FTS5, in memory, with words cut to their stems and ranked by BM25.

The index holds no text: rows of files that changed are left behind, and all is made anew when too many are.
"""

import re
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from gptoss_mlx.tools.browser.backend import BrowseError, check_stopped
from gptoss_mlx.tools.browser.file_access import FoundFile
from gptoss_mlx.tools.browser.page import clean

INDEXED_CHARACTERS: Final = 100_000_000
"""Of all files together; further ones are not found."""

STALE_ROWS: Final = 1000
"""So many more rows of files that are gone than of others are no reason to begin anew."""

_TITLE_WEIGHT: Final = 4.0
_TABLE: Final = (
    "CREATE VIRTUAL TABLE found USING fts5(name, body, content='', tokenize='porter unicode61 remove_diacritics 2')"
)

_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Characters of scripts that are written without blanks: each is a word."""

ReadText = Callable[[FoundFile], str]
"""The text of a file. Raises BrowseError for one that has none."""


def words_of(text: str) -> list[str]:
    """The words that are looked for, in lower case."""
    spaced = _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFC", text))
    return re.findall(r"\w+", spaced.replace("_", " ").casefold())


@dataclass
class _Row:
    file: FoundFile
    characters: int


@dataclass
class FolderIndex:
    """Which files a query means. For all threads."""

    read: ReadText
    left_out: int = 0
    """Files that could not be indexed: the index is full."""
    _rows: dict[int, _Row] = field(default_factory=dict)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    _stale: int = 0
    _next: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._db = self._fresh()

    def search(self, files: Iterable[FoundFile], query: str, count: int) -> list[FoundFile]:
        """The files that answer the query best, of those that are there now. Raises BrowseError when it is stopped."""
        words = words_of(query)
        with self._lock:
            self._update(list(files))
            if not words:
                return []
            terms = " OR ".join(f'"{word}"' for word in dict.fromkeys(words[:64]))
            rows = self._db.execute(
                f"SELECT rowid FROM found WHERE found MATCH ? ORDER BY bm25(found, {_TITLE_WEIGHT}, 1.0) LIMIT ?",
                (terms, count + self._stale),
            )
            found = [self._rows[number].file for (number,) in rows if number in self._rows]
        return found[:count]

    def _update(self, files: list[FoundFile]) -> None:
        there = {(file.root.name, file.relative): file for file in files}
        for key, number in list(self._numbers.items()):
            if there.get(key) != self._rows[number].file:
                del self._numbers[key], self._rows[number]
                self._stale += 1
        if self._stale > STALE_ROWS + len(self._rows):
            self._db.close()
            self._db = self._fresh()
        room = INDEXED_CHARACTERS - sum(row.characters for row in self._rows.values())
        self.left_out = 0
        for key, file in there.items():
            if key in self._numbers:
                continue
            check_stopped()
            try:
                text = self.read(file)
            except BrowseError:
                # No text. Its name is found all the same, and it is not read again.
                text = ""
            if len(text) > room:
                self.left_out += 1
                continue
            room -= len(text)
            self._add(key, file, text)

    def _add(self, key: tuple[str, str], file: FoundFile, text: str) -> None:
        number, self._next = self._next, self._next + 1
        spaced = _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFC", text))
        name = _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFC", clean(file.relative)))
        self._db.execute("INSERT INTO found (rowid, name, body) VALUES (?, ?, ?)", (number, name, spaced))
        self._rows[number] = _Row(file, len(text))
        self._numbers[key] = number

    def _fresh(self) -> sqlite3.Connection:
        self._rows, self._numbers, self._stale = {}, {}, 0
        db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        db.execute(_TABLE)
        return db
