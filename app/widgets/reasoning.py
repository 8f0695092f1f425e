"""Reasoning: what the model thought (analysis), plain and dim; live while it thinks, then one line that unfolds."""

import time
from collections.abc import Callable

from textual.timer import Timer

from gptoss_mlx.app.displayed_text import count_of, duration
from gptoss_mlx.app.widgets.foldable import Foldable
from gptoss_mlx.app.widgets.plain_text import PlainText


class Reasoning(Foldable):
    """Reasoning under way (`live`) or as it was."""

    def __init__(
        self,
        text: str = "",
        *,
        seconds: float | None = None,
        tokens: int | None = None,
        live: bool = False,
        folded: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(folded=folded)
        self._text = [text]
        self._seconds = seconds
        self._tokens = tokens
        self._clock = clock
        self._began = clock() if live else None
        self._ticking: Timer | None = None

    @property
    def source(self) -> str:
        """All of the text, exactly as it came."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def live(self) -> bool:
        """Whether more may come."""
        return self._began is not None

    def title(self) -> str:
        """`Thinking … 3.1 s · 120 tokens`, `Thought for 6.2 s · 341 tokens`, or as much of it as is known."""
        tokens = "" if self._tokens is None else f" · {count_of(self._tokens, 'token')}"
        if self._began is not None:
            return f"Thinking … {duration(self._clock() - self._began)}{tokens}"
        return f"Thought{'' if self._seconds is None else f' for {duration(self._seconds)}'}{tokens}"

    def make_body(self) -> PlainText:
        """The text so far."""
        return PlainText(self.source)

    def on_mount(self) -> None:
        if self.live:
            self._ticking = self.set_interval(0.1, self.show_title)

    async def append(self, text: str, tokens: int = 0) -> None:
        """Takes more text, and the number of tokens behind it; only kept while it is folded."""
        self._text.append(text)
        self._tokens = (self._tokens or 0) + tokens
        if isinstance(self.body, PlainText):
            await self.body.append(text)

    def finish(self, seconds: float | None = None, tokens: int | None = None) -> None:
        """The model thinks no more; with what is known better than by the clock on this side."""
        if self._began is not None:
            self._seconds = self._clock() - self._began
            self._began = None
        if self._ticking is not None:
            self._ticking.stop()
        self._seconds = self._seconds if seconds is None else seconds
        self._tokens = tokens or self._tokens or None
        self.show_title()
