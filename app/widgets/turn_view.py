"""TurnView: base of what shows one turn, with a line below it for what is to be said about it."""

from collections.abc import Sequence

from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from gptoss_mlx.app.conversation import Turn


class TurnView(Vertical):
    """One turn on the screen."""

    def __init__(self, turn: Turn, siblings: Sequence[int] = ()) -> None:
        super().__init__()
        self._turn = turn
        self._siblings = tuple(siblings)
        self._foot = Static(markup=False, classes="turn-foot")

    @property
    def turn(self) -> Turn:
        """What is shown."""
        return self._turn

    @property
    def running(self) -> bool:
        """Whether the turn is an answer under way."""
        return self._turn.state == "running"

    async def update(self, turn: Turn, siblings: Sequence[int] | None = None) -> None:
        """Shows the turn as it is now."""
        self._turn = turn
        if siblings is not None:
            self._siblings = tuple(siblings)
        self.show_foot()

    async def toggle(self) -> None:
        """Unfolds what is folded in it; if nothing is, folds all."""

    @property
    def branch_mark(self) -> str:
        """`2/3` for the second of three siblings; empty where there is only one."""
        if len(self._siblings) < 2 or self._turn.id not in self._siblings:
            return ""
        return f"{self._siblings.index(self._turn.id) + 1}/{len(self._siblings)}"

    def remarks(self) -> list[str]:
        """What the foot says, piece by piece."""
        return [f"‹ {self.branch_mark} ›"] if self.branch_mark else []

    def on_mount(self) -> None:
        self.show_foot()

    def show_foot(self) -> None:
        """Writes the foot anew; without anything to say it takes no line."""
        remarks = self.remarks()
        self._foot.display = bool(remarks)
        self._foot.update(Content(" · ".join(remarks)))
