"""MarkdownText: rendered Markdown in one widget, for text that nobody vouches for.

Nothing in it is interpreted but Markdown: HTML and markup of the terminal are text. Only links to the web are opened.
What is selected with the mouse is copied without the line ends that only the width of the screen made.
"""

from textual.content import Content
from textual.geometry import Size
from textual.selection import Selection
from textual.widget import Widget

from gptoss_mlx.app.markdown.row import Row
from gptoss_mlx.app.markdown.rows import markdown_rows, parse_markdown

LINK_SCHEMES = ("http://", "https://", "mailto:")
"""What a click opens; a link to a file or a script is only shown."""


class MarkdownText(Widget):
    """Shows Markdown."""

    def __init__(self, text: str = "", *, classes: str | None = None) -> None:
        super().__init__(classes=classes, markup=False)
        self._text = text
        self._rows: tuple[int, list[Row]] | None = None
        """For the width that they were last asked for."""
        self._height: tuple[int, int] | None = None
        """That width, and how many they are."""

    def show(self, text: str) -> None:
        """Shows another text."""
        self._text = text
        self._rows = self._height = None
        self.refresh(layout=True)

    @property
    def resting(self) -> bool:
        """Whether it holds no more than its text and its height."""
        return self._rows is None

    def rest(self) -> None:
        """Lets go of what the text is made into, until it is to be seen again: that takes 70 bytes a character."""
        self._rows = None
        # All of it is rendered anew then; what was rendered is not needed any more.
        self.refresh()
        self._render_cache.lines.clear()

    def rows(self, width: int) -> list[Row]:
        """The text in rows of at most so many cells."""
        if self._rows is None or self._rows[0] != width:
            # The tree is not kept: it takes many times the room of the text, and widths seldom change.
            self._rows = width, markdown_rows(parse_markdown(self._text), width)
            self._height = width, len(self._rows[1])
        return self._rows[1]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many lines as there are rows."""
        if self._height is not None and self._height[0] == width:
            return self._height[1]
        return len(self.rows(width))

    def render(self) -> Content:
        """The rows for the width that the widget has."""
        return Content("\n").join(row.content for row in self.rows(self.content_size.width))

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The text under the selection, its lines as they were written."""
        rows = self.rows(self.content_size.width)
        lines = [row.content.plain for row in rows]
        first = selection.start.y if selection.start is not None else 0
        last = min(selection.end.y if selection.end is not None else len(rows) - 1, len(rows) - 1)
        text = ""
        for number in range(first, last + 1):
            row, line = rows[number], lines[number]
            begin = selection.start.x if selection.start is not None and number == first else 0
            end = selection.end.x if selection.end is not None and number == selection.end.y else len(line)
            if number > first:
                text = text.rstrip(" ") + ("\n" if row.glue is None else row.glue)
                begin = row.indent if row.glue is not None else begin
            text += line[begin:end]
        return text.rstrip(" "), "\n"

    def action_link(self, target: str) -> None:
        """Opens a link to the web."""
        if target.lower().startswith(LINK_SCHEMES):
            self.app.open_url(target)
        else:
            self.notify(f"{target} is no link to the web; it is not opened.", markup=False)
