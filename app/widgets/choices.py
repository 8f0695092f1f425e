"""Choices: a short list above the composer, moved in by keys that the composer hands on."""

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from gptoss_mlx.app.displayed_text import displayable


class Choices(OptionList, can_focus=False):
    """Shows texts, one a line; not on the screen while there are none."""

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)
        self._texts: list[str] = []
        self.display = False

    @property
    def open(self) -> bool:
        """Whether there is something to choose."""
        return bool(self._texts)

    @property
    def chosen(self) -> str | None:
        """The text that is marked."""
        return None if self.highlighted is None else self._texts[self.highlighted]

    def offer(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> None:
        """Offers these texts, the first one marked; none closes the list."""
        self._texts = list(texts)
        self.clear_options()
        shown = self._texts if labels is None else labels
        self.add_options(Option(Content(" ".join(displayable(text).split()))) for text in shown)
        self.highlighted = 0 if self._texts else None
        self.display = bool(self._texts)

    def move(self, step: int) -> None:
        """Marks the next text or the one before, round and round."""
        if self._texts:
            self.highlighted = ((self.highlighted or 0) + step) % len(self._texts)
