"""Answer: text of the model that is meant for the reader, as Markdown with highlighted code.

It is a column of Markdown widgets, one for each section (see `markdown_sections`). Only the last one takes what comes,
so that the tenth thousand of tokens costs what the first did. When a section is over it is rendered once more from its
exact text: what was appended piece by piece may have left a block of code blank.
"""

from textual.app import ComposeResult
from textual.containers import Vertical

from gptoss_mlx.app.displayed_text import displayable
from gptoss_mlx.app.markdown_sections import Section, SectionCutter, cut_sections, has_link_definitions
from gptoss_mlx.app.widgets.answer_markdown import AnswerMarkdown


class Answer(Vertical):
    """Shows Markdown, all at once or as it comes. Calls of `append` and `finish` follow one another."""

    def __init__(self, source: str = "", *, live: bool = False) -> None:
        """With `live`, more is to come by `append`, and `finish` ends it."""
        super().__init__()
        self._source = [source]
        self._live = live
        self._cutter = SectionCutter()
        self._tail: AnswerMarkdown | None = None
        self._shown = ""
        """What the tail shows so far."""

    @property
    def source(self) -> str:
        """All of the text, exactly as it came."""
        if len(self._source) > 1:
            self._source = ["".join(self._source)]
        return self._source[0]

    def compose(self) -> ComposeResult:
        if self._live:
            sections = self._cutter.feed(displayable(self.source))
            yield from map(_rendered, sections)
            self._shown = self._cutter.rest
            self._tail = AnswerMarkdown(self._shown)
            yield self._tail
        else:
            yield from map(_rendered, cut_sections(displayable(self.source)))

    async def append(self, text: str) -> None:
        """Shows more text at the end."""
        self._source.append(text)
        for section in self._cutter.feed(displayable(text)):
            await self._end_section(section)
        await self._grow(self._cutter.rest)

    async def finish(self) -> None:
        """Nothing more comes: the exact text stands."""
        self._live = False
        if has_link_definitions(displayable(self.source)):
            with self.app.batch_update():
                await self.remove_children()
                await self.mount_all(map(_rendered, cut_sections(displayable(self.source))))
        elif self._tail is not None:
            await self._tail.update(self._shown)
        self._tail = None

    async def _end_section(self, section: Section) -> None:
        if self._tail is None:
            await self.mount(_rendered(section))
            return
        with self.app.batch_update():
            self._tail.set_class(section.joins, "-joins")
            await self._tail.update(section.text)
        self._tail, self._shown = None, ""

    async def _grow(self, text: str) -> None:
        """Lets the running section show this text, which begins with what it shows."""
        if self._tail is None:
            self._tail = AnswerMarkdown("")
            await self.mount(self._tail)
        if more := text[len(self._shown) :]:
            self._shown = text
            await self._tail.append(more)


def _rendered(section: Section) -> AnswerMarkdown:
    return AnswerMarkdown(section.text, classes="-joins" if section.joins else None)
