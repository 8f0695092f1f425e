"""UrlBackend: pages of the web, by their addresses. Only where the user asked for it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from gptoss_mlx.errors import UsageError
from gptoss_mlx.tools.browser.backend import BrowseError, Hit
from gptoss_mlx.tools.browser.document import EXTRA, read_document
from gptoss_mlx.tools.browser.page import Page, make_page

if TYPE_CHECKING:
    from gptoss_mlx.tools.browser.web_request import Web, WebAnswer

_TEXT_TYPES: Final = (
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-yaml",
    "application/yaml",
    "application/toml",
    "application/rtf",
)


class UrlBackend:
    """Fetches http and https. Addresses of the user's own network are refused."""

    remote = True
    searches = False
    place = "the web"

    def __init__(self, web: "Web | None" = None, *, private: bool = False) -> None:
        """`private`: addresses of private networks and of this machine may be opened, too. `web` says more.

        Raises UsageError where what reads HTML is missing.
        """
        try:
            import lxml.etree  # noqa: F401
        except ImportError as error:
            raise UsageError(f"pages of the web cannot be read without lxml; install it: {EXTRA}") from error
        if web is None:
            from gptoss_mlx.tools.browser.web_request import Web

            web = Web(private=private)
        self._web = web

    def search(self, query: str, count: int) -> Sequence[Hit]:
        raise BrowseError("There is no search of the web here; open an address instead.")

    def locate(self, address: str) -> str | None:
        from gptoss_mlx.tools.browser.web_request import check_url

        if address.lower().startswith(("http://", "https://")):
            return check_url(address)
        host = address.partition("/")[0]
        if "://" not in address and "." in host.strip(".") and not any(sign.isspace() for sign in address):
            return check_url(f"https://{address}")
        return None

    def fetch(self, url: str, *, source: bool = False) -> Page:
        answer = self._web.get(url)
        kind = _kind(answer)
        try:
            document = read_document(answer.data, kind, answer.url, charset=answer.charset, source=source)
        except BrowseError as error:
            raise BrowseError(f"`{url}` cannot be shown: {error}") from error
        text = document.text
        if answer.content_type.endswith("json") and not source:
            text = _indented(text)
        parts = urlsplit(answer.url)
        title = document.title or unquote(parts.path.rpartition("/")[2]) or parts.netloc
        return make_page(answer.url, title, text, document.links)


def _kind(answer: "WebAnswer") -> str:
    """How to read it. Raises BrowseError for what is no document."""
    kind = answer.content_type
    if kind in ("text/html", "application/xhtml+xml") or (not kind and b"<html" in answer.data[:1024].lower()):
        return "html"
    if kind == "application/pdf":
        return "pdf"
    if not kind or kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml")):
        return "text"
    raise BrowseError(f"`{answer.url}` is no page that can be read: its type is {kind[:100]}")


def _indented(text: str) -> str:
    """JSON on more than one line: found places have to have lines."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
