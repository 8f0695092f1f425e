"""Composer: where a message is written, with the lists that help: paths after an "@", and earlier messages (Ctrl+R)."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import TextArea

from gptoss_mlx.app.widgets.history_search import HistorySearch
from gptoss_mlx.app.widgets.path_completion import PathCompletion, mentioned_path
from gptoss_mlx.app.widgets.prompt_area import PromptArea


class Composer(Vertical):
    """The bottom of the chat."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+r", "search_history", "Search history", show=False)]

    class Submitted(Message):
        """A message is to be sent; the composer is empty again. Undo brings the text back."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, history: Callable[[], Sequence[str]] = lambda: (), *, id: str | None = None) -> None:
        """`history` gives the earlier messages, oldest first."""
        super().__init__(id=id)
        self._completion = PathCompletion()
        self._area = PromptArea(history, self._completion)
        self._search = HistorySearch(history)

    def compose(self) -> ComposeResult:
        yield self._completion
        yield self._search
        yield self._area

    @property
    def text(self) -> str:
        """The draft."""
        return self._area.text

    @text.setter
    def text(self, draft: str) -> None:
        self._area.load_text(draft)
        self._area.move_cursor(self._area.document.end)
        self._area.forget_recalled()
        self._completion.offer([])

    @property
    def selected_text(self) -> str:
        """What is marked in the draft."""
        return self._area.selected_text

    def focus(self, scroll_visible: bool = True) -> "Composer":
        """Gives the keyboard to the text."""
        self._area.focus(scroll_visible)
        return self

    def action_search_history(self) -> None:
        """Opens the search in earlier messages."""
        self._completion.offer([])
        self._area.display = False
        self._search.open()

    @on(HistorySearch.Closed)
    def _search_closed(self, event: HistorySearch.Closed) -> None:
        event.stop()
        self._area.display = True
        if event.text is not None:
            self._area.put(event.text)
            self._area.forget_recalled()
        self._area.focus()

    @on(PromptArea.Sent)
    def _sent(self, event: PromptArea.Sent) -> None:
        event.stop()
        self._area.put("")
        self._area.forget_recalled()
        self._completion.offer([])
        self.post_message(self.Submitted(event.text))

    @on(TextArea.Changed)
    def _text_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        before = self._area.before_cursor
        if mentioned_path(before) is not None or self._completion.open:
            self.run_worker(self._completion.look_up(before), exclusive=True, group="completion")
