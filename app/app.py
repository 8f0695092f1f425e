"""GptossApp: owns store, preferences, model and the queue of answers; opens screens; keys that hold everywhere.

The first paint needs none of the model: it is loaded by `ModelSession` while the user reads and writes.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.events import Event, Key, Paste
from textual.message import Message as Note

from gptoss_mlx.app.answer_queue import AnswerQueue
from gptoss_mlx.app.commands import app_bindings
from gptoss_mlx.app.conversation import ChatSettings
from gptoss_mlx.app.first_model import POCKET, first_model
from gptoss_mlx.app.kept_reading import KeptReading
from gptoss_mlx.app.leaving import Leaving
from gptoss_mlx.app.messages import (
    DownloadChanged,
    ReadingKept,
    SaveFailed,
    ServersAwaited,
    ServersChanged,
    SessionChanged,
    SettingsChanged,
)
from gptoss_mlx.app.model_download import ModelDownload
from gptoss_mlx.app.place import Place
from gptoss_mlx.app.preferences import Preferences, load_preferences
from gptoss_mlx.app.prompt_history import PromptHistory
from gptoss_mlx.app.screens.chat import ChatScreen
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.themes import colourless, wear
from gptoss_mlx.app.tool_servers import ToolServers
from gptoss_mlx.app.toolbox import Browsing, Toolbox
from gptoss_mlx.app.typed import note_key
from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from textual.command import Provider

    from gptoss_mlx.api import GptOss
    from gptoss_mlx.app.answering import Answering
    from gptoss_mlx.tools.mcp import ServerSpec

SWITCH_SECONDS = 0.001
"""How long another thread holds Python at a time."""

SERVER_SECONDS = 1.5
"""How long an answer waits for servers of tools before that is said."""

LOOK_SECONDS = 1.0
"""Between two times that the draft is kept, and that is looked what other apps have done."""


def find_palette() -> "type[Provider]":
    """The palette's commands, imported when the palette opens."""
    from gptoss_mlx.app.palette import Palette

    return Palette


class GptossApp(Leaving):
    """The terminal app."""

    TITLE = "gptoss"
    CSS_PATH = Path("app.tcss")

    BINDINGS: ClassVar[list[BindingType]] = [
        *app_bindings(),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]
    COMMANDS: "ClassVar[set[type[Provider] | Callable[[], type[Provider]]]]" = {find_palette}  # noqa: RUF012

    def __init__(
        self,
        *,
        model: str | None = None,
        context: int | None = None,
        resume: int | None = None,
        settings: Mapping[str, Any] | None = None,
        overflow: str | None = None,
        hosts: str | None = None,
        host_mode: str | None = None,
        host_timeout_seconds: float | None = None,
        defaults: Mapping[str, Any] | None = None,
        date: str | None = None,
        toolbox: Toolbox | None = None,
        servers: "Sequence[ServerSpec]" = (),
        store: Store | None = None,
        preferences: Preferences | None = None,
        session: ModelSession | None = None,
        place: Place | None = None,
        download: ModelDownload | None = None,
    ) -> None:
        """`model`: what is loaded first (default: the preferences' model, else the pocket model); `resume`: the
        conversation to go on with (default: the one that was on the screen last). `settings`, `overflow`, `hosts`,
        `host_mode` and `host_timeout_seconds` go over the preferences while the app runs, `defaults` are further
        options of every answer, `date` is what models are told in new conversations, `toolbox` holds what they may
        call, and `servers` are started for them beside those of the preferences. The rest is for tests."""
        super().__init__(ansi_color=colourless())
        self.store = Store() if store is None else store
        """Where the conversations are."""
        self.preferences = load_preferences() if preferences is None else preferences
        self.preferences = replace(self.preferences, **(settings or {}))
        given: dict[str, Any] = {
            "overflow": overflow,
            "hosts": hosts,
            "host_mode": host_mode,
            "host_timeout_seconds": host_timeout_seconds,
        }
        given = {name: value for name, value in given.items() if value is not None}
        self.preferences = replace(self.preferences, **given)
        """What the user set; replaced when that changes."""
        self.session = ModelSession(defaults=defaults) if session is None else session
        """The model."""
        self.download = ModelDownload() if download is None else download
        """The model that is being got."""
        self.download.on_change = lambda: self.post_message(DownloadChanged())
        self._download_state = self.download.state
        wear(self, self.preferences.theme)
        self.session.on_change = lambda: self.post_message(SessionChanged())
        self.toolbox = Toolbox() if toolbox is None else toolbox
        """The tools of every conversation."""
        self.toolbox.kept = lambda: self.preferences.tools
        self.toolbox.preferred_browsing = self._preferred_browsing
        self.servers = ToolServers(servers, lambda: self.preferences, lambda: self.post_message(ServersChanged()))
        """Programs whose tools the models may call."""
        self.toolbox.servers = lambda: self.servers.servers
        self.answers = AnswerQueue(self.store, self.session, self, self.toolbox)
        """The answer under way, and what waits."""
        self.kept = KeptReading(
            self.store,
            self.session,
            lambda: self.preferences,
            self.toolbox,
            lambda: self.post_message(ReadingKept()),
        )
        """What models have read of conversations, in files."""
        self.session.before_close = self.kept.before_close
        self.set_idle_unload()
        self.set_hosts()
        self.place = Place() if place is None else place
        """Where the reader was."""
        self.chat = ChatScreen(
            self.store,
            self.session,
            self.answers,
            self.place,
            PromptHistory(),
            lambda: self.preferences,
            date,
            obey=self.obey,
        )
        self._first_model = first_model(model, self.preferences)
        self._given = dict(settings or {})
        self._first_context = context if context is not None else self.preferences.context
        self._typed_early: list[Event] | None = []
        """Keys from before there was anything to type into; None once there is."""
        self._open_first(resume)

    def _preferred_browsing(self) -> Browsing:
        preferences = self.preferences
        return Browsing(tuple(preferences.browse), preferences.browse_web, preferences.search_provider)

    @property
    def chat_settings(self) -> ChatSettings:
        """The settings that hold for the conversation on the screen."""
        return self.chat.settings

    def get_default_screen(self) -> ChatScreen:
        """The chat is what all else lies upon."""
        return self.chat

    def _open_first(self, resume: int | None) -> None:
        """Turns to the conversation to begin with: before the first paint, since a person may type at once."""
        self.store.mark_interrupted()
        wanted = self.place.conversation if resume is None else resume
        try:
            self.chat.open_first(wanted)
        except UsageError as error:
            self.chat.open_first(None, str(error) if resume is not None else "")
        if self._given and resume is not None:
            # What was said on the command line holds for the conversation that it names, too.
            self.chat.chat.change_settings(replace(self.chat.chat.settings, **self._given))

    def on_mount(self) -> None:
        self.call_after_refresh(lambda: self.run_worker(self._begin()))

    async def on_event(self, event: Event) -> None:
        if isinstance(event, Key | Paste):
            note_key()
        if self._typed_early is not None and isinstance(event, Key | Paste):
            self._typed_early.append(event)
        else:
            await super().on_event(event)

    async def _begin(self) -> None:
        """After the first paint."""
        # The engine's thread holds Python for so long at a time while a key waits to be painted; 5 ms by default.
        sys.setswitchinterval(SWITCH_SECONDS)
        if not gc.isenabled():
            # What was imported stays: the collector need not look at it again.
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)
            gc.enable()
        self.session.open(self._first_model, self._first_context)
        await self.chat.arrive()
        if self._first_model == POCKET and self.preferences.model is None and self.store.latest() is None:
            self.run_worker(self.offer_model(), exit_on_error=False)
        typed, self._typed_early = self._typed_early or [], None
        for event in typed:
            self.post_message(event)
        for problem in self.preferences.problems:
            self.notify(problem, severity="warning", timeout=20)
        self.kept.sweep()
        # Beside the keys: what is looked at may be slow.
        self.set_interval(LOOK_SECONDS, self._begin_to_look)

    def _begin_to_look(self) -> None:
        # The method and not its coroutine: one that an app at its end never begins would be warned of.
        self.run_worker(self._look, group="look", exclusive=True)  # type: ignore[arg-type]

    async def _look(self) -> None:
        """What has to be looked at now and then."""
        await self.keep_place()
        await asyncio.to_thread(self._look_behind)
        if notice := self.kept.take_notice():
            self.notify(notice, timeout=10, markup=False)
        for sentence in self.store.take_notices():
            self.notify(sentence, severity="warning", timeout=20)
        self.chat.show_notice()
        self.chat.report_session()
        await self.chat.follow_elsewhere()

    def _look_behind(self) -> None:
        """What is looked at on a thread."""
        self.store.retry()
        self.look_at_model()
        self.kept.look()

    def look_at_model(self) -> None:
        """Whether it is in memory, or has left and taken along what it had read."""
        if self.session.look():
            self.kept.forget()

    def change_settings(self, settings: ChatSettings) -> None:
        """Settings of the conversation on the screen, from its next answer on."""
        self.chat.change_settings(settings)

    # What happens by itself

    @on(SessionChanged)
    def session_changed(self) -> None:
        """The model is there, or not, or further."""
        if self.session.state == "loading" and self.answers.running is not None and self.answers.question is not None:
            # The model that called is gone; its question must not hold what comes.
            self.answers.running.stop()
        self.kept.model_ready()
        self.answers.pump()
        if self.session.state in ("ready", "failed"):
            # Not while it loads: both want the processor.
            self.servers.begin()
        self.chat.session_changed()

    @on(SettingsChanged)
    def conversation_shown(self) -> None:
        """Another conversation may be on the screen."""
        self.kept.show(self.chat.chat.id)
        self.reading_kept()

    @on(ReadingKept)
    def reading_kept(self) -> None:
        """Something that was read is in a file, or not any more."""
        self.chat.report_kept(self.kept.file_bytes(self.chat.chat.id))

    @on(ServersChanged)
    def servers_changed(self) -> None:
        """Servers of tools have something to say; what there is to call may be different."""
        for sentence in self.servers.take_notices():
            self.notify(sentence, severity="warning", timeout=20, title="Tools", markup=False)
        if self.tools_screen is not None and self.tools_screen.is_mounted:
            self.tools_screen.show_lines()
        if self.chat.arrived:
            self.chat.count_context()

    @on(ServersAwaited)
    def servers_awaited(self) -> None:
        """Says why an answer does not begin."""
        names = ", ".join(server.name for server in self.servers.servers if server.state == "starting")
        self.notify(f"Waiting for tools to start: {names or 'servers'}", markup=False)

    @on(DownloadChanged)
    def download_changed(self) -> None:
        """Says, wherever the reader is, when a model that was being got is there, or cannot be got."""
        name, state = self.download.model, self.download.state
        if state == self._download_state:
            return
        self._download_state = state
        if state == "done":
            self.notify(f"{name} is here and verified; F4 loads it", timeout=20, markup=False)
        elif state == "failed":
            self.notify(f"{name}: {self.download.error}", severity="error", timeout=20, markup=False)

    async def answer_begins(self, answering: "Answering") -> None:
        if answering.conversation == self.chat.chat.id:
            self.kept.show(answering.conversation)
        await self.chat.answer_begins(answering)

    def before_answer(self, conversation: int, model: "GptOss", stopped: Callable[[], bool]) -> None:
        patient = monotonic() + SERVER_SECONDS
        if not self.servers.wait(lambda: stopped() or monotonic() > patient):
            self.post_message(ServersAwaited())
            self.servers.wait(stopped)
        self.kept.wait_until_loaded(conversation, model, stopped)

    async def answer_ended(self, answering: "Answering") -> None:
        self.look_at_model()
        self.kept.answered(answering.conversation, answering.turn)
        await self.chat.answer_ended(answering)
        if answering.crashed:
            # What state the device is in, nobody knows: the next answer gets a fresh engine.
            self.kept.forget()
            self.session.reload()
            self.chat.tell(f"{self.session.name} is being loaded again, since its engine failed")

    def question_changed(self) -> None:
        self.chat.show_question()
        question = self.answers.question
        if question is not None and self.screen is not self.chat:
            self.notify(f"May {question.tool} run? Esc leaves this screen; then answer.", markup=False, timeout=15)

    def answer_note(self, conversation: int, note: Note) -> None:
        if isinstance(note, SaveFailed):
            self.notify(note.error, severity="error", title="Not saved")
        elif conversation == self.chat.chat.id:
            self.chat.post_message(note)

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        return self.run_worker(work)

    async def keep_place(self) -> None:
        """Keeps the draft and where the reader is."""
        if not self.chat.arrived:
            return
        self.chat.leave_place()
        try:
            await asyncio.to_thread(self.place.save)
        except OSError as error:
            self.log.error(f"the draft cannot be kept: {error}")
