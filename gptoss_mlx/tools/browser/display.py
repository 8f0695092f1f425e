"""A part of a page as the model reads it.

[3] Title (address)
**viewing lines [0 - 24] of 120**

L0: the first line
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from gptoss_mlx.tools.browser.backend import BrowseError
from gptoss_mlx.tools.browser.page import Page, one_line

VIEW_TOKENS: Final = 1024
"""Of a page, as much is shown as the model did not say how much it wants."""

MOST_TOKENS: Final = 4 * VIEW_TOKENS
"""As much is shown at most, however many lines the model asks for."""

_LONGEST_ADDRESS: Final = 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown."""

    text: str
    first: int
    """Number of the first line"""
    last: int
    """and of the last."""


def show_page(
    page: Page,
    cursor: int,
    first: int = 0,
    num_lines: int = 0,
    *,
    count_tokens: Callable[[str], int],
    view_tokens: int = VIEW_TOKENS,
    characters: int = 20_000,
) -> Shown:
    """The page from line `first` on: `num_lines` of it, or (0 or less) `view_tokens`; never more than `characters`.

    Raises BrowseError for a line that the page does not have.
    """
    total = len(page.lines)
    if not 0 <= first < total:
        raise BrowseError(f"Invalid location parameter: `{first}`. Cannot exceed page maximum of {total - 1}.")
    wanted = total - first if num_lines <= 0 else min(num_lines, total - first)
    budget = view_tokens if num_lines <= 0 else max(view_tokens, MOST_TOKENS)
    # The head is at most as long as its parts, and the two numbers of the scroll bar.
    head = f"[{cursor}] {_heading(page)}\n**viewing lines [{first} - {total}] of {total - 1}**\n\n"
    room = characters - len(head)
    shown: list[str] = []
    for number in range(first, first + wanted):
        line = f"L{number}: {page.lines[number]}"
        budget -= count_tokens(line + "\n")
        room -= len(line) + 1
        # The line in which the budget ends is shown, and one line always.
        if shown and room < 0:
            break
        shown.append(line)
        if budget <= 0:
            break
    last = first + len(shown) - 1
    bar = f"**viewing lines [{first} - {last}] of {total - 1}**"
    return Shown(f"[{cursor}] {_heading(page)}\n{bar}\n\n" + "\n".join(shown), first, last)


def _heading(page: Page) -> str:
    address = shown_address(page.url)
    return f"{page.title} ({address})" if address else page.title


def shown_address(url: str) -> str:
    """An address for reading, cut if it is very long."""
    address = one_line(unquote(url))
    return address if len(address) <= _LONGEST_ADDRESS else address[: _LONGEST_ADDRESS - 3] + "..."
