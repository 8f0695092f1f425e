"""HistorySearch: earlier messages in which every word of a query occurs, newest first."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input

from gptoss_mlx.app.widgets.choices import Choices

SHOWN = 50
"""Messages on offer at once."""


def matching_messages(history: Sequence[str], query: str) -> list[str]:
    """Messages with every word of the query, newest first, each once; `history` is oldest first."""
    words = query.casefold().split()
    found = (text for text in reversed(history) if all(word in text.casefold() for word in words))
    return list(dict.fromkeys(found))[:SHOWN]


class HistorySearch(Vertical):
    """A line for the query and a list above it; not on the screen until it is opened."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,ctrl+r", "move(1)", "Earlier", priority=True),
        Binding("down,ctrl+s", "move(-1)", "Later", priority=True),
        Binding("escape", "close", "Close", priority=True),
    ]

    class Closed(Message):
        """The search is over; `text` is what was chosen, None if nothing was."""

        def __init__(self, text: str | None) -> None:
            super().__init__()
            self.text = text

    def __init__(self, history: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._history = history
        self._searched: Sequence[str] = ()
        self.display = False

    def compose(self) -> ComposeResult:
        yield Choices()
        yield Input(placeholder="Search earlier messages · Enter takes one · Esc closes", compact=True)

    def open(self) -> None:
        """Begins a search."""
        self._searched = self._history()
        self.display = True
        self.query_one(Input).value = ""
        self._offer("")
        self.query_one(Input).focus()

    def _offer(self, query: str) -> None:
        choices = self.query_one(Choices)
        choices.offer(matching_messages(self._searched, query)[::-1])
        choices.move(-1)

    @on(Input.Changed)
    def _query_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._offer(event.value)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._close(self.query_one(Choices).chosen)

    def action_move(self, step: int) -> None:
        """Marks an earlier (1) or later message; the newest stands below."""
        self.query_one(Choices).move(-step)

    def action_close(self) -> None:
        """Chooses nothing."""
        self._close(None)

    def _close(self, text: str | None) -> None:
        self.display = False
        self.post_message(self.Closed(text))
