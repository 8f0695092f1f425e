"""F1: every key and every command, from the one table."""

from itertools import groupby
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Grid, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from gptoss_mlx.app.commands import COMMANDS, Command, keys_label


class HelpScreen(ModalScreen[None]):
    """The table of commands, by groups. Escape or F1 closes it; the arrows scroll."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,f1,q", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = "Help"
            sheet.border_subtitle = "Esc closes"
            with VerticalScroll():
                for group, commands in groupby(COMMANDS, lambda command: command.group):
                    yield Static(group, classes="group", markup=False)
                    with Grid(classes="commands"):
                        for command in commands:
                            yield Static(_keys(command), classes="keys")
                            yield Static(_what(command), classes="what")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


def _keys(command: Command) -> Content:
    word = f"/{command.word}" if command.word else ""
    return Content.assemble(
        (keys_label(command), "$footer-key-foreground bold"), "  " if command.keys and word else "", (word, "$accent")
    )


def _what(command: Command) -> Content:
    return Content.assemble(command.title, (f": {command.help}" if command.help else "", "$foreground-muted"))
