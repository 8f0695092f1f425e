"""Cuts Markdown that still grows into sections that no longer do, so that a long answer costs no more than its end.

A section ends where a new block begins at the left margin, once it is long enough: there, CommonMark reads what follows
as if nothing stood before it. A list may be cut between its items, it would otherwise be one block for pages; the
section says by `joins` that no gap is to be left. Two things reach over a cut. A link's definition (`[1]: https://…`)
may stand in another section than its use: a whole text that has one is one section. And a block of code has to be cut
within while it grows: both parts get fences, and the highlighter begins anew in the second one; a whole text is not cut
there.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

SECTION_CHARACTERS = 1200
"""A section is at least this long before it may end: one widget a section, and about a screenful each."""
CODE_CHARACTERS = 2000
"""A block of code that grows is cut when its part of a section is this long."""

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_ITEM = re.compile(r" {0,3}(\d{0,9})([-*+]|(?<=\d)[.)])([ \t]+)\S")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*")
_HEADING = re.compile(r"#{1,6}[ \t]+\S")
_LINK_DEFINITION = re.compile(r"^ {0,3}\[[^\]\n]+\]:[ \t]*\S", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Section:
    """A run of whole blocks."""

    text: str
    joins: bool
    """Whether the next section follows without a gap: it goes on with the same list, or the same code."""


class _Item(NamedTuple):
    """The beginning of a list's item."""

    sign: str
    """What begins the items of its list: `-`, `*`, `+`, or what stands behind the numbers."""
    number: int
    """0 for the first item of a list with bullets."""
    column: int
    """Where its text begins; what is indented so far belongs to it."""


class SectionCutter:
    """Takes text as it comes; gives each section as soon as it is over. Looks at every line once."""

    def __init__(self, section_characters: int = SECTION_CHARACTERS, code_characters: int | None = None) -> None:
        """With `code_characters`, a block of code that is longer is cut, too."""
        self._least = section_characters
        self._most_code = code_characters
        self._section = ""
        """Whole lines of the running section that were looked at."""
        self._line = ""
        """What came after them: a line without its end."""
        self._fence = ""
        """What opened the code that the running line stands in, such as "```"; empty outside of code."""
        self._opening = ""
        """The line that did."""
        self._fence_in_item = False
        """Whether that code belongs to a list's item, and ends with it."""
        self._between = True
        """Whether the running line follows a block that is over."""
        self._quoting = False
        """Whether the running paragraph may be a quoted one."""
        self._list: _Item | None = None
        """The last item of the list that the running line stands in, with the number that it is shown with."""

    @property
    def rest(self) -> str:
        """The running section, as far as it came."""
        return self._section + self._line

    def feed(self, text: str) -> list[Section]:
        """Sections that are over with this text; what follows them is `rest`."""
        sections: list[Section] = []
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if (joins := self._begins_section(line)) is not None and len(self._section) >= self._least:
                sections.append(Section(self._section, joins))
                self._section = ""
            elif self._cuts_code(line):
                sections.append(Section(f"{self._section}{self._fence}\n", True))
                self._section = f"{self._opening}\n"
            self._look_at(line)
            self._section += line + "\n"
        return sections

    def _cuts_code(self, line: str) -> bool:
        """Whether a block of code is to be cut before this line: at a blank one, if there is any."""
        if self._most_code is None or not self._fence or self._fence_in_item:
            return False
        return len(self._section) >= self._most_code * (1 if not line.strip() else 2)

    def _begins_section(self, line: str) -> bool | None:
        """Whether a section may begin with this line, and if so, whether it goes on with a list; None if not."""
        if not line.strip() or line[0] in " \t" or (self._fence and not self._fence_in_item):
            return None
        if self._list and (item := _item(line)):
            if item.sign != self._list.sign:
                return False
            # A list numbers its items itself; one that is written with another number cannot begin a section.
            follows = item.sign in "-*+" or item.number == self._list.number + 1
            return not self._between if follows else None
        if self._between or self._fence_in_item or _HEADING.match(line) or _opens_code(line):
            return False
        return None

    def _look_at(self, line: str) -> None:
        """Notes what the line opens and closes."""
        blank = not line.strip()
        indent = len(line) - len(line.lstrip(" \t"))
        indented = not blank and indent > 0
        within = indented and self._list is not None and indent >= self._list.column
        if self._fence_in_item and not blank and not within:
            self._fence, self._fence_in_item, self._between = "", False, True
        if self._fence:
            fence = _FENCE.fullmatch(line)
            if fence and fence[1].startswith(self._fence) and not fence[2].strip():
                self._fence, self._fence_in_item, self._between = "", False, True
            return
        if opening := _opens_code(line):
            self._fence, self._opening = opening, line
            self._fence_in_item = within
            self._list = self._list if within else None
        elif not indented and (_RULE.fullmatch(line) or _HEADING.match(line)):
            # A rule or a heading: whatever follows begins anew.
            self._list = None
            blank = True
        elif not within and (item := _item(line)):
            if self._list and self._list.sign == item.sign:
                self._list = item._replace(number=self._list.number + 1)
            elif self._list or self._between or self._quoting or item.number < 2:
                # A number other than 1 begins no list in the middle of a paragraph.
                self._list = item
        elif not blank and not indented and (self._between or line[0] == ">"):
            self._list = None
        elif indent >= 4 and self._between and self._list is None:
            # Code by indentation is over with the first line that has none.
            blank = True
        self._between = blank
        self._quoting = not blank and (self._quoting or line[0] == ">")


def _item(line: str) -> _Item | None:
    """The list's item that the line begins; None if it begins none."""
    found = None if _RULE.fullmatch(line) else _ITEM.match(line)
    if found is None or (found[1] and found[2] in "-*+"):
        return None
    # After more than four blanks, the item begins with indented code.
    column = found.end(2) + 1 if len(found[3]) > 4 else found.end(3)
    return _Item(found[2], int(found[1] or 0), column)


def _opens_code(line: str) -> str:
    """The fence that this line opens, such as "```"; empty if it opens none."""
    fence = _FENCE.fullmatch(line)
    return "" if fence is None or (fence[1][0] == "`" and "`" in fence[2]) else fence[1]


def cut_sections(text: str) -> list[Section]:
    """A whole text in sections; together they are the text."""
    if _LINK_DEFINITION.search(text) is not None:
        return [Section(text, False)]
    cutter = SectionCutter()
    sections = cutter.feed(text)
    return [*sections, Section(cutter.rest, False)] if cutter.rest else sections
