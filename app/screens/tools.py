"""F6: the tools: what the model may call, where each comes from, whether it asks before it runs, and its schema.

What is changed holds at once: a policy for every conversation (kept by the tool's name), a switch for the conversation
below from its next answer on.
"""

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from gptoss_mlx.app.displayed_text import displayable
from gptoss_mlx.app.preferences import POLICIES

if TYPE_CHECKING:
    from gptoss_mlx.app.toolbox import Source, Toolbox
    from gptoss_mlx.tools import Policy

_KEYS: Final = "Enter on or off in this conversation  p ask, always or never"

_MORE: Final = "Functions of yours are tools, too: gptoss chat --tool calc.py:multiply"
"""Said where there are none."""

_WORDS: Final = {"ask": "asks first", "always": "runs at once", "never": "never runs"}


class ToolsScreen(ModalScreen[None]):
    """The list of tools, and below it the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f6", "dismiss", "Close"),
        Binding("p", "policy", "Ask, always, never"),
        Binding("space", "switch", "On or off"),
    ]

    def __init__(
        self,
        toolbox: "Toolbox",
        off: Collection[str],
        *,
        switch: Callable[[str, bool], object],
        choose: "Callable[[str, Policy], object]",
    ) -> None:
        """`off` names the tools that the conversation's model is not told of; `switch` changes that, `choose` the
        policy of a tool."""
        super().__init__()
        self._toolbox = toolbox
        self._off = set(off)
        self._switch = switch
        self._choose = choose

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = "Tools"
            sheet.border_subtitle = "Esc closes"
            yield OptionList(*(Option(self._row(source)) for source in self._toolbox.listed), markup=False)
            with VerticalScroll(can_focus=False):
                yield Static(id="details", markup=False)
            yield Static(_KEYS, classes="note", markup=False)
            if not self._toolbox.sources:
                yield Static(_MORE, classes="note", markup=False)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        self.query_one("#details", Static).update(_details(self._toolbox.listed[event.option_index]))

    def on_option_list_option_selected(self) -> None:
        self.action_switch()

    def action_switch(self) -> None:
        """The conversation's model is told of the tool, or not any more."""
        if (source := self._chosen()) is not None:
            name = source.tool.name
            self._off ^= {name}
            self._switch(name, name not in self._off)
            self._show(source)

    def show_off(self, name: str) -> None:
        """The tool cannot be switched on."""
        self._off.add(name)
        for source in self._toolbox.listed:
            if source.tool.name == name:
                self._show(source)

    def action_policy(self) -> None:
        """The next policy, for every conversation."""
        if (source := self._chosen()) is not None:
            name = source.tool.name
            now = POLICIES.index(self._toolbox.policy(name))
            self._choose(name, POLICIES[(now + 1) % len(POLICIES)])
            self._show(source)

    def _chosen(self) -> "Source | None":
        listing = self.query(OptionList)
        if not listing or (place := listing.first().highlighted) is None:
            return None
        return self._toolbox.listed[place]

    def _show(self, source: "Source") -> None:
        place = self._toolbox.listed.index(source)
        self.query_one(OptionList).replace_option_prompt_at_index(place, self._row(source))

    def _row(self, source: "Source") -> Content:
        name = source.tool.name
        on = name not in self._off
        return Content.assemble(
            "● " if on else "○ ",
            (displayable(name).ljust(24), "bold" if on else "$text-muted"),
            f" {'on' if on else 'off here':<9}",
            f" {_WORDS[self._toolbox.policy(name)]:<13}",
            (f" {displayable(source.place)}", "$text-muted"),
        )


def _details(source: "Source") -> Content:
    tool = source.tool
    if tool.builtin is not None:
        return Content(f"{displayable(tool.description)}\n\n{displayable(source.place)}")
    schema = json.dumps(tool.parameters or {"type": "object", "properties": {}}, indent=2, ensure_ascii=False)
    told = displayable(tool.description) or "without a description"
    return Content(f"{told}\n\nfrom {displayable(source.place)}\n\n{displayable(schema)}")
