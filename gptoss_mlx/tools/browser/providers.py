"""Search of the web by a provider, with the user's key. Only where the user asked for it.

The provider reads the query, and nothing else; what it found is opened by `UrlBackend`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, get_args

from gptoss_mlx.errors import UsageError
from gptoss_mlx.tools.browser.backend import BrowseError, Hit
from gptoss_mlx.tools.browser.document import EXTRA, decode
from gptoss_mlx.tools.browser.page import Page, one_line

if TYPE_CHECKING:
    from gptoss_mlx.tools.browser.web_request import Web

ProviderName: TypeAlias = Literal["exa", "brave"]
PROVIDERS: Final[tuple[ProviderName, ...]] = get_args(ProviderName)
"""Those that are known."""

SUMMARY_CHARACTERS: Final = 500


class SearchProvider:
    """What both providers share."""

    remote = True
    searches = True
    title: ClassVar[str]
    """For people."""
    key_variable: ClassVar[str]
    """The environment variable with the user's key."""
    url: ClassVar[str]
    """Of the service."""

    def __init__(self, key: str | None = None, *, url: str | None = None, web: "Web | None" = None) -> None:
        """`key`: by default, that of the environment variable; `url`: of a service that answers in the same way.

        Raises UsageError without a key.
        """
        key = (key or os.environ.get(self.key_variable) or "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise UsageError(
                f"search by {self.title} needs your key; expected it in the environment variable {self.key_variable}"
            )
        if web is None:
            from gptoss_mlx.tools.browser.web_request import Web

            # The user, and nobody else, says where the service is.
            web = Web(private=url is not None)
        self._key = key
        self._url = url or self.url
        self._web = web

    @property
    def place(self) -> str:
        return f"search by {self.title}"

    def locate(self, address: str) -> str | None:
        return None

    def fetch(self, url: str, *, source: bool = False) -> Page:
        raise BrowseError(f"`{url}` cannot be opened: {self.title} only searches")

    def search(self, query: str, count: int) -> Sequence[Hit]:
        hits = [_hit(found) for found in self._ask(query, count)]
        return [hit for hit in hits if hit is not None][:count]

    def _ask(self, query: str, count: int) -> Sequence[Mapping[str, Any]]:
        """What was found: `title`, `url` and `summary`. Raises BrowseError."""
        raise NotImplementedError

    def _json(self, method: str, **request: Any) -> Any:
        try:
            data = self._web.ask(method, self._url, **request).data
        except BrowseError as error:
            raise BrowseError(f"The search by {self.title} failed: {error}") from error
        try:
            return json.loads(decode(data))
        except (ValueError, RecursionError) as error:
            raise BrowseError(f"The search by {self.title} failed: its answer is no JSON") from error


class ExaSearch(SearchProvider):
    """https://exa.ai"""

    title = "Exa"
    key_variable = "EXA_API_KEY"
    url = "https://api.exa.ai/search"

    def _ask(self, query: str, count: int) -> Sequence[Mapping[str, Any]]:
        wanted = {"query": query, "numResults": count, "contents": {"summary": True}}
        answer = self._json("POST", headers={"x-api-key": self._key}, json=wanted)
        return _objects(answer, "results")


class BraveSearch(SearchProvider):
    """https://brave.com/search/api"""

    title = "Brave"
    key_variable = "BRAVE_API_KEY"
    url = "https://api.search.brave.com/res/v1/web/search"

    def _ask(self, query: str, count: int) -> Sequence[Mapping[str, Any]]:
        headers = {"X-Subscription-Token": self._key, "Accept": "application/json"}
        answer = self._json("GET", headers=headers, params={"q": query, "count": str(min(count, 20))})
        found = _objects(answer.get("web") if isinstance(answer, dict) else None, "results")
        return [{**each, "summary": _without_tags(str(each.get("description") or ""))} for each in found]


_BY_NAME: Final[Mapping[ProviderName, type[SearchProvider]]] = {"exa": ExaSearch, "brave": BraveSearch}


def make_provider(name: str) -> SearchProvider:
    """The provider of that name. Raises UsageError for an unknown one, and without its key."""
    known = {str(each): kind for each, kind in _BY_NAME.items()}
    if name not in known:
        raise UsageError(f"{name!r} is no search provider; expected one of {', '.join(PROVIDERS)}")
    return known[name]()


def _objects(answer: Any, name: str) -> list[dict[str, Any]]:
    found = answer.get(name) if isinstance(answer, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _hit(found: Mapping[str, Any]) -> Hit | None:
    url = found.get("url")
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        return None
    title = one_line(str(found.get("title") or ""))[:200]
    return Hit(title or url, url, one_line(str(found.get("summary") or ""))[:SUMMARY_CHARACTERS])


def _without_tags(text: str) -> str:
    """Found words are marked with tags."""
    from gptoss_mlx.tools.browser.html_text import read_html

    try:
        return read_html(f"<p>{text}</p>", "").text
    except BrowseError as error:
        raise UsageError(f"search by Brave needs lxml; install it: {EXTRA}") from error
