"""Finding a text in a page: a page of the places where it stands."""

import re
from bisect import bisect_right
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from gptoss_mlx.tools.browser.backend import BrowseError
from gptoss_mlx.tools.browser.page import Link, Page, clean, link_mark, make_page, one_line, without_links

MOST_MATCHES: Final = 50
"""More places are not shown."""

SHOWN_LINES: Final = 4
"""Lines of a place. The next one begins after them."""


def find_in_page(page: Page, pattern: str) -> Page:
    """Where `pattern` stands in the page, whatever its case, across ends of lines too. Links count as their words.

    Raises BrowseError for a page of results, and for an empty pattern.
    """
    if page.kind != "page":
        raise BrowseError("Cannot run `find` on search results page or find results page")
    words = clean(pattern).split()
    if not words:
        raise BrowseError("`pattern` is empty; expected a text that stands in the page")
    text, places = without_links(page.text)
    begins = [begin for begin, _ in places]
    found: list[int] = []
    # Blanks and ends of lines are all the same: the model sees lines that the page does not have.
    for match in re.finditer(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE):
        begin, original = places[bisect_right(begins, match.start()) - 1]
        line = bisect_right(page.starts, original + match.start() - begin) - 1
        if not found or line >= found[-1] + SHOWN_LINES:
            found.append(line)
            if len(found) == MOST_MATCHES:
                break
    shown = one_line(pattern)
    chunks = [
        "\n".join((f"# {link_mark(number, f'match at L{line}')}", *_snippet(page, line)))
        for number, line in enumerate(found)
    ]
    finds = make_page(
        f"{page.url}/find?pattern={quote(shown)}",
        f"Find results for text: `{shown}` in `{page.title}`",
        "\n\n".join(chunks) or f"No `find` results for pattern: `{shown}`",
        {number: Link(page.url, line) for number, line in enumerate(found)},
        kind="finds",
        headed=False,
    )
    if not found or not page.file_lines:
        return finds
    # Plain text has no links: its lines stand there as they are, below the line that says where.
    numbers: list[int] = []
    for line in found:
        numbers += [0, *page.file_lines[line : line + SHOWN_LINES], 0]
    return replace(finds, path=page.path, file_lines=tuple(numbers[: len(finds.lines)]))


def _snippet(page: Page, line: int) -> list[str]:
    lines = "\n".join(page.lines[line : line + SHOWN_LINES])
    # A link that the lines cut in two has no words of its own here.
    return without_links(lines)[0].translate({ord("【"): "〖", ord("】"): "〗"}).split("\n")
