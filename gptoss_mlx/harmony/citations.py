"""Citations as gpt-oss writes them, and the first line of a page as its browser shows it.

Source: the description of the browser tool (`BROWSER`); openai/gpt-oss's own browser for what a display looks like.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MARK = re.compile(r"【(?P<cursor>\d{1,9})(?:†(?P<place>[^【】†\n]{0,200})(?:†[^【】\n]{0,200})?)?】")
_LINES = re.compile(r"L(\d{1,9})(?:\s*[-–—]\s*L?(\d{1,9}))?")
_HEADER = re.compile(
    r"\[(?P<cursor>\d{1,9})\] (?P<title>[^\n]*?)(?: \((?P<url>[^\n()]+(?:\([^\n()]*\)[^\n()]*)*)\))?"
    r"\n\*\*viewing lines \[\d+ - \d+\] of \d+\*\*\n"
)


_HEADER_CHARACTERS = 4096
"""The first two lines of a display have no more."""


@dataclass(frozen=True, slots=True)
class CitationMark:
    """`【6†L9-L11】` in a text."""

    start: int
    """From this character"""
    end: int
    """up to, but not including, this one."""
    cursor: int
    """Which display."""
    lines: tuple[int, int] | None
    """First and last line of it; None where it names none."""


@dataclass(frozen=True, slots=True)
class DisplayHeader:
    """The first line of a display: `[6] Title (address)`."""

    cursor: int
    title: str
    url: str
    """Unquoted, and cut if it is very long; empty for results of a search."""


def find_marks(text: str) -> Iterator[CitationMark]:
    """The citations in a text, in order. Several ranges of lines in one are the range that holds them all."""
    for match in _MARK.finditer(text):
        numbers = [int(n) for pair in _LINES.findall(match["place"] or "") for n in pair if n]
        lines = (min(numbers), max(numbers)) if numbers else None
        yield CitationMark(match.start(), match.end(), int(match["cursor"]), lines)


def read_display_header(text: str) -> DisplayHeader | None:
    """What the display shows; None for a text that is no display."""
    match = _HEADER.match(text[:_HEADER_CHARACTERS])
    return None if match is None else DisplayHeader(int(match["cursor"]), match["title"], match["url"] or "")
