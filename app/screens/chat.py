"""The chat: a conversation, the composer below it, and a line between them for what the reader should know now.

It shows what `Conversing` and the answers under way say. What is put on the screen runs under `_showing`, which never
waits for the engine.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from gptoss_mlx.app.answer_options import count_context, settle
from gptoss_mlx.app.answer_queue import AnswerQueue
from gptoss_mlx.app.conversation import ChatSettings, Turn
from gptoss_mlx.app.conversing import Conversing
from gptoss_mlx.app.messages import ContextChanged, SettingsChanged, TurnFinished, TurnStarted
from gptoss_mlx.app.notices import notice_text
from gptoss_mlx.app.open_chat import OpenChat
from gptoss_mlx.app.place import Place, Spot
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.prompt_history import PromptHistory
from gptoss_mlx.app.screens.reporting import ReportingScreen
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.widgets.approval_prompt import ApprovalPrompt
from gptoss_mlx.app.widgets.composer import Composer
from gptoss_mlx.app.widgets.notice import Notice
from gptoss_mlx.app.widgets.statistics_panel import StatisticsPanel
from gptoss_mlx.app.widgets.transcript import Transcript
from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.app.answering import Answering
    from gptoss_mlx.app.widgets.answer_turn import AnswerTurn


class ChatScreen(ReportingScreen):
    """One conversation at a time."""

    AUTO_FOCUS = "PromptArea"

    BINDINGS: ClassVar[list[BindingType]] = [Binding("tab", "next_part", show=False)]

    def __init__(
        self,
        store: Store,
        session: ModelSession,
        answers: AnswerQueue,
        place: Place,
        history: PromptHistory,
        preferences: Callable[[], Preferences],
        date: str | None = None,
        *,
        obey: Callable[[str], bool],
    ) -> None:
        """`obey` does what a `/word` asks for; False where the text is a message."""
        super().__init__(session, answers)
        self.chat = OpenChat(store, date)
        """What is on the screen."""
        self.conversing = Conversing(self.chat, answers, session, self)
        """What can be done to it."""
        self.arrived = False
        """Whether the first conversation is on the screen."""
        self._store = store
        self._place = place
        self._obey = obey
        self._history = history
        self._preferences = preferences
        self._problem = ""
        self._showing = asyncio.Lock()

    def compose(self) -> ComposeResult:
        preferences = self._preferences()
        with Horizontal(id="beside"):
            with Vertical(id="talk"):
                yield Transcript(keep_reasoning_open=preferences.keep_reasoning_open)
                yield ApprovalPrompt()
                yield Notice()
                yield Composer(self._history.entries)
            statistics = StatisticsPanel()
            statistics.display = preferences.show_statistics
            yield statistics
        yield from self.compose_lines()

    @property
    def transcript(self) -> Transcript:
        """The conversation's widget."""
        return self.query_one(Transcript)

    @property
    def composer(self) -> Composer:
        """Where messages are written."""
        return self.query_one(Composer)

    # What `Conversing` sees

    @property
    def draft(self) -> str:
        return self.composer.text

    def set_draft(self, text: str) -> None:
        self.composer.text = text
        self.composer.focus()

    @property
    def selected(self) -> Turn | None:
        return self.transcript.selected if self.transcript.has_focus else None

    @property
    def pointed_at(self) -> Turn:
        """The turn that a command without a turn means: the selected one, or the last answer. UsageError without."""
        last = next((turn for turn in reversed(self.chat.path) if turn.role == "assistant"), None)
        turn = self.selected or last
        if turn is None:
            raise UsageError("there is no answer yet")
        return turn

    @property
    def settings(self) -> ChatSettings:
        return settle(self.chat.settings, self._preferences(), self._session.name)

    @property
    def overflow(self) -> str:
        return self._preferences().overflow

    async def show_all(self) -> None:
        async with self._showing:
            if self._answers.running is not None:
                self._answers.running.detach()
            await self.transcript.show(self._snapshot(self.chat.path), self.chat.siblings())
            await self._attach_view()
        self.post_message(SettingsChanged())
        if (running := self._answers.under_way(self.chat.id)) is not None:
            self.post_message(TurnStarted(running.turn))
        self.show_question()
        self.count_context()

    async def show_below(self, turn: int | None) -> None:
        async with self._showing:
            await self._show_below(turn)
        self.count_context()

    def tell(self, problem: str = "") -> None:
        self._problem = problem
        self.show_notice()

    async def follow_elsewhere(self) -> None:
        """Shows what another app's answer has come to."""
        own = self._answers.under_way(self.chat.id)
        running = self.chat.running_elsewhere(None if own is None else own.turn.id)
        if running is not None and self.chat.look_again(running) != running:
            async with self._showing:
                await self._show_below(running.parent)

    # Settings and model

    def change_settings(self, settings: ChatSettings) -> None:
        """The conversation's own settings, from the next answer on."""
        self.chat.change_settings(settings)
        self.post_message(SettingsChanged())
        self.count_context()

    def change_effort(self, effort: str) -> None:
        """The effort, from the next answer on."""
        self.change_settings(replace(self.chat.settings, effort=effort))

    def session_changed(self) -> None:
        """The model is there, or not, or further."""
        self.report_session()
        self.show_notice()
        if self._session.state == "ready":
            self.count_context()

    # Answers

    async def answer_begins(self, answering: "Answering") -> None:
        """Shows the answer, where its conversation is on the screen."""
        async with self._showing:
            if answering.conversation == self.chat.id:
                self.chat.put(answering.turn)
                await self._show_below(answering.turn.parent)
                self.post_message(TurnStarted(answering.turn))
        self.show_notice()

    async def answer_ended(self, answering: "Answering") -> None:
        """Shows how it ended."""
        async with self._showing:
            if answering.conversation == self.chat.id:
                self.chat.put(answering.turn)
                if (view := self._answer_view(answering.turn.id)) is not None and view.running:
                    await view.finish(answering.turn)
                await self.transcript.update_turn(answering.turn)
                self.post_message(TurnFinished(answering.turn))
        self.show_notice()
        self.count_context()

    # Tools that ask

    @property
    def question_prompt(self) -> ApprovalPrompt:
        """Where it is decided whether a tool may run."""
        return self.query_one(ApprovalPrompt)

    def show_question(self) -> None:
        """Asks what the answer of this conversation waits for; it gets the keys where nobody is writing."""
        prompt, toolbox = self.question_prompt, self._answers.toolbox
        question = self._answers.question if self._answers.under_way(self.chat.id) is not None else None
        had_keys, writes = prompt.has_keys, self.composer.has_focus_within and bool(self.draft)
        prompt.show(question, "" if question is None else toolbox.place(question.toolbox_name))
        if question is None and had_keys:
            self.composer.focus()
        elif question is not None and not writes and not self.transcript.has_focus:
            prompt.focus()
        self.report_question()
        self.show_notice()

    def action_next_part(self) -> None:
        """Tab: to the question where there is one; between the composer and the transcript otherwise."""
        prompt = self.question_prompt
        if prompt.display and not prompt.has_keys:
            prompt.focus()
        elif prompt.display:
            self.composer.focus()
        else:
            self.focus_next()

    @on(ApprovalPrompt.Always)
    def always(self, event: ApprovalPrompt.Always) -> None:
        """The tool need not ask again."""
        if (running := self._answers.running) is not None:
            running.approval.always(event.question)

    @on(ApprovalPrompt.Typed)
    def typed(self, event: ApprovalPrompt.Typed) -> None:
        """What was typed as the question came belongs to the message that was begun."""
        self.set_draft(self.draft + event.character)

    async def _show_below(self, turn: int | None) -> None:
        """The turns of the path after that one, anew: few, as branches begin near the end."""
        start = next((index + 1 for index, known in enumerate(self.chat.path) if known.id == turn), 0)
        turns = self.chat.path[start:]
        siblings = self.chat.siblings(turns)
        running = self._answers.under_way(self.chat.id)
        if running is not None:
            running.detach()
        with self.app.batch_update():
            await self.transcript.remove_after(turn)
            for shown in self._snapshot(turns):
                await self.transcript.add(shown, siblings[shown.id])
        await self._attach_view()

    def _snapshot(self, turns: list[Turn]) -> list[Turn]:
        """The turns, the one under way with all that has come of it."""
        running = self._answers.under_way(self.chat.id)
        return [running.snapshot() if running is not None and turn.id == running.turn.id else turn for turn in turns]

    async def _attach_view(self) -> None:
        running = self._answers.under_way(self.chat.id)
        if running is not None and (view := self._answer_view(running.turn.id)) is not None:
            await running.attach(view)

    def _answer_view(self, turn: int) -> "AnswerTurn | None":
        # What shows an answer (Markdown, colours for code) is imported with the first one.
        from gptoss_mlx.app.widgets.answer_turn import AnswerTurn

        view = self.transcript.view(turn)
        return view if isinstance(view, AnswerTurn) else None

    # What is below the conversation

    @on(Composer.Submitted)
    def send(self, event: Composer.Submitted) -> None:
        """Says what was typed, or does it where it is a `/word`."""
        try:
            if self._obey(event.text):
                return
        except UsageError as error:
            self.set_draft(event.text)
            self.tell(str(error))
            return
        self._history.add(event.text)
        self.run_worker(self.conversing.send(event.text))

    def show_notice(self) -> None:
        """Says what the reader should know now: what went wrong, what is edited, what waits."""
        if not self.query(Notice):
            return  # The app is ending.
        problem = self._problem or self._store.trouble or self._history.trouble or ""
        text = problem or notice_text(self.chat, self.conversing.editing, self._answers, self._session)
        self.query_one(Notice).say(text, problem=bool(problem))

    @work(exclusive=True, group="context", exit_on_error=True)
    async def count_context(self) -> None:
        """Tells how much of the context the conversation takes; while an answer comes, that answer tells."""
        model, path = self._session.model, list(self.chat.path)
        if model is None or self._answers.under_way(self.chat.id) is not None:
            return
        try:
            used = await asyncio.to_thread(
                count_context,
                model,
                path,
                self.settings,
                self._answers.toolbox,
                date=self.chat.date,
                overflow=self.overflow,
            )
        except UsageError:
            # A tool cannot be used: that is told when something is said.
            return
        self.post_message(ContextChanged(used, model.context_limit))

    # Where the reader is

    def leave_place(self) -> None:
        """Notes where the reader is, and what is typed and not sent."""
        transcript, editing = self.transcript, self.conversing.editing
        below = 0 if transcript.follows_end else max(0, round(transcript.max_scroll_y - transcript.scroll_y))
        self._place.leave(self.chat.id, Spot(self.draft, None if editing is None else editing.id, below))

    def open_first(self, conversation: int | None, problem: str = "") -> None:
        """Turns to that conversation before there is a screen. Raises UsageError when there is none."""
        self.chat.open(conversation)
        self._problem = problem

    def on_mount(self) -> None:
        # Before any key: what is typed at once comes after the draft.
        self.set_draft(self._place.spot(self.chat.id).draft)

    async def arrive(self) -> None:
        """Shows the first conversation, where the reader left it."""
        spot = self._place.spot(self.chat.id)
        await self.conversing.begin(spot.editing)
        self._scroll_back(spot)
        self.arrived = True

    async def go_to(self, conversation: int | None) -> None:
        """Turns to that conversation, where the reader left it. Raises UsageError when there is none."""
        self.leave_place()
        spot = self._place.spot(conversation)
        await self.conversing.open(conversation, spot.draft, spot.editing)
        self._place.leave(conversation, spot)
        self._scroll_back(spot)

    def _scroll_back(self, spot: Spot) -> None:
        if spot.lines_below:
            transcript = self.transcript
            self.call_after_refresh(
                lambda: transcript.scroll_to(y=transcript.max_scroll_y - spot.lines_below, animate=False)
            )
