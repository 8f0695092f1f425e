"""Browser: the tools `browser.search`, `browser.open` and `browser.find` over what a user lets the model read.

The model sees them exactly as it was trained to (`harmony.BROWSER`). What was shown is read from the conversation
(`history`), so one browser serves any number of conversations.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import Source
from gptoss_mlx.harmony import BROWSER, Message
from gptoss_mlx.json_schema import type_reader
from gptoss_mlx.tools.browser.backend import Backend, BrowseError, Hit
from gptoss_mlx.tools.browser.display import VIEW_TOKENS, show_page, shown_address
from gptoss_mlx.tools.browser.find import find_in_page
from gptoss_mlx.tools.browser.folders import FolderBackend
from gptoss_mlx.tools.browser.history import Display, History, Shelf
from gptoss_mlx.tools.browser.page import Page, one_line
from gptoss_mlx.tools.browser.results import results_page
from gptoss_mlx.tools.running import RunningCall, current_call
from gptoss_mlx.tools.tool import POLICIES, Policy, Tool, ToolGroup

MOST_RESULTS: Final = 20
"""Results of a search, at most."""

DEFAULT_RESULTS: Final = 10

LINES_ABOVE: Final = 4
"""Shown above the line that a link is about."""

_VIEW_SOURCE: Final = "view-source:"
_LINK_NUMBER: Final = re.compile(r"【?(\d{1,9})(?:†[^】]*】?)?")


@dataclass(frozen=True, slots=True)
class _Target:
    """What `open` is to show: a page at hand, or one at an address."""

    page: Page | None
    url: str
    source: bool = False
    line: int | None = None
    """The line that it is about."""


class Browser(ToolGroup):
    """Search, open and find. `tools=[Browser("notes")]` lets the model read the files of a folder.

    By itself it reaches no network: `Browser("notes", UrlBackend())` opens pages of the web, too, and with
    `ExaSearch()` or `BraveSearch()` it is searched.
    """

    name = BROWSER.name

    def __init__(
        self,
        *backends: "Backend | str | os.PathLike[str]",
        policy: Policy | None = None,
        view_tokens: int = VIEW_TOKENS,
    ) -> None:
        """`backends`: folders (or files) and other sources. `policy` by default: files are read at once, and what
        reaches the network asks. `view_tokens`: as much of a page is shown at a time.

        Raises UsageError.
        """
        folders = [each for each in backends if isinstance(each, str | os.PathLike)]
        others = [each for each in backends if not isinstance(each, str | os.PathLike)]
        self.backends: tuple[Backend, ...] = (*([FolderBackend(*folders)] if folders else []), *others)
        """In the order in which they are asked."""
        if not self.backends:
            raise UsageError("the browser has nothing to read; expected a folder, or a backend such as UrlBackend()")
        if policy is not None and policy not in POLICIES:
            raise UsageError(f"the policy of the browser is {policy!r}; expected {', '.join(POLICIES)}")
        if view_tokens < 1:
            raise UsageError(f"view_tokens is {view_tokens!r}; expected 1 or more")
        self.policy: Policy = policy or ("ask" if any(backend.remote for backend in self.backends) else "always")
        """Of its tools. With `ask`, calls that stay on this machine run at once, unless that was asked for."""
        self._asks_always = policy == "ask"
        self._view_tokens = view_tokens
        self._shelf = Shelf()

    @property
    def place(self) -> str:
        """What it reads, for people."""
        return ", ".join(backend.place for backend in self.backends)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """`search`, `open` and `find`."""
        return self._tools

    @cached_property
    def _tools(self) -> tuple[Tool, ...]:
        number = type_reader(int | None)
        readers = {
            "search": {"query": type_reader(str), "topn": number, "top_n": number, "source": _anything},
            "open": {
                "id": type_reader(int | str | None),
                **dict.fromkeys(("cursor", "loc", "num_lines"), number),
                "view_source": type_reader(bool | None),
                "source": _anything,
            },
            "find": {"pattern": type_reader(str), "cursor": number, "source": _anything},
        }
        functions: dict[str, Callable[..., str]] = {"search": self._search, "open": self._open, "find": self._find}
        return tuple(
            Tool(
                described.name,
                described.description,
                described.parameters,
                function=functions[described.name],
                policy=self.policy,
                readers=readers[described.name],
                builtin=BROWSER,
                asks=_Asks(self, described.name),
                about=_About(self, described.name),
            )
            for described in BROWSER.tools
        )

    # What the model can call

    def _search(self, query: str, topn: int | None = None, top_n: int | None = None, source: object = None) -> str:
        query = one_line(query)
        if not query:
            raise BrowseError("`query` is empty; expected what to search for")
        searching = [backend for backend in self.backends if backend.searches]
        if not searching:
            raise BrowseError("There is no search here. Use `open` with an address as `id`.")
        count = min(max(topn or top_n or DEFAULT_RESULTS, 1), MOST_RESULTS)
        found: list[Sequence[Hit]] = []
        failures: list[BrowseError] = []
        for backend in searching:
            try:
                found.append(backend.search(query, count))
            except BrowseError as error:
                failures.append(error)
        if not found:
            raise failures[0]
        hits = _in_turn(found)[:count]
        hits += [Hit("[a part of the search failed]", "", str(error)) for error in failures]
        return self._show(self._history(), results_page(query, hits))

    def _open(
        self,
        id: int | str | None = None,
        cursor: int | None = None,
        loc: int | None = None,
        num_lines: int | None = None,
        view_source: bool | None = None,
        source: object = None,
    ) -> str:
        history = self._history()
        target = self._target(history, id, cursor, view_source)
        page = self._page(target)
        first = loc if loc is not None and loc >= 0 else self._first_line(target, page)
        return self._show(history, page, first, num_lines or 0)

    def _find(self, pattern: str, cursor: int | None = None, source: object = None) -> str:
        history = self._history()
        page = self._page(self._shown_target(history, cursor))
        return self._show(history, find_in_page(page, pattern))

    # How it works

    def must_ask(self, name: str, arguments: Mapping[str, Any], conversation: Sequence[Message]) -> bool:
        """Whether a call, with a policy of `ask`, reaches the network: then somebody is asked. It does not raise."""
        if self._asks_always:
            return True
        if name == "search":
            return any(backend.remote for backend in self.backends if backend.searches)
        try:
            target = self._target_of(name, arguments, conversation)
            return target.page is None and self._backend_of(target.url)[0].remote
        except BrowseError:
            # It only says what is wrong.
            return False

    def about(self, name: str, arguments: Mapping[str, Any], conversation: Sequence[Message]) -> str:
        """The address that a call opens, where its arguments only have a number; empty where they have it."""
        if name == "search" or isinstance(arguments.get("id"), str):
            return ""
        try:
            target = self._target_of(name, arguments, conversation)
        except BrowseError:
            return ""
        return shown_address(target.url) or (target.page.title if target.page is not None else "")

    def _target_of(self, name: str, arguments: Mapping[str, Any], conversation: Sequence[Message]) -> _Target:
        history = History(conversation, self._shelf)
        if name == "find":
            return self._shown_target(history, arguments.get("cursor"))
        given = (arguments.get(each) for each in ("id", "cursor", "view_source"))
        return self._target(history, *given)

    def _target(
        self, history: History, identifier: int | str | None, cursor: int | None, view_source: bool | None
    ) -> _Target:
        """What `open` means. Raises BrowseError."""
        if isinstance(identifier, str):
            number = _LINK_NUMBER.fullmatch(identifier.strip())
            if number is None and identifier.strip() not in ("", "-1"):
                address = identifier.strip()
                as_written = address.lower().startswith(_VIEW_SOURCE)
                address = address[len(_VIEW_SOURCE) :] if as_written else address
                return _Target(None, address, source=as_written or bool(view_source))
            identifier = -1 if number is None else int(number[1])
        shown = self._shown_target(history, cursor)
        if identifier is None or identifier < 0:
            if not view_source:
                return shown
            if not shown.url or (shown.page is not None and shown.page.kind != "page"):
                raise BrowseError("Results have no source; open one of their links.")
            return _Target(None, shown.url, source=True)
        if shown.page is None:
            # Its links have gone with it. A file is read again to have them; of the web, only what was asked for is.
            if self._backend_of(shown.url)[0].remote:
                raise BrowseError(f"The page is not at hand any more; open it by its address first: `{shown.url}`.")
            shown = _Target(self._page(shown), shown.url)
        assert shown.page is not None
        link = shown.page.links.get(identifier)
        if link is None:
            raise BrowseError(f"Invalid link id `{identifier}`.")
        if view_source:
            return _Target(None, link.url, source=True)
        return _Target(history.page_of(link.url), link.url, line=link.line)

    def _shown_target(self, history: History, cursor: int | None) -> _Target:
        """What was shown under a cursor. Raises BrowseError."""
        display: Display = history.at(-1 if cursor is None or cursor < 0 else cursor)
        if display.page is not None:
            return _Target(display.page, display.page.url)
        if not display.url or "/find?pattern=" in display.url:
            raise BrowseError(
                f"What was found under cursor `{display.cursor}` is not at hand any more; search for it again."
            )
        source = display.url.startswith(_VIEW_SOURCE)
        return _Target(None, display.url.removeprefix(_VIEW_SOURCE), source)

    def _backend_of(self, address: str) -> tuple[Backend, str]:
        """Who has the page at an address, and its own address of it. Raises BrowseError."""
        for backend in self.backends:
            if (url := backend.locate(address)) is not None:
                return backend, url
        places = ", ".join(f"`{backend.place}`" for backend in self.backends if not backend.remote)
        raise BrowseError(
            f"There is no page `{one_line(address)[:200]}`: "
            + (f"no such file in {places}" if places else "expected an address with https://")
            + ("." if any(backend.remote for backend in self.backends) else ", and the web cannot be reached.")
        )

    def _page(self, target: _Target) -> Page:
        """The page. Raises BrowseError."""
        if target.page is not None:
            return target.page
        backend, url = self._backend_of(target.url)
        page = backend.fetch(url, source=target.source)
        if not target.source:
            return page
        return replace(page, url=_VIEW_SOURCE + page.url)

    @staticmethod
    def _first_line(target: _Target, page: Page) -> int:
        line = target.line
        if line is None or line >= len(page.lines):
            return 0
        return max(line - LINES_ABOVE, 0)

    def _history(self) -> History:
        """Of the conversation in which the call runs; empty outside of one."""
        call = current_call()
        return History(() if call is None else call.conversation, self._shelf)

    def _show(self, history: History, page: Page, first: int = 0, num_lines: int = 0) -> str:
        call = current_call() or RunningCall(self.name)
        cursor = history.next_cursor
        shown = show_page(
            page,
            cursor,
            first,
            num_lines,
            count_tokens=call.count_tokens,
            view_tokens=self._view_tokens,
            characters=call.result_characters,
        )
        call.source = Source(
            cursor,
            page.title,
            page.url,
            page.path,
            shown.first,
            page.file_lines[shown.first : shown.last + 1],
        )
        history.keep(page, shown.text)
        return shown.text


@dataclass(frozen=True, slots=True)
class _Asks:
    browser: Browser
    name: str

    def __call__(self, arguments: Mapping[str, Any], conversation: Sequence[Message]) -> bool:
        return self.browser.must_ask(self.name, arguments, conversation)


@dataclass(frozen=True, slots=True)
class _About:
    browser: Browser
    name: str

    def __call__(self, arguments: Mapping[str, Any], conversation: Sequence[Message]) -> str:
        return self.browser.about(self.name, arguments, conversation)


def _anything(value: Any) -> Any:
    return value


def _in_turn(found: Sequence[Sequence[Hit]]) -> list[Hit]:
    """The best of each first, then the next of each."""
    longest = max(map(len, found), default=0)
    return [hits[at] for at in range(longest) for hits in found if at < len(hits)]
