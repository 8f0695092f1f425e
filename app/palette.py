"""The command palette (Ctrl+P): every command of the table, every theme, every effort.

Commands that only a widget with the focus carries out are not in it: there is nothing to run.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from gptoss_mlx.app.commands import COMMANDS, Command, keys_label
from gptoss_mlx.app.preferences import EFFORTS
from gptoss_mlx.app.themes import theme_names

if TYPE_CHECKING:
    from gptoss_mlx.app.app import GptossApp


class Palette(Provider):
    """What Ctrl+P finds."""

    async def discover(self) -> Hits:
        """Before anything is typed: the table."""
        for command in _runnable():
            yield DiscoveryHit(command.title, self._run(command), help=_explained(command))

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, run, help_text in self._all():
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), run, help=help_text)

    def _all(self) -> Iterator[tuple[str, Callable[[], object], str]]:
        app = cast("GptossApp", self.app)
        for command in _runnable():
            yield command.title, self._run(command), _explained(command)
        for effort in EFFORTS:
            yield f"Effort: {effort}", partial(app.chat.change_effort, effort), "for this conversation"
        for name in theme_names():
            yield f"Theme: {name}", partial(app.choose_theme, name), "remembered"

    def _run(self, command: Command) -> Callable[[], object]:
        return partial(self.app.run_action, command.name)


def _runnable() -> Iterator[Command]:
    # The palette itself is no use in the palette.
    return (command for command in COMMANDS if command.action and command.name != "command_palette")


def _explained(command: Command) -> str:
    keys = keys_label(command)
    return f"{command.help} ({keys})" if keys else command.help
