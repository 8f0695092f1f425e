"""F4: the models. What is here, what fits this machine; get, stop, go on, load, remove.

The list is looked up on a thread, since that brings MLX in. A download belongs to the app (`ModelDownload`) and goes on
when this screen is closed; the screen looks at it a few times a second while it is open. Gives the name of the model to
load, or None.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from gptoss_mlx.app.model_download import ModelDownload
from gptoss_mlx.app.model_entries import ModelEntry, list_entries
from gptoss_mlx.app.screens.question import Question
from gptoss_mlx.app.widgets.download_line import DownloadLine
from gptoss_mlx.errors import GptOssError

LOOK_SECONDS: Final = 0.25
"""How often the screen looks at the download."""

_ENTER: Final = {"here": "Enter load", "published": "Enter get it", "stopped": "Enter go on"}

_FIRST: Final = (
    "The pocket model is on: a toy of 5 million parameters that knows a little. "
    "Choose a model of OpenAI's to get it; you can go on chatting meanwhile."
)


class ModelsScreen(ModalScreen[str | None]):
    """The list of models, the download that runs, and what can be done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f4,q", "dismiss(None)", "Close"),
        Binding("ctrl+x,delete", "remove", "Remove"),
        Binding("ctrl+s,s", "stop_download", "Stop the download"),
    ]

    def __init__(
        self,
        loaded: str | None,
        download: ModelDownload,
        *,
        entries: Callable[[], Sequence[ModelEntry]] = list_entries,
    ) -> None:
        """`loaded` is the model that is loaded or loading, by its own name."""
        super().__init__()
        self._loaded = loaded
        self._download = download
        self._look_up = entries
        self._entries: Sequence[ModelEntry] = ()
        self._was_running = download.state == "running"

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = "Models"
            sheet.border_subtitle = "Esc closes"
            yield Static("", id="first", markup=False)
            yield OptionList(markup=False)
            yield Static("", id="details", markup=False)
            yield DownloadLine()
            yield Static("", classes="note", markup=False)
            yield Static("Looking at what is here", id="keys", markup=False)

    def on_mount(self) -> None:
        self.query_one("#first").display = self.query_one(".note").display = False
        self.query_one(OptionList).focus()
        self.refresh_list()
        self.set_interval(LOOK_SECONDS, self._look)
        self._look()

    @work(exclusive=True, group="list")
    async def refresh_list(self) -> None:
        """Looks up what there is and shows it, beside the keys."""
        await self._list()

    async def _list(self) -> None:
        try:
            entries = await asyncio.to_thread(self._look_up)
        except (GptOssError, OSError) as error:
            self._say(str(error))
            return
        listing = self.query_one(OptionList)
        at = self._chosen()
        self._entries = entries
        width = max((len(entry.title) for entry in entries), default=0)
        listing.set_options(Option(_row(entry, width, entry.name == self._loaded)) for entry in entries)
        alone = sum(entry.kind == "here" for entry in entries) == 1
        self.query_one("#first", Static).update(_FIRST)
        self.query_one("#first").display = alone
        listing.highlighted = self._place(at.name if at else None, alone)
        self._explain()

    def _place(self, name: str | None, alone: bool) -> int | None:
        """Where the cursor stands: where it was, on the loaded model, or on what to get first."""
        names = [entry.name for entry in self._entries]
        if name in names:
            return names.index(name)
        if alone:
            fitting = [place for place, entry in enumerate(self._entries) if entry.kind != "here" and entry.fits]
            return fitting[0] if fitting else 0
        return names.index(self._loaded) if self._loaded in names else 0 if names else None

    def on_option_list_option_highlighted(self) -> None:
        self._explain()

    @work
    async def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        entry = self._entries[event.option_index]
        if entry.kind == "here":
            self.dismiss(entry.name)
        elif entry.kind == "leftover":
            self._say(entry.details[0])
        elif self._download.state == "running":
            self._say(f"{self._download.model} is being downloaded; stop that first (s)")
        elif await self.app.push_screen_wait(_offer(entry)):
            self._begin(entry.name, force=not entry.fits)

    @work
    async def action_remove(self) -> None:
        entry = self._chosen()
        if entry is None or not entry.removable:
            return
        if entry.name == self._loaded:
            self._say(f"{entry.title} is loaded; load another model first")
            return
        if entry.name == self._download.model and self._download.state == "running":
            self._say(f"{entry.title} is being downloaded; stop that first (s)")
            return
        from gptoss_mlx.memory import gigabytes
        from gptoss_mlx.models import find_removable, remove_model

        try:
            found = await asyncio.to_thread(find_removable, entry.name)
            question = f"Remove {entry.title} ({gigabytes(found.total_bytes)}) from {found.folder.parent}?"
            if await self.app.push_screen_wait(Question(question, yes="Remove", no="Keep")):
                await asyncio.to_thread(remove_model, entry.name)
                await self._list()
                self._say(f"Removed {entry.title}: {gigabytes(found.total_bytes)} are free again")
        except (GptOssError, OSError) as error:
            self._say(str(error))

    def action_stop_download(self) -> None:
        if self._download.state == "running":
            self._download.stop()
            self._say("Stopping; what came is kept")

    def _begin(self, model: str, *, force: bool) -> None:
        if self._download.begin(model, force=force):
            self._look()

    def _look(self) -> None:
        """Shows how far the download is; when it has ended, the list anew."""
        self.query_one(DownloadLine).show(self._download)
        running = self._download.state == "running"
        if self._was_running and not running:
            self.refresh_list()
            self._explain()
        self._was_running = running

    def _explain(self) -> None:
        """What is to be known of the entry under the cursor, and what the keys do with it."""
        entry = self._chosen()
        self.query_one("#details", Static).update("" if entry is None else "\n".join(entry.details))
        keys = [] if entry is None else [_ENTER.get(entry.kind, "")]
        if entry is not None and entry.removable:
            keys.append("Ctrl+X remove")
        if self._download.state == "running":
            keys.append("S stop the download")
        self.query_one("#keys", Static).update("  ".join(key for key in keys if key))

    def _chosen(self) -> ModelEntry | None:
        place = self.query_one(OptionList).highlighted
        return None if place is None or place >= len(self._entries) else self._entries[place]

    def _say(self, sentence: str) -> None:
        note = self.query_one(".note", Static)
        note.update(Content(sentence))
        note.display = bool(sentence)


def _row(entry: ModelEntry, width: int, loaded: bool) -> Content:
    colour = "$text-error" if not entry.fits else "$foreground-muted"
    name = (entry.title.ljust(width), "bold" if entry.kind == "here" else "")
    return Content.assemble(("▸ " if loaded else "  ", "$text-primary"), name, "  ", (" · ".join(entry.facts), colour))


def _offer(entry: ModelEntry) -> Question:
    """Asks whether to get a model, with its size and fit; no is the default where it does not fit."""
    facts = ", ".join(entry.facts)
    if entry.fits and entry.kind == "stopped":
        return Question(f"Go on with {entry.title}? {facts}.", yes="Go on", no="Not now", default=True)
    if entry.fits:
        return Question(f"Get {entry.title}? {facts}.", yes="Get it", no="Not now", default=True)
    why = " ".join(entry.details[1:])
    return Question(f"{entry.title}: {facts}. {why} Get it nevertheless?", yes="Get it", no="No")
