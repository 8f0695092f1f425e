"""The tools that hold while the app runs: which there are, where they come from, and whether a call of one asks first.

What holds for a call is looked up when it comes, so that a policy that is changed holds at once, in an answer under
way too. A function goes by its name, a server's tool by `server.tool`, all tools of a server by `server.*`. Knows no
Textual.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.harmony import ToolDescription
    from gptoss_mlx.tools import Policy, Tool
    from gptoss_mlx.tools.mcp import McpServer


def all_of(server: str) -> str:
    """The name for all tools of that server."""
    return f"{server}.*"


@dataclass(frozen=True, slots=True)
class Source:
    """A tool, and where it comes from."""

    tool: "Tool"
    place: str
    """As the user named it: `--tool calc.py:multiply`."""

    @property
    def name(self) -> str:
        """The name by which the app goes: `multiply`, or `files.read` for a server's tool."""
        # An empty screen is painted without what tools are made of.
        from gptoss_mlx.tools import full_name, short_name

        return short_name(full_name(self.tool))


class Toolbox:
    """The tools, and what the user said of them."""

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        run_all: bool = False,
        kept: "Callable[[], Mapping[str, Policy]]" = dict,
        servers: "Callable[[], Sequence[McpServer]]" = tuple,
    ) -> None:
        """`run_all`: what would ask runs at once (`--yes`); `kept` gives the preferences' policies by name, `servers`
        those whose tools there are, too.

        Raises UsageError when two tools have one name.
        """
        self.own = tuple(sources)
        """Those that are no server's."""
        self.kept: Callable[[], Mapping[str, Policy]] = kept
        self.servers: Callable[[], Sequence[McpServer]] = servers
        self._run_all = run_all
        self._chosen: dict[str, Policy] = {}
        """By name: what was chosen since the app began."""
        places: dict[str, str] = {}
        for source in self.own:
            other = places.setdefault(source.name, source.place)
            if other is not source.place:
                raise UsageError(f"{other} and {source.place} are both called {source.name!r}; expected each name once")

    @property
    def sources(self) -> tuple[Source, ...]:
        """All tools that there are now."""
        return (*self.own, *(source for server in self.servers() for source in self.sources_of(server)))

    def sources_of(self, server: "McpServer") -> tuple[Source, ...]:
        """The tools of that server, while it can be called."""
        there = server.state in ("ready", "crashed", "starting")
        return tuple(Source(tool, f"MCP server {server.name}") for tool in (server.tools if there else ()))

    def policy(self, name: str) -> "Policy":
        """What holds for the tool, or all tools of a server, of that name: what was chosen last, else the preferences'
        word, else the same of its server, else its own."""
        namespace, dot, tool = name.rpartition(".")
        kept = self.kept()
        for key in (name, all_of(namespace)) if dot and tool != "*" else (name,):
            if key in self._chosen:
                return self._chosen[key]
            if (said := kept.get(key)) is not None:
                return self._or_always(said)
        return self._or_always(self._own_policy(name))

    def _own_policy(self, name: str) -> "Policy":
        for server in self.servers():
            if name == all_of(server.name):
                return server.spec.policy
        found = next((source.tool for source in self.sources if source.name == name), None)
        return "ask" if found is None or found.policy is None else found.policy

    def _or_always(self, policy: "Policy") -> "Policy":
        return "always" if policy == "ask" and self._run_all else policy

    def place(self, name: str) -> str:
        """Where the tool of that name comes from; empty where there is none."""
        return next((source.place for source in self.sources if source.name == name), "")

    def choose(self, name: str, policy: "Policy") -> None:
        """The policy of that tool, or of all tools of a server, from now on, while the app runs."""
        self._chosen[name] = policy

    def offered(self, off: Collection[str] = ()) -> "list[ToolDescription]":
        """The tools that a model is told of, those in `off` left out. Each asks, so that the policy of the moment
        holds."""
        return [
            replace(source.tool, policy="ask")
            for source in self.sources
            if source.name not in off and all_of(source.name.rpartition(".")[0]) not in off
        ]
