"""Transcript: the conversation on the screen, turn below turn.

Which of the turns exist as widgets, and what holds the view, is the business of `turn_window`. Here a cursor goes from
turn to turn; keys that are about one turn mean the turn under it.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.widgets.reasoning import Reasoning
from gptoss_mlx.app.widgets.turn_view import TurnView
from gptoss_mlx.app.widgets.turn_window import PAGE_TURNS, TurnWindow


class Transcript(TurnWindow):
    """Shows the turns of a conversation."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "cursor(-1)", "Up", show=False),
        Binding("down,j", "cursor(1)", "Down", show=False),
        Binding("home", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
        Binding("enter", "fold", "Fold"),
        Binding("y", "app.copy_message", "Copy"),
        Binding("c", "app.copy_code", "Copy code"),
        Binding("e", "app.edit_turn", "Edit"),
        Binding("r", "app.regenerate", "Again"),
        Binding("g", "app.continue_answer", "Go on"),
        Binding("left_square_bracket", "app.previous_branch", "Branch", key_display="["),
        Binding("right_square_bracket", "app.next_branch", "Branch", key_display="]"),
    ]

    class Selected(Message):
        """The cursor came to another turn."""

        def __init__(self, turn: Turn | None) -> None:
            super().__init__()
            self.turn = turn

    def __init__(self, *, keep_reasoning_open: bool = False, id: str | None = None) -> None:
        super().__init__(keep_reasoning_open=keep_reasoning_open, id=id)
        self._cursor: int | None = None
        """Index of the selected turn."""

    # What is shown

    async def show(self, turns: Sequence[Turn], siblings: Mapping[int, Sequence[int]]) -> None:
        """Shows these turns from the end, in place of all others."""
        self._turns = list(turns)
        self._siblings = dict(siblings)
        await self._show_end()

    async def add(self, turn: Turn, siblings: Sequence[int] = ()) -> TurnView:
        """Shows one more turn at the end; after a user's own turn the view is there, too."""
        if self._end < len(self._turns):
            await self._show_end()
        self._turns.append(turn)
        self._siblings[turn.id] = siblings
        self._end = len(self._turns)
        view = self._view(turn)
        await self.mount(view)
        if turn.role == "user" or self.follows_end:
            self.anchor()
            self._select(len(self._turns) - 1)
        return view

    async def remove_after(self, turn_id: int | None) -> None:
        """Takes away what stands below that turn; all with None."""
        keep = 0 if turn_id is None else next(i + 1 for i, turn in enumerate(self._turns) if turn.id == turn_id)
        del self._turns[keep:]
        if keep <= self._first:
            await self._show_end()
            return
        with self.app.batch_update():
            for view in list(self._views())[keep - self._first :]:
                await view.remove()
        self._end = min(self._end, keep)
        self._select(min(self._cursor if self._cursor is not None else keep - 1, keep - 1))

    async def update_turn(self, turn: Turn, siblings: Sequence[int] | None = None) -> None:
        """Shows that turn as it is now."""
        for index, known in enumerate(self._turns):
            if known.id == turn.id:
                self._turns[index] = turn
                if siblings is not None:
                    self._siblings[turn.id] = siblings
        if (view := self.view(turn.id)) is not None:
            await view.update(turn, siblings)

    @property
    def selected(self) -> Turn | None:
        """The turn under the cursor."""
        if self._cursor is None:
            return None
        turn = self._turns[self._cursor]
        view = self.view(turn.id)
        # The view of an answer knows how it ended.
        return turn if view is None else view.turn

    def toggle_all_reasoning(self) -> None:
        """Unfolds all reasoning; folds it if all was unfolded."""
        self.run_worker(self._toggle_all_reasoning())

    async def _toggle_all_reasoning(self) -> None:
        thoughts = list(self.query(Reasoning))
        unfold = any(reasoning.folded for reasoning in thoughts)
        self.keep_reasoning_open = unfold
        with self.app.batch_update():
            for reasoning in thoughts:
                reasoning.touched = True
                await reasoning.fold(not unfold)

    async def _show_end(self) -> None:
        await self._show_window(max(0, len(self._turns) - PAGE_TURNS), len(self._turns))
        self.anchor()
        self._select(len(self._turns) - 1 if self._turns else None)

    # The cursor

    def _select(self, index: int | None) -> None:
        if index is not None and index < 0:
            index = None
        changed = index != self._cursor
        self._cursor = index
        chosen = None if index is None else self._turns[index].id
        for view in self._views():
            view.set_class(view.turn.id == chosen, "-selected")
        if changed:
            self.post_message(self.Selected(self.selected))

    def action_cursor(self, step: int) -> None:
        """Goes a turn up or down; through one that is taller than the view, half a view at a time."""
        if self._cursor is None:
            return
        height = self.scrollable_content_region.height
        view = self.view(self._turns[self._cursor].id)
        if view is not None:
            top = view.virtual_region.y - self.scroll_y
            hidden = top + view.virtual_region.height - height if step > 0 else -top
            if hidden > 0 and -height < top < height:
                self.scroll_relative(y=step * min(hidden, max(1, height // 2)), animate=False)
                return
        self._go_to(self._cursor + step)

    def _go_to(self, index: int) -> None:
        if not self._first <= index < self._end:
            return
        self._select(index)
        view = self.view(self._turns[index].id)
        if view is not None:
            self.scroll_to_widget(view, animate=False, top=False)

    async def action_first(self) -> None:
        """Goes to the first turn of the conversation."""
        if self._first > 0:
            await self._show_window(0, min(len(self._turns), PAGE_TURNS))
        if self._turns:
            self._select(0)
            self.scroll_home(animate=False)

    async def action_last(self) -> None:
        """Goes to the end, and stays there."""
        if self._end < len(self._turns):
            await self._show_end()
        self._select(len(self._turns) - 1)
        self.anchor()

    async def action_fold(self) -> None:
        """Folds or unfolds what is in the selected turn."""
        if self._cursor is not None and (view := self.view(self._turns[self._cursor].id)) is not None:
            await view.toggle()

    def on_click(self, event: events.Click) -> None:
        if event.widget is None:
            return
        for node in event.widget.ancestors_with_self:
            if isinstance(node, TurnView):
                self._select(next(i for i, turn in enumerate(self._turns) if turn.id == node.turn.id))
                return
