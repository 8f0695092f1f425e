"""UserMessage: what the user typed, as it was typed, with what is attached to it and how many tokens that takes."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from gptoss_mlx.app.conversation import Attachment, Turn
from gptoss_mlx.app.displayed_text import count_of, displayable
from gptoss_mlx.app.widgets.foldable import Foldable
from gptoss_mlx.app.widgets.plain_text import PlainText
from gptoss_mlx.app.widgets.turn_view import TurnView

SHOWN_LINES = 24
"""A longer message (something pasted) shows its beginning and unfolds."""
SHOWN_CHARACTERS = 4000


class RestOfMessage(Foldable):
    """What comes after the beginning of a long message."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def title(self) -> str:
        lines = self._text.count("\n") + 1
        return f"{count_of(lines, 'more line')}" if lines > 1 else f"{count_of(len(self._text), 'more character')}"

    def make_body(self) -> Widget:
        return PlainText(self._text)


class AttachedFile(Foldable):
    """A file that went with the message."""

    def __init__(self, attachment: Attachment) -> None:
        super().__init__()
        self._attachment = attachment

    def title(self) -> str:
        tokens = self._attachment.tokens
        size = count_of(len(self._attachment.text), "character") if tokens is None else count_of(tokens, "token")
        return f"@{displayable(self._attachment.path)} · {size}"

    def make_body(self) -> Widget:
        return PlainText(self._attachment.text)


class UserMessage(TurnView):
    """A turn of the user."""

    def compose(self) -> ComposeResult:
        shown, rest = _beginning(displayable(self.turn.text))
        yield Static(Content(shown), classes="user-text")
        if rest:
            yield RestOfMessage(rest)
        for attachment in self.turn.attachments:
            yield AttachedFile(attachment)
        yield self._foot

    async def update(self, turn: Turn, siblings: Sequence[int] | None = None) -> None:
        """Shows the turn as it is now: what its attachments cost may be known by now."""
        anew = (turn.text, turn.attachments) != (self.turn.text, self.turn.attachments)
        await super().update(turn, siblings)
        if anew:
            await self.recompose()

    async def toggle(self) -> None:
        foldables = list(self.query(Foldable))
        fold = not any(foldable.folded for foldable in foldables)
        for foldable in foldables:
            await foldable.fold(fold)


def _beginning(text: str) -> tuple[str, str]:
    """The text up to where it may be folded, and what follows."""
    lines = text.split("\n")
    if len(lines) > SHOWN_LINES + 1:
        return "\n".join(lines[:SHOWN_LINES]), "\n".join(lines[SHOWN_LINES:])
    if len(text) > 2 * SHOWN_CHARACTERS:
        return text[:SHOWN_CHARACTERS], text[SHOWN_CHARACTERS:]
    return text, ""
