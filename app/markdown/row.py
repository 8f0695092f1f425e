"""Row: one line of the screen, and how it goes on from the one before it."""

from collections.abc import Iterable
from dataclasses import dataclass

from textual.content import Content

LEAST_WIDTH = 12
"""Below this many cells nothing is indented any further."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the screen."""

    content: Content
    glue: str | None = None
    """What joins it to the row before when the text is copied: a blank within a paragraph, nothing within a word; None
    where a line begins."""
    indent: int = 0
    """Leading characters that are the screen's and not the text's, if it has a glue."""


def wrapped(content: Content, width: int) -> list[Row]:
    """The text in rows of at most `width` cells."""
    rows: list[Row] = []
    for line in content.split(allow_blank=True):
        rows += [Row(part, " " if number else None) for number, part in enumerate(line.wrap(width))]
    return rows


def prefixed(rows: Iterable[Row], first: Content, rest: Content) -> list[Row]:
    """The rows with something before each: a bullet before the first, blanks before the others."""
    return [
        Row((rest if number else first) + row.content, row.glue, row.indent + len(rest))
        for number, row in enumerate(rows)
    ]
