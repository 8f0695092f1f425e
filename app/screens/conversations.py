"""F3: the conversations. Search as you type, open, rename, delete with undo, export.

The search field keeps the focus; arrows move in the list meanwhile, so that finding and opening takes no other key.
Gives the id of the conversation to open, or None.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from gptoss_mlx.app.screens.text_entry import TextEntry
from gptoss_mlx.app.when import named
from gptoss_mlx.errors import GptOssError

if TYPE_CHECKING:
    from gptoss_mlx.app.store import ConversationSummary, Store

SHOWN: Final = 200
"""Conversations in the list at most; the search finds the others."""

_KEYS: Final = "Enter open  Ctrl+R rename  Ctrl+X delete  Ctrl+E export"


class ConversationsScreen(ModalScreen[int | None]):
    """The list of conversations, newest first."""

    # The field would take some of these keys for itself, hence the priority.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f3", "dismiss(None)", "Close", priority=True),
        Binding("up", "move(-1)", priority=True),
        Binding("down", "move(1)", priority=True),
        Binding("pageup", "move(-10)", priority=True),
        Binding("pagedown", "move(10)", priority=True),
        Binding("ctrl+r", "rename", "Rename", priority=True),
        Binding("ctrl+x", "delete", "Delete", priority=True),
        Binding("ctrl+z", "restore", "Undo", priority=True),
        Binding("ctrl+e", "export", "Export", priority=True),
    ]

    def __init__(
        self,
        store: "Store",
        current: int | None = None,
        *,
        export: Callable[[int], object],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`current` is the conversation on the screen below; `export` asks where to, and writes one."""
        super().__init__()
        self._store = store
        self._current = current
        self._export = export
        self._now = now
        self._shown: Sequence[ConversationSummary] = ()
        self._deleted: list[tuple[int, str]] = []
        """Id and title, the latest last: what undo brings back."""

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = "Conversations"
            sheet.border_subtitle = "Esc closes"
            yield Input(placeholder="Search titles and what was said", compact=True)
            yield OptionList(markup=False)
            yield Static(_KEYS, classes="note", markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self.query_one(Input).focus()
        self.search()

    @work(exclusive=True, group="search")
    async def search(self) -> None:
        """Shows what the field asks for now."""
        await self._list()

    async def _list(self, keep: int | None = None) -> None:
        """Shows what the field asks for; the cursor goes to conversation `keep`, where it is among them."""
        words = self.query_one(Input).value.strip()
        try:
            shown = await asyncio.to_thread(self._store.list, words, SHOWN)
        except GptOssError as error:
            self._say(str(error))
            return
        self._shown = shown
        now = self._now()
        listing = self.query_one(OptionList)
        listing.set_options(Option(_row(summary, now, self._current)) for summary in shown)
        places = {summary.id: place for place, summary in enumerate(shown)}
        listing.highlighted = places.get(keep or 0, 0) if shown else None
        if not shown:
            self._say(f"nothing is found for {words!r}" if words else "there is no conversation yet")
        elif not self._deleted:
            self._say("")

    def on_input_changed(self) -> None:
        self.search()

    def on_input_submitted(self) -> None:
        if (chosen := self._chosen()) is not None:
            self.dismiss(chosen.id)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._shown[event.option_index].id)

    def action_move(self, rows: int) -> None:
        listing = self.query_one(OptionList)
        if listing.highlighted is not None:
            listing.highlighted = max(0, min(len(self._shown) - 1, listing.highlighted + rows))

    @work
    async def action_rename(self) -> None:
        if (chosen := self._chosen()) is None:
            return
        title = await self.app.push_screen_wait(TextEntry("New name", chosen.title))
        if title is not None:
            await self._do(lambda: self._store.rename(chosen.id, title), keep=chosen.id)

    @work
    async def action_delete(self) -> None:
        if (chosen := self._chosen()) is None:
            return
        listing = self.query_one(OptionList)
        place = listing.highlighted or 0
        after = self._shown[place + 1 : place + 2] or self._shown[max(place - 1, 0) : place]
        if await self._do(lambda: self._store.delete(chosen.id), keep=after[0].id if after else None):
            self._deleted.append((chosen.id, chosen.title))
            self._say(f"Deleted {_title(chosen.title)!r}. Ctrl+Z brings it back")

    @work
    async def action_restore(self) -> None:
        if not self._deleted:
            self._say("nothing was deleted here")
            return
        identifier, title = self._deleted[-1]
        if await self._do(lambda: self._store.restore(identifier), keep=identifier):
            self._deleted.pop()
            self._say(f"{_title(title)!r} is back")

    def action_export(self) -> None:
        if (chosen := self._chosen()) is not None:
            self._export(chosen.id)

    async def _do(self, change: Callable[[], None], *, keep: int | None) -> bool:
        """Changes the store and shows the list again; False, with a sentence, where it could not be done."""
        try:
            await asyncio.to_thread(change)
        except GptOssError as error:
            self._say(str(error))
            return False
        await self._list(keep)
        return True

    def _chosen(self) -> "ConversationSummary | None":
        place = self.query_one(OptionList).highlighted
        return None if place is None or place >= len(self._shown) else self._shown[place]

    def _say(self, sentence: str) -> None:
        self.query_one(".note", Static).update(Content(sentence or _KEYS))


def _row(summary: "ConversationSummary", now: float, current: int | None) -> Content:
    """When, what, by whom; below it, where it was searched for, what was found."""
    mark = "▸ " if summary.id == current else "  "
    aside = " · ".join(word for word in (summary.model or "", "answering" if summary.running else "") if word)
    line = Content.assemble(
        (mark, "$text-primary"),
        (f"{named(summary.updated, now):<11}", "$foreground-muted"),
        _title(summary.title),
        (f"  {aside}" if aside else "", "$foreground-muted"),
    )
    if not summary.snippet:
        return line
    snippet = Content.styled(summary.snippet, "$foreground-muted")
    for start, end in summary.matches:
        snippet = snippet.stylize("$text-accent bold", start, end)
    return Content.assemble(line, "\n", " " * 13, snippet)


def _title(title: str) -> str:
    return title or "Untitled"
