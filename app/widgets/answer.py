"""Answer: text of the model that is meant for the reader, as Markdown with highlighted code.

It is a column of sections (see `markdown.sections`), one widget each. Only the last one is rendered anew when text
comes, so that the tenth thousand of tokens costs what the first did. What the end of the text tells better about its
beginning (a link's target, the state of the highlighter in a long block of code) is made up for by `finish`.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.errors import NoWidget

from gptoss_mlx.app.displayed_text import displayable
from gptoss_mlx.app.markdown.sections import CODE_CHARACTERS, Section, SectionCutter, cut_sections
from gptoss_mlx.app.widgets.markdown_text import MarkdownText

_MARKDOWN_SIGNS: Final = re.compile(r"[\\`*_\[\]<>&~|]")


class Answer(Vertical):
    """Shows Markdown, all at once or as it comes. Calls of `append` and `finish` follow one another."""

    def __init__(
        self, source: str = "", *, live: bool = False, labels: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """With `live`, more is to come by `append`, and `finish` ends it. `labels`: what is shown in place of citations
        in it."""
        super().__init__()
        self._source = [source]
        self._live = live
        self._labels = labels
        self._cutter = SectionCutter(code_characters=CODE_CHARACTERS)
        self._sections: list[Section] = []
        """Those that are over."""
        self._tail: MarkdownText | None = None

    @property
    def source(self) -> str:
        """All of the text, exactly as it came."""
        if len(self._source) > 1:
            self._source = ["".join(self._source)]
        return self._source[0]

    def compose(self) -> ComposeResult:
        if self._live:
            self._sections = self._cutter.feed(displayable(self.source))
            yield from map(_rendered, self._sections)
            self._tail = MarkdownText(self._cutter.rest)
            yield self._tail
        else:
            yield from map(_rendered, cut_sections(self._displayed))

    async def append(self, text: str) -> None:
        """Shows more text at the end."""
        self._source.append(text)
        sections = self._cutter.feed(displayable(text))
        self._sections += sections
        for section in sections:
            if self._tail is None:
                await self.mount(_rendered(section))
            else:
                self._tail.set_class(section.joins, "-joins")
                self._tail.show(section.text)
                self._tail = None
        if self._tail is None:
            self._tail = MarkdownText(self._cutter.rest)
            await self.mount(self._tail)
        else:
            self._tail.show(self._cutter.rest)
        if sections:
            self._rest_above()

    def _rest_above(self) -> None:
        """Sections that are over and out of sight rest: an answer may be as long as a book."""
        for section in self.query_children(MarkdownText):
            if section is self._tail or section.resting:
                continue
            with suppress(NoWidget):
                if not self.screen.find_widget(section).visible_region:
                    section.rest()

    async def finish(self) -> None:
        """Nothing more comes: the whole text stands as it would if it had come at once."""
        self._live = False
        sections = cut_sections(self._displayed)
        rest = self._cutter.rest
        if sections != [*self._sections, *([Section(rest, False)] if rest else [])]:
            with self.app.batch_update():
                await self.remove_children()
                await self.mount_all(map(_rendered, sections))
        self._sections, self._cutter = sections, SectionCutter(code_characters=CODE_CHARACTERS)
        self._tail = None

    async def label(self, labels: Mapping[str, str]) -> None:
        """Of a finished text: shows these labels in place of the texts that they are for."""
        if labels != self._labels:
            self._labels = labels
            await self.finish()

    @property
    def _displayed(self) -> str:
        """The whole text as it is shown."""
        text = self.source
        for mark, label in self._labels.items():
            # A label is no Markdown, whatever the file is called.
            text = text.replace(mark, _MARKDOWN_SIGNS.sub(r"\\\g<0>", label))
        return displayable(text)


def _rendered(section: Section) -> MarkdownText:
    return MarkdownText(section.text, classes="-joins" if section.joins else None)
