"""F6: the tools: what the model may call, where each comes from, whether it asks before it runs, and its schema; and
the servers that they come from, how each is, and why.

What is changed holds at once: a policy for every conversation (kept by the tool's name), a switch for the conversation
below from its next answer on. A server's own line stands for all of its tools.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from gptoss_mlx.app.displayed_text import count_of, displayable
from gptoss_mlx.app.preferences import POLICIES
from gptoss_mlx.app.toolbox import all_of

if TYPE_CHECKING:
    from gptoss_mlx.app.tool_servers import ToolServers
    from gptoss_mlx.app.toolbox import Source, Toolbox
    from gptoss_mlx.tools import Policy, Tool
    from gptoss_mlx.tools.mcp import McpServer

_KEYS: Final = "Enter on or off in this conversation  p ask, always or never"

_SERVER_KEYS: Final = f"{_KEYS}  r restart a server"

_MORE: Final = (
    "More come with the command, or with the settings file:\n"
    "  gptoss chat --tool calc.py:multiply    a function, with type hints and a docstring\n"
    "  gptoss chat --browse ~/notes           a folder to search and read\n"
    '  gptoss chat --mcp "npx -y @modelcontextprotocol/server-filesystem ."'
)
"""Said where there is only what comes with the app."""

_WORDS: Final = {"ask": "asks first", "always": "runs at once", "never": "never runs"}


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the list: a tool, a server, or one of the settings that cannot be."""

    name: str
    """By which policy and switch go."""
    server: str = ""
    """The name of the server that it belongs to, if any."""
    source: "Source | None" = None
    of: "McpServer | None" = None
    problem: str = ""


class ToolsScreen(ModalScreen[None]):
    """The list of tools, and below it the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f6", "dismiss", "Close"),
        Binding("p", "policy", "Ask, always, never"),
        Binding("space", "switch", "On or off"),
        Binding("r", "restart", "Restart a server"),
    ]

    def __init__(
        self,
        toolbox: "Toolbox",
        off: Collection[str],
        *,
        switch: Callable[[str, bool], object],
        choose: "Callable[[str, Policy], object]",
        servers: "ToolServers | None" = None,
    ) -> None:
        """`off` names the tools that the conversation's model is not told of; `switch` changes that, `choose` the
        policy of a tool."""
        super().__init__()
        self._toolbox = toolbox
        self._off = set(off)
        self._switch = switch
        self._choose = choose
        self._servers = servers
        self._lines: list[_Line] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = "Tools"
            sheet.border_subtitle = "Esc closes"
            has_servers = self._servers is not None and self._servers.wanted
            yield OptionList(markup=False)
            with VerticalScroll(can_focus=False):
                yield Static(id="details", markup=False)
            yield Static(_SERVER_KEYS if has_servers else _KEYS, classes="note", markup=False)
            if not self._toolbox.own and not has_servers:
                yield Static(_MORE, classes="note", markup=False)

    def on_mount(self) -> None:
        self.show_lines()

    def show_lines(self) -> None:
        """Shows what there is now; the cursor stays where it was."""
        if not (found := self.query(OptionList)):
            return
        listing, at = found.first(), self._chosen()
        self._lines = self._read_lines()
        listing.set_options(Option(self._row(line)) for line in self._lines)
        names = [line.name for line in self._lines]
        listing.highlighted = names.index(at.name) if at is not None and at.name in names else 0 if names else None
        self._explain()

    def show_off(self, name: str) -> None:
        """The tool cannot be switched on."""
        self._off.add(name)
        self.show_lines()

    def _read_lines(self) -> list[_Line]:
        lines = [_Line(source.name, source=source) for source in self._toolbox.listed]
        if self._servers is None:
            return lines
        lines += [_Line(all_of(name), problem=problem) for name, problem in self._servers.problems.items()]
        # What failed comes first: long lists would hide it.
        for server in sorted(self._servers.servers, key=lambda server: server.state != "failed"):
            lines.append(_Line(all_of(server.name), server.name, of=server))
            lines += [_Line(source.name, server.name, source=source) for source in self._toolbox.sources_of(server)]
        return lines

    def on_option_list_option_highlighted(self) -> None:
        self._explain()

    def on_option_list_option_selected(self) -> None:
        self.action_switch()

    def action_switch(self) -> None:
        """The conversation's model is told of the tool, or not any more."""
        if (line := self._chosen()) is not None and not line.problem:
            self._off ^= {line.name}
            self._switch(line.name, line.name not in self._off)
            self.show_lines()

    def action_policy(self) -> None:
        """The next policy, for every conversation."""
        if (line := self._chosen()) is not None and not line.problem:
            now = POLICIES.index(self._toolbox.policy(line.name))
            self._choose(line.name, POLICIES[(now + 1) % len(POLICIES)])
            self.show_lines()

    def action_restart(self) -> None:
        """The server under the cursor, or that of the tool there, is ended and started again."""
        if (line := self._chosen()) is not None and line.server and self._servers is not None:
            self._servers.restart(line.server)
            self.show_lines()

    def _chosen(self) -> _Line | None:
        listing = self.query(OptionList)
        if not listing or (place := listing.first().highlighted) is None or place >= len(self._lines):
            return None
        return self._lines[place]

    def _explain(self) -> None:
        line = self._chosen()
        self.query_one("#details", Static).update(Content("") if line is None else _details(line))

    def _row(self, line: _Line) -> Content:
        if line.problem:
            return Content.assemble("✗ ", (displayable(line.name), "bold"), f"  {displayable(line.problem)}")
        of_server = bool(line.server) and line.of is None
        on = line.name not in self._off and not (of_server and all_of(line.server) in self._off)
        failed = line.of is not None and line.of.state == "failed"
        # Why it failed is worth the room.
        policy = "" if failed else f" {self._policy(line):<13}"
        place = line.source.place if line.source is not None else _state(line.of)
        return Content.assemble(
            "  " if of_server else "",
            "● " if on else "○ ",
            (displayable(line.name).ljust(22 if of_server else 24), "bold" if on else "$text-muted"),
            f" {'on' if on else 'off here':<9}",
            policy,
            ("" if of_server else f" {displayable(place)}", "$text-muted"),
        )

    def _policy(self, line: _Line) -> str:
        """Whether it asks, in two words."""
        policy = self._toolbox.policy(line.name)
        if line.source is None:
            return _WORDS[policy]
        if line.source.problem:
            return "not usable"
        # The tool asks only where it has to, unless the user said more.
        if policy == "ask" and self._toolbox.said(line.name) is None and any(tool.asks for tool in line.source.tools):
            return "asks for web"
        return _WORDS[policy]


def _state(server: "McpServer | None") -> str:
    """How a server is, in a few words."""
    if server is None:
        return ""
    match server.state:
        case "ready":
            return count_of(len(server.tools), "tool")
        case "starting":
            return "starting…"
        case "crashed":
            return "crashed; starts again when it is called"
        case "failed":
            return f"failed: {server.reason}"
    return "off"


def _details(line: _Line) -> Content:
    if line.source is not None:
        return _told_of(line.source)
    if line.of is None:
        return Content(displayable(line.problem))
    server = line.of
    parts = [f"{_state(server)}, started by: {server.spec.place}"]
    if server.state == "crashed":
        parts.append(server.reason)
    if server.tools and server.tools[0].namespace.description:
        parts.append(f"It tells the model:\n{server.tools[0].namespace.description}")
    parts.append(f"What it says on standard error is in {server.log_file}")
    return Content(displayable("\n\n".join(parts)))


def _told_of(source: "Source") -> Content:
    place = f"from {displayable(source.place)}"
    if source.problem:
        return Content(f"{place}\n\nIt cannot be used: {displayable(source.problem)}")
    return Content("\n\n".join([place, *map(_description, source.tools)]))


def _description(tool: "Tool") -> str:
    told = displayable(tool.description) or "without a description"
    if tool.namespace.is_tool(tool.name):
        return told
    schema = json.dumps(tool.parameters or {"type": "object", "properties": {}}, indent=2, ensure_ascii=False)
    return f"{told}\n\n{displayable(schema)}"
