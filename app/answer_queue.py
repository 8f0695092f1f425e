"""Which answer is under way and which messages wait for theirs. Knows no widgets.

A message can be sent at any time: while the model loads, while another answer comes, here or in another conversation.
It is in the store from then on, waits for its turn, and is answered when the model is there and free. One answer is
under way at a time; it goes on when the reader turns to another conversation.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from textual.message import Message as Note

from gptoss_mlx.app.answer_options import begin_answer, settle
from gptoss_mlx.app.conversation import Conversation, Turn
from gptoss_mlx.app.messages import SaveFailed
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.tool_sessions import ConversationSessions
from gptoss_mlx.app.toolbox import Toolbox
from gptoss_mlx.errors import GptOssError

if TYPE_CHECKING:
    from gptoss_mlx.api import GptOss
    from gptoss_mlx.app.answering import Answering, Begun
    from gptoss_mlx.app.approval import Question


@dataclass(frozen=True, slots=True)
class Request:
    """An answer that is wanted."""

    conversation: int
    turn: int
    """The user's turn to be answered; with `goes_on`, the model's turn that was cut short."""
    goes_on: bool = False


class Audience(Protocol):
    """Who is told of answers (the app)."""

    preferences: Preferences

    async def answer_begins(self, answering: "Answering") -> None:
        """It is in the store, and under way from now on."""

    async def answer_ended(self, answering: "Answering") -> None:
        """`answering.turn` is as it stands from now on; it is saved."""

    def question_changed(self) -> None:
        """A tool of the running answer waits for the person's word, or does not any more."""

    def answer_note(self, conversation: int, note: Note) -> None:
        """Progress, speed and the like."""

    def before_answer(self, conversation: int, model: "GptOss", stopped: Callable[[], bool]) -> None:
        """Called on a thread before the model is asked; may take its time until `stopped` says that nobody waits."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Runs `work` on the app's loop."""


class AnswerQueue:
    """Answers one request after the other."""

    def __init__(self, store: Store, session: ModelSession, audience: Audience, toolbox: Toolbox) -> None:
        self.running: Answering | None = None
        self.toolbox = toolbox
        """What models may call."""
        self.tool_sessions = ConversationSessions()
        """What these keep between calls."""
        self._store = store
        self._session = session
        self._audience = audience
        self._requests: list[Request] = []

    def ask(self, request: Request) -> None:
        """Asks for an answer, at once where nothing is before it.

        What waited in the same conversation is on the path of this one: both are answered in one.
        """
        self.withdraw(request.conversation)
        self._requests.append(request)
        self.pump()

    def waiting(self, conversation: int) -> Request | None:
        """The request of that conversation that has not begun yet, if there is one."""
        return next((request for request in self._requests if request.conversation == conversation), None)

    def under_way(self, conversation: int | None) -> "Answering | None":
        """The running answer, if it belongs to that conversation."""
        return self.running if self.running is not None and self.running.conversation == conversation else None

    @property
    def question(self) -> "Question | None":
        """The tool call that waits for the person's word."""
        return None if self.running is None else self.running.approval.question

    def withdraw(self, conversation: int) -> None:
        """Nothing of that conversation waits any more; the messages stay."""
        self._requests = [request for request in self._requests if request.conversation != conversation]

    async def settle(self, conversation: int | None) -> None:
        """Stops that conversation's answer and withdraws what waits there; back when what was said is saved."""
        if conversation is None:
            return
        self.withdraw(conversation)
        if (answering := self.under_way(conversation)) is not None:
            answering.stop()
            await answering.ended.wait()

    async def finish(self, seconds: float) -> None:
        """Stops everything, for the end of the app: waits that long at most for the running answer to be saved."""
        self._requests.clear()
        if self.running is not None:
            self.running.stop()
            try:
                await asyncio.wait_for(self.running.ended.wait(), seconds)
            except TimeoutError:
                # The engine is in the middle of a chunk. What came is in the store; the next start marks it stopped.
                return

    def pump(self) -> None:
        """Begins the next answer if the model is there and free: to be called when the session changed."""
        model = self._session.model
        if self.running is not None or not self._requests or self._session.state != "ready" or model is None:
            return
        request = self._requests.pop(0)
        try:
            conversation, path, turn = self._prepare(request, model.name)
        except GptOssError as error:
            # It may have been deleted meanwhile.
            self._audience.answer_note(request.conversation, SaveFailed(str(error)))
            self.pump()
            return
        preferences = self._audience.preferences
        settings = settle(conversation.settings, preferences, self._session.name)
        # The first paint is without it.
        from gptoss_mlx.app.answering import Answering
        from gptoss_mlx.app.approval import Approval

        approval = Approval(self.toolbox, self._audience.question_changed)
        self.running = answering = Answering(
            request.conversation,
            turn,
            self._store.save_turn,
            lambda note: self._audience.answer_note(request.conversation, note),
            approval,
        )

        sessions = self.tool_sessions.of(request.conversation)

        def begin() -> "Begun":
            self._audience.before_answer(request.conversation, model, lambda: answering.stopped)
            return begin_answer(
                model,
                path,
                settings,
                self.toolbox,
                date=conversation.date,
                overflow=preferences.overflow,
                approval=approval,
                sessions=sessions,
                goes_on=request.goes_on,
            )

        async def answer() -> None:
            await self._audience.answer_begins(answering)
            await answering.run(begin)
            self.running = None
            await self._audience.answer_ended(answering)
            answering.ended.set()
            self.pump()

        self._audience.spawn(answer())

    def _prepare(self, request: Request, model: str) -> tuple[Conversation, list[Turn], Turn]:
        """The conversation, the path up to what is asked for, and the answer's turn, in the store from now on."""
        conversation = self._store.get(request.conversation)
        path = self._store.path(request.conversation, request.turn)
        if request.goes_on:
            turn = replace(path[-1], state="running", error=None)
            self._store.save_turn(turn)
        else:
            new = Turn(0, request.turn, "assistant", state="running", created=time.time(), model=model)
            turn = self._store.add_turn(request.conversation, new)
        return conversation, path, turn
