"""A screen with the lines that report: status, statistics, keys. It turns the app's messages into what they show."""

from typing import Final

from textual import on
from textual.app import ComposeResult
from textual.events import DescendantBlur, DescendantFocus
from textual.screen import Screen

from gptoss_mlx.app.answer_queue import AnswerQueue
from gptoss_mlx.app.conversation import ChatSettings, Turn
from gptoss_mlx.app.displayed_text import displayable
from gptoss_mlx.app.messages import (
    ContextChanged,
    SettingsChanged,
    TurnFinished,
    TurnProgress,
    TurnSpeed,
    TurnStarted,
)
from gptoss_mlx.app.open_chat import OpenChat
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.widgets.approval_prompt import ApprovalPrompt
from gptoss_mlx.app.widgets.key_line import KeyLine
from gptoss_mlx.app.widgets.statistics_panel import StatisticsPanel
from gptoss_mlx.app.widgets.status_line import StatusLine
from gptoss_mlx.app.widgets.transcript import Transcript

WIDE_COLUMNS: Final = 110
"""From here on there is room for the statistics beside the conversation."""


class ReportingScreen(Screen[None]):
    """What the chat screen says about the model and its answers."""

    chat: OpenChat
    """What is on the screen."""

    def __init__(self, session: ModelSession, answers: AnswerQueue) -> None:
        super().__init__()
        self._session = session
        self._answers = answers

    def compose_lines(self) -> ComposeResult:
        """Status and keys, for the end of the screen."""
        yield StatusLine()
        yield KeyLine()

    @property
    def settings(self) -> ChatSettings:
        """Those that hold, settled with the preferences."""
        raise NotImplementedError

    @property
    def statistics(self) -> StatisticsPanel:
        """The panel."""
        return self.query_one(StatisticsPanel)

    def show_statistics(self, shown: bool) -> None:
        """Shows the panel, beside the conversation where there is room for that, else below it; or takes it away."""
        self.statistics.display = shown
        if shown:
            self.query_one("#beside").set_class(self.size.width >= WIDE_COLUMNS, "-wide")
            self.run_worker(self.statistics.furnish(), group="statistics")

    def on_resize(self) -> None:
        self.show_statistics(self.statistics.display)

    def report_session(self) -> None:
        """How the model is."""
        session = self._session
        if not self.query(StatusLine):
            return  # The app is ending.
        self._status.change(
            model=session.name or "" if session.model is None else session.model.name,
            session=session.state,
            loading=session.progress,
            checking=session.checking,
            unloaded=session.unloaded,
            hosts=0 if session.model is None else len(session.model.hosts),
            starting=session.starting,
            memory_bytes=None if session.model is None else session.model.memory().active_bytes,
        )

    def report_kept(self, file_bytes: int | None) -> None:
        """How large the file is with what was read of the conversation on the screen."""
        self.statistics.show_kept(file_bytes)

    @on(SettingsChanged)
    def report_settings(self) -> None:
        """The effort; and, where another conversation came, its last answer."""
        self._status.change(effort=self.settings.effort or "")
        if self._answers.under_way(self.chat.id) is None:
            last = next((turn for turn in reversed(self.chat.path) if turn.role == "assistant"), None)
            self._report_answer(last)
            self._moment()

    @on(ContextChanged)
    def report_context(self, message: ContextChanged) -> None:
        self._status.change(used=message.used, limit=message.limit)

    @on(TurnStarted)
    def report_start(self, message: TurnStarted) -> None:
        self._status.change(answering=True, reading=None, tokens_per_second=None, ttft_seconds=None)
        self.statistics.begin(message.turn)
        self._moment()

    @on(TurnProgress)
    def report_progress(self, message: TurnProgress) -> None:
        self._status.change(reading=message.progress)

    @on(TurnSpeed)
    def report_speed(self, message: TurnSpeed) -> None:
        self._status.change(
            reading=None, tokens_per_second=message.tokens_per_second, ttft_seconds=message.ttft_seconds
        )
        self.statistics.add_speed(message.tokens, message.tokens_per_second)

    @on(TurnFinished)
    def report_end(self, message: TurnFinished) -> None:
        self._report_answer(message.turn)
        self.report_session()
        self._moment()

    def report_question(self) -> None:
        """The tool that waits for the person's word, in whichever conversation."""
        question = self._answers.question
        self._status.change(asking="" if question is None else displayable(question.tool))
        self._moment()

    def on_descendant_focus(self, _: DescendantFocus) -> None:
        self._moment()

    def on_descendant_blur(self, _: DescendantBlur) -> None:
        self._moment()

    @property
    def _status(self) -> StatusLine:
        return self.query_one(StatusLine)

    def _report_answer(self, turn: Turn | None) -> None:
        """The figures of an answer that is over."""
        stats = {} if turn is None else turn.stats
        self._status.change(
            answering=False,
            reading=None,
            tokens_per_second=stats.get("generation_tps") or None,
            ttft_seconds=stats.get("ttft_seconds") or None,
        )
        self.statistics.show(turn)

    def _moment(self) -> None:
        """Which keys matter now."""
        line = self.query_one(KeyLine)
        if self.query_one(ApprovalPrompt).has_keys:
            line.moment = "asked"
        elif self._answers.under_way(self.chat.id) is not None:
            line.moment = "answering"
        else:
            focused = self.focused
            reads = focused is not None and any(isinstance(node, Transcript) for node in focused.ancestors_with_self)
            line.moment = "reading" if reads else "writing"
