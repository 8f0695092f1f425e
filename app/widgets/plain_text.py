"""PlainText: text as it is, wrapped, that may grow for long.

It is a column of paragraphs' runs, cut at line ends; only the last run is laid out anew when text comes.
"""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from gptoss_mlx.app.displayed_text import displayable

RUN_CHARACTERS = 2000
"""A run is at least this long before a line end may close it."""


class PlainText(Vertical):
    """Shows text in which nothing is markup."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._text = displayable(text)
        self._runs = [""]
        """What is shown; the last one grows."""
        self._tail = Static(markup=False)

    def compose(self) -> ComposeResult:
        self._take(self._text)
        for run in self._runs[:-1]:
            yield Static(Content(run))
        self._tail.update(Content(self._runs[-1]))
        yield self._tail

    async def append(self, text: str) -> None:
        """Shows more text at the end."""
        settled = len(self._runs) - 1
        self._take(displayable(text))
        for run in self._runs[settled:-1]:
            self._tail.update(Content(run))
            self._tail = Static(markup=False)
            await self.mount(self._tail)
        self._tail.update(Content(self._runs[-1]))

    def _take(self, text: str) -> None:
        tail = self._runs.pop() + text
        while (end := tail.find("\n", RUN_CHARACTERS)) != -1:
            self._runs.append(tail[:end])
            tail = tail[end + 1 :]
        self._runs.append(tail)
