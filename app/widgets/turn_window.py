"""TurnWindow: turns below one another in a view that scrolls, of which only some exist as widgets.

The turns are all known (`_turns`); those of a window `[_first, _end)` are mounted. When the reader comes near an edge
of it, a page is added there, and what has become far is taken away at the other, but never an answer under way.

Two things may hold the view (`arrange`). At the end, the view follows what is written. Elsewhere, the turn at the top
of the view stays where it is, whatever is mounted, folded or wrapped anew above it. The reader's own scrolling leaves
the one for the other. Textual's anchor does the first, too, but pushes a short conversation to the screen's bottom.
"""

from collections.abc import Sequence

from textual.containers import VerticalScroll
from textual.geometry import Size
from textual.layout import DockArrangeResult
from textual.widget import Widget

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.widgets.turn_view import TurnView
from gptoss_mlx.app.widgets.user_message import UserMessage

PAGE_TURNS = 8
"""Turns that are mounted at a time."""
MOUNTED_TURNS = 48
"""More are not kept mounted."""
NEAR_ROWS = 2
"""So far from the end the reader is taken to be at the end."""


class TurnWindow(VerticalScroll):
    """Shows a window of the turns it knows."""

    def __init__(self, *, keep_reasoning_open: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.keep_reasoning_open = keep_reasoning_open
        """Whether turns that are mounted from now on show their reasoning."""
        self._turns: list[Turn] = []
        self._siblings: dict[int, Sequence[int]] = {}
        self._first = self._end = 0
        self._tops: list[tuple[int, Widget]] = []
        """Where each mounted turn begins, as last arranged."""
        self._held: tuple[Widget, int] | None = None
        """The turn at the top of the view, and how far below the view's top it begins."""
        self._paging = False
        self._follows = True

    def view(self, turn_id: int) -> TurnView | None:
        """The widget of that turn; None while it is not mounted."""
        return next((view for view in self._views() if view.turn.id == turn_id), None)

    @property
    def follows_end(self) -> bool:
        """Whether the view is at the end and stays there."""
        return self._follows

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
        if not any(view.running for view in views):
            for view in views:
                await view.remove()

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
            self.set_reactive(Widget.scroll_target_y, y)  # pyright: ignore[reportArgumentType]
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
