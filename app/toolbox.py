"""The tools that hold while the app runs: which there are, where they come from, and whether a call of one asks first.

What holds for a call is looked up when it comes, so that a policy that is changed holds at once, in an answer under
way too. A function goes by its name, a server's tool by `server.tool`, all tools of a server by `server.*`. The browser
is there where folders, or the web, were given to it; Python always, where it is switched on. Knows no Textual.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.harmony import Message, ToolDescription
    from gptoss_mlx.tools import Policy, Tool, ToolSource
    from gptoss_mlx.tools.mcp import McpServer

BROWSER: Final = "browser"
"""As `gptoss_mlx.harmony.BROWSER.name`, which an empty screen is painted without."""

PYTHON: Final = "python"
"""The tool that comes with the app, off until it is switched on; as `gptoss_mlx.python_sandbox.tool.NAME`."""


def all_of(server: str) -> str:
    """The name for all tools of that server."""
    return f"{server}.*"


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
    """A tool, or several that go by one name, and where it comes from."""

    tool: "Tool | ToolSource | None"
    """None: the browser, which cannot be used; `problem` says why."""
    place: str
    """As the user named it: `--tool calc.py:multiply`."""
    problem: str = ""

    @property
    def name(self) -> str:
        """By which policies and switches know it: `multiply`, `files.read` of a server, `browser`, `python`."""
        # An empty screen is painted without what tools are made of.
        from gptoss_mlx.tools import ToolSource, short_name

        if self.tool is None:
            return BROWSER
        return self.tool.name if isinstance(self.tool, ToolSource) else short_name(self.tool.full_name)

    @property
    def tools(self) -> "tuple[Tool, ...]":
        """What the model can call."""
        from gptoss_mlx.tools import ToolSource

        if self.tool is None:
            return ()
        return tuple(self.tool.offered_tools()) if isinstance(self.tool, ToolSource) else (self.tool,)

    @property
    def policy(self) -> "Policy | None":
        """What it says itself."""
        return getattr(self.tool, "policy", None)


class Toolbox:
    """The tools, and what the user said of them."""

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        run_all: bool = False,
        browsing: Browsing | None = None,
        unsandboxed: bool = False,
        kept: "Callable[[], Mapping[str, Policy]]" = dict,
        servers: "Callable[[], Sequence[McpServer]]" = tuple,
    ) -> None:
        """`run_all`: what would ask runs at once (`--yes`); `browsing`: what the command line lets the browser read, in
        place of the preferences; `unsandboxed` has Python run without a sandbox; `kept` gives the preferences' policies
        by name, `servers` those whose tools there are, too.

        Raises UsageError when two tools have one name.
        """
        self.kept: Callable[[], Mapping[str, Policy]] = kept
        self.servers: Callable[[], Sequence[McpServer]] = servers
        self.preferred_browsing: Callable[[], Browsing] = Browsing
        """What the preferences let the browser read."""
        self._given = tuple(sources)
        self._browsing = browsing
        self._browser: tuple[Browsing, Source] | None = None
        """What it was made for, and the browser."""
        self._making = threading.Lock()
        self._run_all = run_all
        self._unsandboxed = unsandboxed
        self._chosen: dict[str, Policy] = {}
        """By name: what was chosen since the app began."""
        places: dict[str, str] = {BROWSER: "--browse"} if browsing else {}
        for source in self._given:
            other = places.setdefault(source.name, source.place)
            if other is not source.place:
                raise UsageError(f"{other} and {source.place} are both called {source.name!r}; expected each name once")

    # Which there are

    @property
    def own(self) -> tuple[Source, ...]:
        """Those that are no server's, and not Python."""
        browsing = self._browsing or self.preferred_browsing()
        if not browsing or any(source.name == BROWSER for source in self._given):
            return self._given
        # Asked for on several threads; what it has read belongs to one browser.
        with self._making:
            if self._browser is None or self._browser[0] != browsing or self._browser[1].problem:
                self._browser = browsing, self._make_browser(browsing)
            return (*self._given, self._browser[1])

    @property
    def sources(self) -> tuple[Source, ...]:
        """All tools that there are now, but Python."""
        return (*self.own, *(source for server in self.servers() for source in self.sources_of(server)))

    @property
    def listed(self) -> tuple[Source, ...]:
        """All that are no server's: Python, too, where none of them has its name."""
        return (*self.own, *([self._python] if self.has_python else []))

    def sources_of(self, server: "McpServer") -> tuple[Source, ...]:
        """The tools of that server, while it can be called."""
        there = server.state in ("ready", "crashed", "starting")
        return tuple(Source(tool, f"MCP server {server.name}") for tool in (server.tools if there else ()))

    @property
    def has_python(self) -> bool:
        """Whether `python` is the tool that comes with the app."""
        return all(source.name != PYTHON for source in self._given)

    def check_python(self) -> None:
        """Looks whether Python can run here; takes a moment. Raises SandboxError, saying why not."""
        from gptoss_mlx.python_sandbox.session import check_sandbox

        check_sandbox(unsandboxed=self._unsandboxed)

    @cached_property
    def _python(self) -> Source:
        # Imported when it is wanted.
        from gptoss_mlx.python_sandbox.tool import make_python_tool

        place = "built in, WITHOUT A SANDBOX" if self._unsandboxed else "built in, in a sandbox"
        # Whether there can be one is looked at when it is switched on, beside the keys.
        return Source(make_python_tool(unsandboxed=self._unsandboxed, check=False), place)

    def _make_browser(self, browsing: Browsing) -> Source:
        from gptoss_mlx.tools.browser import make_browser

        try:
            browser = make_browser(browsing.folders, web=browsing.web, provider=browsing.provider)
        except UsageError as error:
            return Source(None, ", ".join(browsing.folders) or "the web", str(error))
        return Source(browser, browser.place)

    def _source(self, name: str) -> Source | None:
        if name == PYTHON and self.has_python:
            return self._python
        return next((source for source in self.sources if source.name == name), None)

    def place(self, name: str) -> str:
        """Where the tool of that name comes from; empty where there is none."""
        source = self._source(name)
        return "" if source is None else source.place

    # Whether a call asks

    def said(self, name: str) -> "Policy | None":
        """What the user said of the tool, or all tools of a server, of that name: what was chosen last, else the
        preferences' word, else the same of its server."""
        namespace, dot, tool = name.rpartition(".")
        kept = self.kept()
        for key in (name, all_of(namespace)) if dot and tool != "*" else (name,):
            if (said := self._chosen.get(key) or kept.get(key)) is not None:
                return said
        return None

    def policy(self, name: str) -> "Policy":
        """What holds for the tool, or all tools of a server, of that name: what the user said, else its own word."""
        if name in self._chosen:
            return self._chosen[name]
        policy = self.said(name) or self._own_policy(name)
        return "always" if policy == "ask" and self._run_all else policy

    def _own_policy(self, name: str) -> "Policy":
        for server in self.servers():
            if name == all_of(server.name):
                return server.spec.policy
        source = self._source(name)
        return (None if source is None else source.policy) or "ask"

    def choose(self, name: str, policy: "Policy") -> None:
        """The policy of that tool, or of all tools of a server, from now on, while the app runs."""
        self._chosen[name] = policy

    # What a model is told of

    def offered(self, off: Collection[str] = (), *, python: bool = False) -> "list[ToolDescription]":
        """The tools that a model is told of, those in `off` left out, and with `python`, Python. Each asks, so that
        the policy of the moment holds. Raises UsageError where one cannot be used."""
        sources = [
            source
            for source in self.sources
            if source.name not in off and all_of(source.name.rpartition(".")[0]) not in off
        ]
        if python and self.has_python:
            sources.append(self._python)
        offered: list[ToolDescription] = []
        for source in sources:
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
