"""What is copied: text as it was written, never as it stands on the screen. Code blocks are found in the Markdown."""

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptoss_mlx.app.conversation import Turn

if TYPE_CHECKING:
    from markdown_it import MarkdownIt


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A block of code in a Markdown text."""

    code: str
    """Without its fences, and without the indentation and quote marks that it stands behind."""
    language: str = ""
    """As the fence names it, empty where it does not."""


def turn_text(turn: Turn) -> str:
    """What a reader wants of the turn: what was typed, or the answer; the reasoning where that is all there is."""
    if turn.role == "user":
        return turn.text or "".join(message.text for message in turn.messages)
    return turn.answer or turn.reasoning


def code_blocks(text: str) -> list[CodeBlock]:
    """The blocks of code, in order: fenced by any number of backticks or tildes, closed or not, or indented."""
    return [
        CodeBlock(token.content, token.info.split()[0] if token.info.split() else "")
        for token in _parser().parse(text)
        if token.type in ("fence", "code_block")
    ]


def last_code_block(text: str) -> CodeBlock | None:
    """The last block of code; None without one."""
    blocks = code_blocks(text)
    return blocks[-1] if blocks else None


@functools.cache
def _parser() -> "MarkdownIt":
    # Only when something is copied: the app starts without it.
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def fence_for(text: str) -> str:
    """A code fence that nothing in `text` closes: longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
