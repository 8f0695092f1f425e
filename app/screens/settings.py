"""F5: settings, for this conversation or as the default.

Gives a `SettingsChange`, or None when all stays as it is. The theme is shown as soon as it is chosen.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Select, Static, TextArea

from gptoss_mlx.app.conversation import ChatSettings
from gptoss_mlx.app.preferences import EFFORTS, Preferences
from gptoss_mlx.app.screens.question import Question
from gptoss_mlx.app.settings_form import (
    APP_FIELDS,
    CHAT_FIELDS,
    PLACEHOLDERS,
    TITLES,
    SettingsChange,
    as_default,
    for_conversation,
    read_value,
    shown_value,
)
from gptoss_mlx.app.themes import chosen_theme, theme_names
from gptoss_mlx.errors import UsageError

_KEYS: Final = "Ctrl+S for this conversation  Ctrl+D as the default"

_SWITCH: Final = {"no": False, "yes": True}

_CHOICES: Final[Mapping[str, Callable[[], Mapping[str, Any]]]] = {
    "effort": lambda: {"medium; high with the pocket model": None, **{word: word for word in EFFORTS}},
    "overflow": lambda: {"the oldest turns are not read": "drop_oldest", "sending stops with an error": "error"},
    "theme": lambda: {name: name for name in theme_names()},
    "keep_read": lambda: _SWITCH,
    "keep_reasoning_open": lambda: _SWITCH,
    "show_statistics": lambda: _SWITCH,
}
"""Settings that are chosen from a list: words and values."""


class SettingsScreen(ModalScreen[SettingsChange | None]):
    """A form of all settings."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f5", "leave", "Close"),
        # A text field has a use of its own for Ctrl+D.
        Binding("ctrl+s", "keep(False)", "For this conversation", priority=True),
        Binding("ctrl+d", "keep(True)", "As the default", priority=True),
    ]

    def __init__(self, settings: ChatSettings, preferences: Preferences) -> None:
        """`settings` are the conversation's own: what it has not is the preferences'."""
        super().__init__()
        self._preferences = preferences
        self._old = {name: getattr(preferences, name) for name in (*CHAT_FIELDS, *APP_FIELDS)}
        self._old |= {name: value for name in CHAT_FIELDS if (value := getattr(settings, name)) is not None}

        self._shown_theme = preferences.theme

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = "Settings"
            sheet.border_subtitle = "Esc closes"
            with VerticalScroll():
                yield Static("How the model answers", classes="group")
                for name in CHAT_FIELDS:
                    yield from self._row(name)
                yield Static("The app, always", classes="group")
                for name in APP_FIELDS:
                    yield from self._row(name)
            yield Static(_KEYS, classes="note", markup=False)

    def _row(self, name: str) -> ComposeResult:
        value = self._old[name]
        with Horizontal(classes="row"):
            yield Static(TITLES[name], classes="label")
            if name == "instructions":
                yield TextArea(value or "", id=name, compact=True, tab_behavior="focus")
            elif name in _CHOICES:
                choices = _CHOICES[name]()
                known = value if value in choices.values() else next(iter(choices.values()))
                yield Select(choices.items(), value=known, allow_blank=False, compact=True, id=name)
            else:
                yield Input(shown_value(value), placeholder=PLACEHOLDERS[name], compact=True, id=name)

    def on_mount(self) -> None:
        self.query_one("#instructions").focus()

    def on_select_changed(self, event: Select.Changed) -> None:
        # The list says what it shows when it is made, too.
        if event.select.id == "theme" and event.value != self._shown_theme:
            self._shown_theme = str(event.value)
            self._wear(self._shown_theme)

    def action_keep(self, default: bool) -> None:
        values = self._values()
        if values is not None:
            keep = as_default if default else for_conversation
            self.dismiss(keep(values, self._preferences))

    @work
    async def action_leave(self) -> None:
        if self._changed() and not await self.app.push_screen_wait(
            Question("Leave without keeping what you changed?", yes="Leave", no="Stay")
        ):
            return
        self._wear(self._preferences.theme)
        self.dismiss(None)

    def _wear(self, preference: str) -> None:
        if not self.app.no_color:
            self.app.theme = chosen_theme(preference)

    def _values(self) -> dict[str, Any] | None:
        """What the form says; None, with a sentence and the cursor in the field, where it says nothing usable."""
        values: dict[str, Any] = {}
        for name in self._old:
            widget = self.query_one(f"#{name}")
            if isinstance(widget, Select):
                values[name] = widget.value
                continue
            text = widget.text if isinstance(widget, TextArea) else widget.value if isinstance(widget, Input) else ""
            try:
                values[name] = read_value(name, text)
            except UsageError as error:
                self.query_one(".note", Static).update(str(error))
                widget.focus()
                return None
        return values

    def _changed(self) -> bool:
        try:
            values = self._values()
        finally:
            self.query_one(".note", Static).update(_KEYS)
        return values != self._old
