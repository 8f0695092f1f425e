"""Transcript: the conversation on the screen, turn below turn, of which only some exist as widgets.

The turns are all known (`_turns`); those of a window `[_first, _end)` are mounted. When the reader comes near an edge
of it, a page is added there, and what has become far is taken away at the other, but never an answer under way.

Two things may hold the view (`arrange`). At the end, the view follows what is written. Elsewhere, the turn at the top
of the view stays where it is, whatever is mounted, folded or wrapped anew above it. The reader's own scrolling leaves
the one for the other. Textual's anchor does the first, too, but pushes a short conversation to the screen's bottom.

A cursor goes from turn to turn; keys that are about one turn mean the turn under it.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Size
from textual.layout import DockArrangeResult
from textual.message import Message
from textual.widget import Widget

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.widgets.reasoning import Reasoning
from gptoss_mlx.app.widgets.turn_view import TurnView
from gptoss_mlx.app.widgets.user_message import UserMessage

PAGE_TURNS = 8
"""Turns that are mounted at a time."""
MOUNTED_TURNS = 48
"""More are not kept mounted."""
NEAR_ROWS = 2
"""So far from the end the reader is taken to be at the end."""


class Transcript(VerticalScroll):
    """Shows turns."""

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
        super().__init__(id=id)
        self.keep_reasoning_open = keep_reasoning_open
        """Whether turns that are mounted from now on show their reasoning."""
        self._turns: list[Turn] = []
        self._siblings: dict[int, Sequence[int]] = {}
        self._first = self._end = 0
        self._cursor: int | None = None
        """Index of the selected turn."""
        self._tops: list[tuple[int, Widget]] = []
        """Where each mounted turn begins, as last arranged."""
        self._held: tuple[Widget, int] | None = None
        """The turn at the top of the view, and how far below the view's top it begins."""
        self._paging = False
        self._follows = True

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

    def view(self, turn_id: int) -> TurnView | None:
        """The widget of that turn; None while it is not mounted."""
        return next((view for view in self._views() if view.turn.id == turn_id), None)

    @property
    def selected(self) -> Turn | None:
        """The turn under the cursor."""
        if self._cursor is None:
            return None
        turn = self._turns[self._cursor]
        view = self.view(turn.id)
        # The view of an answer knows how it ended.
        return turn if view is None else view.turn

    @property
    def follows_end(self) -> bool:
        """Whether the view is at the end and stays there."""
        return self._follows

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

    # The window

    def _views(self) -> list[TurnView]:
        return list(self.query_children(TurnView))

    def _view(self, turn: Turn) -> TurnView:
        siblings = self._siblings.get(turn.id, ())
        if turn.role == "user":
            return UserMessage(turn, siblings)
        # What shows an answer (Markdown, colours for code) is imported with the first one.
        from gptoss_mlx.app.widgets.answer_turn import AnswerTurn

        return AnswerTurn(
            turn, siblings, keep_reasoning_open=self.keep_reasoning_open, may_fold=lambda: self.follows_end
        )

    async def _show_end(self) -> None:
        await self._show_window(max(0, len(self._turns) - PAGE_TURNS), len(self._turns))
        self.anchor()
        self._select(len(self._turns) - 1 if self._turns else None)

    async def _show_window(self, first: int, end: int) -> None:
        with self.app.batch_update():
            self._held = None
            self._follows = False
            await self.remove_children()
            self._first, self._end = first, end
            await self.mount_all(map(self._view, self._turns[first:end]))
        self.call_after_refresh(self._page_if_near)

    async def _page(self) -> None:
        """Adds a page where the reader is near an edge of the window."""
        height = self.scrollable_content_region.height
        try:
            if self.scroll_y < height and self._first > 0:
                await self._page_up()
            elif self.scroll_y > self.max_scroll_y - height and self._end < len(self._turns):
                await self._page_down()
        finally:
            self._paging = False
            self.call_after_refresh(self._page_if_near)

    async def _page_up(self) -> None:
        first = max(0, self._first - PAGE_TURNS)
        with self.app.batch_update():
            views = [self._view(turn) for turn in self._turns[first : self._first]]
            await self.mount_all(views, before=0)
            self._first = first
            await self._trim(self._views()[MOUNTED_TURNS:])
        self._end = self._first + len(self._views())
        self._follows = self._follows and self._end == len(self._turns)

    async def _page_down(self) -> None:
        end = min(len(self._turns), self._end + PAGE_TURNS)
        with self.app.batch_update():
            await self.mount_all(map(self._view, self._turns[self._end : end]))
            self._end = end
            await self._trim(self._views()[:-MOUNTED_TURNS])
        self._first = self._end - len(self._views())

    async def _trim(self, views: Sequence[TurnView]) -> None:
        if not any(getattr(view, "running", False) for view in views):
            for view in views:
                await view.remove()

    # The view

    def anchor(self, anchor: bool = True) -> None:
        """Goes to the end and follows it, or no longer does."""
        self._follows = anchor
        if anchor:
            self.refresh(layout=True)

    def release_anchor(self) -> None:
        """The reader scrolls: the end is followed no more, unless it is where they go."""
        super().release_anchor()
        if self._follows:
            self._follows = False
            self.call_next(self._follow_at_end)

    def _follow_at_end(self) -> None:
        if self.scroll_target_y >= self.max_scroll_y and self._end == len(self._turns):
            self._follows = True

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Arranges the turns, and says where in them the view is."""
        result = super().arrange(size, optimal)
        self._tops = [(placement.region.y, placement.widget) for placement in result.placements]
        if self._follows:
            self._put(max(0, result.spatial_map.total_region.bottom - size.height))
        elif self._held is not None:
            held, offset = self._held
            top = next((top for top, widget in self._tops if widget is held), None)
            if top is not None and (shift := top - offset - round(self.scroll_y)):
                # Where the reader was going to, they are now: an animation knows nothing of the new places.
                self._put(max(0, round(self.scroll_target_y) + shift))
        return result

    def _put(self, y: float) -> None:
        """Moves the view in the middle of a layout."""
        if y != self.scroll_y:
            self.app.animator.force_stop_animation(self, "scroll_y")
            self.set_reactive(Widget.scroll_y, y)
            self.set_reactive(Widget.scroll_target_y, y)
            self.vertical_scrollbar.position = y

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        y = round(new_value)
        if not self._follows and new_value > old_value and self._at_end(y):
            self._follows = True
        above = [(top, widget) for top, widget in self._tops if top <= y]
        self._held = (above[-1][1], above[-1][0] - y) if above else None
        self._page_if_near()

    def _at_end(self, y: int) -> bool:
        return y >= self.max_scroll_y - NEAR_ROWS and self._end == len(self._turns)

    def _page_if_near(self) -> None:
        height = self.scrollable_content_region.height
        near_top = self.scroll_y < height and self._first > 0
        near_end = self.scroll_y > self.max_scroll_y - height and self._end < len(self._turns)
        if (near_top or near_end) and not self._paging:
            self._paging = True
            self.run_worker(self._page())

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
