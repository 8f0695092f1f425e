"""The last line of the screen: the keys that matter at the moment, the most important first, as many as fit.

Keys and words come from the table of commands. A click on one does what the key does.
"""

from collections.abc import Iterator
from typing import Final

from textual.content import Content
from textual.events import Click
from textual.reactive import reactive
from textual.widget import Widget

from gptoss_mlx.app.commands import BY_NAME, HINTS, Command, Moment, key_label

GAP: Final = "   "

_PAIRS: Final = {"select": "↑↓", "previous_branch": "[ ]"}
"""Commands whose hint shows the keys of both directions."""


class KeyLine(Widget):
    """The keys; assign to `moment`."""

    moment: reactive[Moment] = reactive[Moment]("writing")

    def render(self) -> Content:
        return render_keys(self.moment, self.content_size.width)

    async def on_click(self, event: Click) -> None:
        """Does what the key under the pointer does."""
        position = event.get_content_offset_capture(self).x
        for start, hint, command in _hints(self.moment, self.content_size.width):
            if command.action and start <= position < start + hint.cell_length:
                await self.app.run_action(command.name)


def render_keys(moment: Moment, width: int) -> Content:
    """The hints of a moment, from the first, while they fit into `width` cells."""
    return Content(GAP).join(hint for _, hint, _ in _hints(moment, width))


def _hints(moment: Moment, width: int) -> Iterator[tuple[int, Content, Command]]:
    """Where each hint begins, what it says, and which command it is of."""
    start = 0
    for name in HINTS[moment]:
        command = BY_NAME[name]
        keys = _PAIRS.get(name) or key_label(command.keys[0])
        hint = Content.assemble((keys, "$footer-key-foreground bold"), (f" {command.hint}", "$foreground-muted"))
        if start + hint.cell_length > width:
            return
        yield start, hint, command
        start += hint.cell_length + len(GAP)
