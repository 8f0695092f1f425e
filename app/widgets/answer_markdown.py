"""AnswerMarkdown: Textual's Markdown for text that nobody vouches for.

HTML is shown as it was written instead of vanishing, code without a language is not guessed at (that takes a tenth of a
second a block), and only links to the web are opened.
"""

from markdown_it import MarkdownIt
from textual.content import Content
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownBlock, MarkdownFence

LINK_SCHEMES = ("http://", "https://", "mailto:")
"""What a click opens; a link to a file or a script is only shown."""


class AnswerFence(MarkdownFence):
    """A block of code."""

    @classmethod
    def highlight(cls, code: str, language: str, ansi: bool = False, dark: bool = False) -> Content:
        """The code in colours of the theme; plain if its language is not named or not known."""
        words = language.split()
        return super().highlight(code, words[0] if words else "text", ansi=ansi, dark=dark)


class AnswerMarkdown(Markdown):
    """Rendered Markdown."""

    def __init__(self, markdown: str | None = None, *, classes: str | None = None) -> None:
        super().__init__(
            markdown,
            classes=classes,
            parser_factory=lambda: MarkdownIt("gfm-like", {"html": False}),
            open_links=False,
        )

    def get_block_class(self, block_name: str) -> type[MarkdownBlock]:
        """The widget for a kind of block."""
        return AnswerFence if block_name in ("fence", "code_block") else super().get_block_class(block_name)

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """Opens a link to the web."""
        event.stop()
        if event.href.lower().startswith(LINK_SCHEMES):
            self.app.open_url(event.href)
        else:
            self.notify(f"{event.href} is no link to the web; it is not opened.", markup=False)
