"""The tools that hold while the app runs: which there are, where they come from, and whether a call of one asks first.

What holds for a call is looked up when it comes, so that a policy that is changed holds at once, in an answer under
way too. The browser is one of them where folders, or the web, were given to it; it is made when it is first needed.
Knows no Textual.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.harmony import Message, ToolDescription
    from gptoss_mlx.tools import Policy, Tool
    from gptoss_mlx.tools.browser import Browser

BROWSER: Final = "browser"
"""As `gptoss_mlx.harmony.BROWSER.name`, which an empty screen is painted without."""


@dataclass(frozen=True, slots=True)
class Browsing:
    """What the browser may read."""

    folders: tuple[str, ...] = ()
    web: bool = False
    provider: str | None = None
    """Who searches the web; None: nobody."""

    def __bool__(self) -> bool:
        return bool(self.folders or self.web or self.provider)


@dataclass(frozen=True, slots=True)
class Source:
    """A tool, and where it comes from."""

    tool: "Tool | Browser | None"
    """None: the browser, which cannot be used; `problem` says why."""
    place: str
    """As the user named it: `--tool calc.py:multiply`."""
    problem: str = ""

    @property
    def name(self) -> str:
        """By which policies and switches know it."""
        return BROWSER if self.tool is None else self.tool.name

    @property
    def tools(self) -> "tuple[Tool, ...]":
        """What the model can call."""
        from gptoss_mlx.tools import ToolGroup

        if self.tool is None:
            return ()
        return self.tool.tools if isinstance(self.tool, ToolGroup) else (self.tool,)


class Toolbox:
    """The tools, and what the user said of them."""

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        run_all: bool = False,
        browsing: Browsing | None = None,
        kept: "Callable[[], Mapping[str, Policy]]" = dict,
    ) -> None:
        """`run_all`: what would ask runs at once (`--yes`); `browsing`: what the command line lets the browser read, in
        place of the preferences; `kept` gives the preferences' policies by name.

        Raises UsageError when two tools have one name.
        """
        self.kept: Callable[[], Mapping[str, Policy]] = kept
        self.preferred_browsing: Callable[[], Browsing] = Browsing
        """What the preferences let the browser read."""
        self._given = tuple(sources)
        self._browsing = browsing
        self._browser: tuple[Browsing, Source] | None = None
        """What it was made for, and the browser."""
        self._making = threading.Lock()
        self._run_all = run_all
        self._chosen: dict[str, Policy] = {}
        """By name: what was chosen since the app began."""
        places: dict[str, str] = {BROWSER: "--browse"} if browsing else {}
        for source in self._given:
            other = places.setdefault(source.name, source.place)
            if other is not source.place:
                raise UsageError(f"{other} and {source.place} are both called {source.name!r}; expected each name once")

    @property
    def sources(self) -> tuple[Source, ...]:
        """All tools."""
        browsing = self._browsing or self.preferred_browsing()
        if not browsing or any(source.name == BROWSER for source in self._given):
            return self._given
        # Asked for on several threads; what it has read belongs to one browser.
        with self._making:
            if self._browser is None or self._browser[0] != browsing or self._browser[1].problem:
                self._browser = browsing, self._make_browser(browsing)
            return (*self._given, self._browser[1])

    def _make_browser(self, browsing: Browsing) -> Source:
        from gptoss_mlx.tools.browser import make_browser

        try:
            browser = make_browser(browsing.folders, web=browsing.web, provider=browsing.provider)
        except UsageError as error:
            return Source(None, ", ".join(browsing.folders) or "the web", str(error))
        return Source(browser, browser.place)

    def _source(self, name: str) -> Source | None:
        return next((source for source in self.sources if source.name == name), None)

    def said(self, name: str) -> "Policy | None":
        """What the user said of that tool: what was chosen last, else the preferences' word."""
        return self._chosen.get(name) or self.kept().get(name)

    def policy(self, name: str) -> "Policy":
        """What holds for the tool of that name: what the user said, else its own."""
        if name in self._chosen:
            return self._chosen[name]
        source = self._source(name)
        own = None if source is None or source.tool is None else source.tool.policy
        said = self.kept().get(name) or own
        if said is not None and said != "ask":
            return said
        return "always" if self._run_all else "ask"

    def place(self, name: str) -> str:
        """Where the tool of that name comes from; empty where there is none."""
        source = self._source(name)
        return "" if source is None else source.place

    def choose(self, name: str, policy: "Policy") -> None:
        """The policy of that tool from now on, while the app runs."""
        self._chosen[name] = policy

    def offered(self, off: Collection[str] = ()) -> "list[ToolDescription]":
        """The tools that a model is told of, those in `off` left out. Each asks, so that the policy of the moment
        holds. Raises UsageError where one cannot be used."""
        offered: list[ToolDescription] = []
        for source in self.sources:
            if source.name in off:
                continue
            if source.problem:
                raise UsageError(
                    f"the browser cannot be used: {source.problem}; correct `browse` in the settings, or switch the "
                    "browser off (F6)"
                )
            for tool in source.tools:
                asks = None if tool.asks is None else _Asks(self, source.name, tool.asks)
                offered.append(replace(tool, policy="ask", asks=asks))
        return offered


@dataclass(frozen=True, slots=True)
class _Asks:
    """Whether a call is decided on by the policies: where the user said nothing, the tool knows calls that need not."""

    toolbox: Toolbox
    name: str
    own: "Callable[[Mapping[str, Any], Sequence[Message]], bool]"

    def __call__(self, arguments: Mapping[str, Any], conversation: "Sequence[Message]") -> bool:
        return self.toolbox.said(self.name) is not None or self.own(arguments, conversation)
