"""A page as the browser keeps it: text in lines of 80 columns, and the links that stand in it.

The form is the one that gpt-oss was trained with: an empty line, `URL: ...`, then the text; links are
`【id†text†domain】`. Brackets that a page itself contains are replaced, so that no page can make a link or a citation.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

WIDTH: Final = 80
"""Columns of a line."""

LONGEST: Final = 2_000_000
"""Characters of a page; what follows is cut, which the page says."""

_PIECE: Final = 4096
"""Longer lines are wrapped in pieces: wrapping a word takes time with the square of its length."""

_TITLE: Final = 200
"""Characters of a title."""

_SIGNS: Final = str.maketrans(
    {
        "【": "〖",
        "】": "〗",
        "\u200b": None,
        # They end lines for some readers of text and not for others; here, only a line feed does.
        **dict.fromkeys("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", " "),
    }
)

PageKind: TypeAlias = Literal["page", "results", "finds"]
"""A page, results of a search, or places found in a page."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads."""

    url: str
    line: int | None = None
    """The line there that it is about."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the model can look at. `make_page` makes it."""

    url: str
    """Empty for results of a search."""
    title: str
    text: str
    """The lines, before they were wrapped."""
    lines: tuple[str, ...]
    starts: tuple[int, ...]
    """For every line, at which character of `text` it begins."""
    links: Mapping[int, Link] = field(default_factory=dict)
    kind: PageKind = "page"
    path: str | None = None
    """The file that it was made of."""
    file_lines: tuple[int, ...] = ()
    """For every line the line of the file, from 1 (0: of none); empty where it is no plain text of a file."""


def make_page(
    url: str,
    title: str,
    body: str,
    links: Mapping[int, Link] | None = None,
    *,
    kind: PageKind = "page",
    path: str | None = None,
    plain: bool = False,
    headed: bool = True,
) -> Page:
    """A page of `body`, which is clean text (`clean`) with links in it.

    `plain`: it is the text of the file `path`, line for line. `headed`: the line `URL:` stands above it.
    """
    if len(body) > LONGEST:
        body = f"{body[:LONGEST]}\n[the page was cut here: it is longer than {LONGEST} characters]"
    head = f"\nURL: {one_line(url)}\n" if headed else ""
    lines: list[str] = []
    starts: list[int] = []
    numbers: list[int] = []
    at = 0
    text = head + body
    for number, line in enumerate(text.split("\n"), 1 - head.count("\n")):
        begin = at
        for part in wrap_line(line):
            lines.append(part)
            starts.append(begin)
            numbers.append(max(number, 0))
            begin += len(part)
        at += len(line) + 1
    return Page(
        url=url,
        title=one_line(title)[:_TITLE],
        text=text,
        lines=tuple(lines),
        starts=tuple(starts),
        links=dict(links or {}),
        kind=kind,
        path=path,
        file_lines=tuple(numbers) if plain and path is not None else (),
    )


def clean(text: str) -> str:
    """Text of anywhere as a page can hold it: line feeds end its lines, tabs are blanks, no brackets of links."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_SIGNS)
    # Half of a surrogate pair could not be encoded for the model.
    return text.expandtabs(8).encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """The same as one line, blanks run together."""
    return " ".join(clean(text).split())


def wrap_line(line: str) -> list[str]:
    """One line in parts of at most 80 columns; together they are the line."""
    if len(line) <= WIDTH:
        return [line]
    parts: list[str] = []
    for at in range(0, len(line), _PIECE):
        piece = line[at : at + _PIECE]
        parts += textwrap.wrap(piece, WIDTH, replace_whitespace=False, drop_whitespace=False)
    return parts


def link_mark(number: int, text: str, domain: str = "") -> str:
    """A link as it stands in a page."""
    shown = one_line(text).replace("†", "‡")
    return f"【{number}†{shown}†{domain}】" if domain else f"【{number}†{shown}】"


_LINK: Final = re.compile(r"【\d+†([^【】†]*)(?:†[^【】†]*)?】")


def without_links(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text with links as their words, and where its pieces come from: (place in it, place in `text`), ascending."""
    pieces: list[str] = []
    places: list[tuple[int, int]] = []
    length = at = 0
    for match in _LINK.finditer(text):
        for begin, end in ((at, match.start()), match.span(1)):
            places.append((length, begin))
            pieces.append(text[begin:end])
            length += end - begin
        at = match.end()
    places.append((length, at))
    pieces.append(text[at:])
    return "".join(pieces), places


def domain_of(url: str) -> str:
    """The host of an address; of a file, the name of its folder."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def number_links(urls: Iterable[str]) -> dict[int, Link]:
    """Links by number."""
    return {number: Link(url) for number, url in enumerate(urls)}
