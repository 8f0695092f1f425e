"""What a search found, as a page."""

from collections.abc import Sequence

from gptoss_mlx.tools.browser.backend import Hit
from gptoss_mlx.tools.browser.page import Link, Page, domain_of, link_mark, make_page, one_line


def results_page(query: str, hits: Sequence[Hit]) -> Page:
    """The page of results for `query`."""
    items = [
        f"  * {link_mark(number, hit.title or hit.url, domain_of(hit.url))} {one_line(hit.summary)}".rstrip()
        for number, hit in enumerate(hits)
    ]
    body = "\n".join(["# Search Results", "", *(items or [f"Nothing was found for `{one_line(query)}`."])])
    links = {number: Link(hit.url, hit.line) for number, hit in enumerate(hits)}
    return make_page("", query, body, links, kind="results")
