"""Foldable: a line that says what is there, and below it, while it is unfolded, the thing itself.

The body does not exist while it is folded: a long reasoning in an old chat costs one line.
"""

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static


class FoldHeader(Static):
    """The line; a click folds and unfolds."""

    class Clicked(Message):
        """The line was clicked."""

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked())


class Foldable(Vertical):
    """Base of what can be folded: gives `title` and `make_body`."""

    def __init__(self, *, folded: bool = True) -> None:
        super().__init__()
        self._folded = folded
        self._header = FoldHeader(markup=False)
        self._body: Widget | None = None
        self.touched = False
        """Whether the reader folded or unfolded it, and so is not to be overruled."""

    def title(self) -> str:
        """What stands behind the arrow; one line."""
        raise NotImplementedError

    def make_body(self) -> Widget:
        """The thing itself, as it is now."""
        raise NotImplementedError

    @property
    def folded(self) -> bool:
        """Whether only the line is shown."""
        return self._folded

    @property
    def body(self) -> Widget | None:
        """The thing itself while it is shown."""
        return self._body

    def compose(self) -> ComposeResult:
        self.show_title()
        yield self._header
        if not self._folded:
            self._body = self.make_body()
            yield self._body

    async def fold(self, folded: bool = True) -> None:
        """Folds or unfolds it."""
        if folded == self._folded:
            return
        self._folded = folded
        self.show_title()
        body, self._body = self._body, None
        if body is not None:
            await body.remove()
        if not folded:
            self._body = self.make_body()
            await self.mount(self._body)

    def show_title(self) -> None:
        """Writes the line anew."""
        # Its height never changes: nothing else is laid out for it.
        self._header.update(Content(f"{'▸' if self._folded else '▾'} {self.title()}"), layout=False)

    async def on_fold_header_clicked(self, event: FoldHeader.Clicked) -> None:
        event.stop()
        self.touched = True
        await self.fold(not self._folded)
