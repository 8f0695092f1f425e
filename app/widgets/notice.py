"""Notice: what the reader should know now, in a line above the composer; takes no room when there is nothing."""

from textual.content import Content
from textual.widgets import Static


class Notice(Static):
    """Says what went wrong, what is edited, what waits."""

    def __init__(self) -> None:
        super().__init__("", markup=False)
        self.display = False

    def say(self, text: str, *, problem: bool = False) -> None:
        """Shows the text as it is (empty: nothing); a problem has the colour of one."""
        self.display = bool(text)
        self.set_class(problem, "problem")
        self.update(Content(text))
