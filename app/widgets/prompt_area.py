"""PromptArea: the text area in which a message is written.

Enter sends; Ctrl+J, Alt+Enter, Shift+Enter (where the terminal tells it from Enter) and a backslash before Enter make a
new line. Pasted text never sends. While paths are on offer, Up and Down choose, Tab and Enter take, Esc closes. Up in
the first row and Down in the last recall earlier messages; what was written, and what was changed in an earlier one, is
still there on the way back.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from gptoss_mlx.app.terminal_keys import OTHER_ENTERS, know_alt_enter
from gptoss_mlx.app.widgets.path_completion import PathCompletion, mention, mentioned_path

PLACEHOLDER = "Ask anything · Enter sends · ^J new line · @ file · ↑ history"


class PromptArea(TextArea):
    """Where the user writes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send"),
        Binding("ctrl+j,alt+enter,shift+enter", "new_line", "New line", key_display="^j"),
    ]

    class Sent(Message):
        """Enter was pressed on something that can be sent."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, history: Callable[[], Sequence[str]], completion: PathCompletion) -> None:
        """`history` gives the earlier messages, oldest first; `completion` is the list above the area."""
        super().__init__(
            placeholder=PLACEHOLDER, tab_behavior="focus", soft_wrap=True, compact=True, highlight_cursor_line=False
        )
        know_alt_enter()
        self._history = history
        self._completion = completion
        self._recalled: list[str] = []
        """Earlier messages and, last, what was being written; with the changes made while going through them."""
        self._place = 0
        """Which of them is in the area; only while there are any."""

    @property
    def before_cursor(self) -> str:
        """The cursor's line up to the cursor."""
        row, column = self.cursor_location
        return self.document.get_line(row)[:column]

    def put(self, text: str) -> None:
        """Replaces all text, as an edit that can be undone; the cursor goes to the end."""
        self.replace(text, self.document.start, self.document.end)
        self.move_cursor(self.document.end)

    def forget_recalled(self) -> None:
        """What is in the area is a new message."""
        self._recalled = []

    def action_send(self) -> None:
        """Sends; after a backslash makes a new line in its place."""
        if self.before_cursor.endswith("\\"):
            row, column = self.cursor_location
            self.replace("\n", (row, column - 1), (row, column))
        elif self.text.strip():
            self.post_message(self.Sent(self.text))

    def action_new_line(self) -> None:
        """Begins a new line."""
        self._insert("\n")

    async def _on_key(self, event: events.Key) -> None:
        if self._completion.open and event.key in ("up", "down", "tab", "enter", "escape"):
            event.stop()
            event.prevent_default()
            if event.key in ("up", "down"):
                self._completion.move(-1 if event.key == "up" else 1)
            elif event.key == "escape":
                self._completion.offer([])
            else:
                self._take_path()
        elif event.key in OTHER_ENTERS:
            event.stop()
            event.prevent_default()
            self.action_new_line()
        elif event.key == "enter":
            # The base class would make a new line of it; here its binding is to have it.
            event.prevent_default()

    def _take_path(self) -> None:
        """Puts the marked path in place of the "@" word; a folder goes on being completed."""
        path, written = self._completion.chosen, mentioned_path(self.before_cursor)
        if path is None or written is None:
            return
        folder = path.endswith("/")
        row, column = self.cursor_location
        begin = self.before_cursor.rindex("@", 0, column - len(written))
        text = mention(path, done=not folder) + ("" if folder else " ")
        self._completion.offer([])
        self.move_cursor(self.replace(text, (row, begin), (row, column)).end_location)

    async def _on_paste(self, event: events.Paste) -> None:
        # Some terminals send line ends as they are typed.
        event.prevent_default()
        event.stop()
        self._insert(event.text.replace("\r\n", "\n").replace("\r", "\n"))

    def _insert(self, text: str) -> None:
        start, end = self.selection
        result = self.replace(text, start, end, maintain_selection_offset=False)
        self.move_cursor(result.end_location)

    def action_cursor_up(self, select: bool = False) -> None:
        """Goes up a row; from the first one to the message before."""
        if select or self.wrapped_document.location_to_offset(self.cursor_location).y > 0 or not self._recall(-1):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Goes down a row; from the last one to the message after."""
        row = self.wrapped_document.location_to_offset(self.cursor_location).y
        if select or row < self.wrapped_document.height - 1 or not self._recall(1):
            super().action_cursor_down(select)

    def _recall(self, step: int) -> bool:
        """Puts an earlier (-1) or later message into the area; False if there is none."""
        if not self._recalled:
            self._recalled = [*self._history(), self.text]
            self._place = len(self._recalled) - 1
        if not 0 <= self._place + step < len(self._recalled):
            return False
        self._recalled[self._place] = self.text
        self._place += step
        self.put(self._recalled[self._place])
        if step < 0:
            # One more Up goes further back, however many rows the message has.
            self.move_cursor(self.document.start)
        return True
