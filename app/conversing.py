"""What a person does to a conversation: send, edit, take back, answer again, go on, change branches. Knows no widgets.

One thing is done after the other, since each may have to wait until the engine has stopped. Stopping itself waits for
nothing, so that Esc always works. Nothing that was typed is lost: what cannot be sent goes back into the composer, and
what is replaced stays in the store as a branch.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gptoss_mlx.app.answer_options import count_context
from gptoss_mlx.app.answer_queue import AnswerQueue, Request
from gptoss_mlx.app.conversation import Attachment, ChatSettings, Turn
from gptoss_mlx.app.open_chat import OpenChat
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.errors import GptOssError, UsageError
from gptoss_mlx.harmony import Message

if TYPE_CHECKING:
    from gptoss_mlx.harmony import Message


class Stage(Protocol):
    """Where the conversation is shown (the chat screen)."""

    @property
    def draft(self) -> str:
        """What stands in the composer."""
        ...

    def set_draft(self, text: str) -> None:
        """Puts the text into the composer, in place of what stood there."""

    @property
    def selected(self) -> Turn | None:
        """The turn that the reader is at; None while a message is written."""
        ...

    @property
    def settings(self) -> ChatSettings:
        """Those that hold, settled with the preferences."""
        ...

    @property
    def overflow(self) -> str:
        """What happens when a conversation does not fit, as in the preferences."""
        ...

    async def show_all(self) -> None:
        """Shows another conversation."""

    async def show_below(self, turn: int | None) -> None:
        """Shows anew what comes after that turn of the path (None: all of it)."""

    def tell(self, problem: str = "") -> None:
        """Says what went wrong (empty: nothing), and shows what waits and what is edited."""

    def show_notice(self) -> None:
        """Shows what went wrong, what waits and what is edited, as it is now."""


class Conversing:
    """Acts on the conversation on the screen."""

    def __init__(self, chat: OpenChat, answers: AnswerQueue, session: ModelSession, stage: Stage) -> None:
        self.editing: Turn | None = None
        """The user's turn whose text is in the composer; sending makes a branch beside it."""
        self._chat = chat
        self._answers = answers
        self._session = session
        self._stage = stage
        self._set_aside = ""
        self._doing = asyncio.Lock()

    async def finish(self, seconds: float) -> None:
        """For the end of the app: what is being done is done first (that long at most), and nothing is begun then."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._doing.acquire(), seconds)

    # Writing

    async def send(self, text: str) -> None:
        """Says it, or tells why it cannot be said; then it stands in the composer again."""
        if not text.strip():
            return
        async with self._doing:
            try:
                message, attachments = await asyncio.to_thread(self._read, text)
                await self._say(text, message, attachments)
            except (GptOssError, OSError) as error:
                self._give_back(text)
                self._stage.tell(str(error))

    async def _say(self, text: str, message: Message, attachments: Sequence[Attachment]) -> None:
        edited = self.editing
        parent = self._chat.leaf if edited is None else edited.parent
        self._refuse_elsewhere()
        await self._check_fit(Turn(0, parent, "user", (message,)))
        if edited is not None:
            await self._go_back(parent)
        turn = self._chat.say(text, message, attachments)
        if edited is not None:
            self.editing = None
            if not self._stage.draft:
                self._stage.set_draft(self._set_aside)
        await self._stage.show_below(turn.parent)
        self._ask(turn)

    async def edit(self, at: Turn | None) -> None:
        """Puts the message at `at` (or the last) into the composer. Nothing changes before it is sent."""
        async with self._doing:
            turn = self._chat.user_turn(at)
            if self.editing is None:
                self._set_aside = self._stage.draft
            self.editing = turn
            self._stage.set_draft(turn.text)
            self._stage.tell()

    def leave_edit(self) -> None:
        """Forgets what was being edited; the draft of before is in the composer again."""
        if self.editing is not None:
            self.editing = None
            self._stage.set_draft(self._set_aside)
            self._stage.tell()

    async def undo(self) -> None:
        """Goes back before the last message, whose text is in the composer then."""
        async with self._doing:
            turn = self._chat.user_turn()
            await self._go_back(turn.parent)
            self.editing = None
            await self._stage.show_below(turn.parent)
            self._give_back(turn.text)
            self._stage.tell()

    # Answers

    async def regenerate(self, at: Turn | None) -> None:
        """A new answer to the message at `at` (or the last one), beside the old."""
        async with self._doing:
            turn = self._chat.user_turn(at)
            await self._go_back(turn.id)
            await self._stage.show_below(turn.id)
            self._ask(turn)

    async def go_on(self) -> None:
        """The answer that was cut short goes on."""
        async with self._doing:
            self._ask(self._chat.cut_short(), goes_on=True)

    def answer_now(self) -> None:
        """Cuts the thinking short."""
        if (answering := self._answers.under_way(self._chat.id)) is not None:
            answering.answer_now()

    def stop(self) -> None:
        """Stops the answer; where none is under way, what waits or is edited is let go. Nothing is lost either way."""
        if (answering := self._answers.under_way(self._chat.id)) is not None:
            answering.stop()
        elif self._chat.id is not None and self._answers.waiting(self._chat.id) is not None:
            self._answers.withdraw(self._chat.id)
        else:
            self.leave_edit()
        self._stage.tell()

    # Moving

    async def branch(self, at: Turn | None, step: int) -> None:
        """Shows another branch: the one `step` on from `at`, or from the last place where there are some."""
        async with self._doing:
            below = self._chat.turn_branch(at, step)
            if self._chat.id is not None:
                self._answers.withdraw(self._chat.id)
            self.editing = None
            await self._stage.show_below(below)
            self._stage.tell()

    async def begin(self, editing: int | None) -> None:
        """Shows the conversation that the app begins with; its draft is in the composer already."""
        async with self._doing:
            self._edit(editing)
            await self._stage.show_all()
            self._stage.show_notice()

    async def open(self, conversation: int | None, draft: str = "", editing: int | None = None) -> None:
        """Turns to another conversation (None: a new one) and to what was being written in it.

        The answer of the one before goes on. Raises UsageError when there is no such conversation.
        """
        async with self._doing:
            self._chat.open(conversation)
            self._edit(editing)
            self._stage.set_draft(draft)
            await self._stage.show_all()
            self._stage.tell()

    def _edit(self, turn: int | None) -> None:
        self.editing = next((known for known in self._chat.path if known.id == turn), None)
        self._set_aside = ""

    def _read(self, text: str) -> "tuple[Message, Sequence[Attachment]]":
        """The message, with the files that it names and, where a model is there, their cost."""
        # The first paint is without them.
        from gptoss_mlx.app.attachments import count_tokens, read_message

        message, attachments = read_message(text)
        if (model := self._session.model) is not None:
            attachments = count_tokens(attachments, lambda part: len(model.tokenizer.encode(part)))
        return message, attachments

    def _refuse_elsewhere(self) -> None:
        own = self._answers.under_way(self._chat.id)
        if self._chat.running_elsewhere(None if own is None else own.turn.id) is not None:
            raise UsageError("another window of gptoss answers in this conversation; wait until it is through")

    def _ask(self, turn: Turn, *, goes_on: bool = False) -> None:
        assert self._chat.id is not None
        self._answers.ask(Request(self._chat.id, turn.id, goes_on))
        self._stage.tell()

    async def _go_back(self, leaf: int | None) -> None:
        self._refuse_elsewhere()
        await self._answers.settle(self._chat.id)
        self._chat.cut(leaf)

    def _give_back(self, text: str) -> None:
        """Text that was sent, or said, stands in the composer, before what was typed since."""
        self._stage.set_draft("\n".join(part for part in (text, self._stage.draft) if part))

    async def _check_fit(self, turn: Turn) -> None:
        """Raises UsageError when the conversation would be too long with that turn.

        Without a model, or while an answer comes, nobody knows yet: then the answer fails, and says why.
        """
        model = self._session.model
        if model is None or self._answers.under_way(self._chat.id) is not None:
            return
        kept = next((index + 1 for index, known in enumerate(self._chat.path) if known.id == turn.parent), 0)
        path = [*self._chat.path[:kept], turn]
        stage, toolbox = self._stage, self._answers.toolbox
        used = await asyncio.to_thread(
            count_context, model, path, stage.settings, toolbox, date=self._chat.date, overflow=stage.overflow
        )
        if used >= model.context_limit:
            drops = stage.overflow == "drop_oldest"
            what = "this message and the instructions alone are" if drops else "with this message the conversation is"
            way_out = "shorten it" if drops else "shorten it, take messages back, begin a new chat"
            raise UsageError(
                f"{what} {used} tokens long, and {model.name} was loaded for {model.context_limit}: {way_out}, or load "
                "the model with a longer context"
            )
