"""The last line of the screen: the keys that matter at the moment, the most important first, as many as fit.

Keys and words come from the table of commands. A click on one does what the key does.
"""

from typing import Final

from textual.content import Content
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


def render_keys(moment: Moment, width: int) -> Content:
    """The hints of a moment, from the first, while they fit into `width` cells."""
    line = Content("")
    for name in HINTS[moment]:
        hint = _hint(BY_NAME[name])
        longer = Content.assemble(line, GAP, hint) if line.plain else hint
        if longer.cell_length > width:
            break
        line = longer
    return line


def _hint(command: Command) -> Content:
    # Two keys for two directions of one thing.
    keys = _PAIRS.get(command.name) or key_label(command.keys[0])
    hint = Content.assemble((keys, "$footer-key-foreground bold"), (f" {command.hint}", "$foreground-muted"))
    return hint.stylize(f"@click=app.{command.name}") if command.action else hint
