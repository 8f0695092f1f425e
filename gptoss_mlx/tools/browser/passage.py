"""The part of a page that answers a query best."""

from collections import Counter
from typing import Final

from gptoss_mlx.tools.browser.folder_index import words_of
from gptoss_mlx.tools.browser.page import Page, without_links

PASSAGE_LINES: Final = 3
SUMMARY_CHARACTERS: Final = 300


def best_passage(page: Page, query: str) -> tuple[int | None, str]:
    """The line of the page where the best passage begins, and the passage; of a page in which no word of the query
    stands, its beginning."""
    wanted = {_stem(word) for word in words_of(query)}
    hits = [wanted & {_stem(word) for word in words_of(line)} for line in page.lines]
    spread = Counter(word for hit in hits for word in hit)
    best, most = None, 0.0
    for number, hit in enumerate(hits):
        if not hit:
            continue
        near = set().union(*hits[number : number + PASSAGE_LINES])
        # Words that stand in few lines say more.
        worth = sum(1.0 + 1.0 / spread[word] for word in near) + 0.1 * len(hit)
        if worth > most:
            best, most = number, worth
    at = _beginning(page) if best is None else best
    text = without_links("\n".join(page.lines[at : at + PASSAGE_LINES]))[0]
    return best, " ".join(text.split())[:SUMMARY_CHARACTERS]


def _stem(word: str) -> str:
    """As good as is needed to tell where a word stands that the index found."""
    return word if len(word) < 5 else word[: max(4, len(word) - 3)]


def _beginning(page: Page) -> int:
    """The first line with text below the address."""
    return next((number for number, line in enumerate(page.lines) if number > 1 and line.strip()), 0)
