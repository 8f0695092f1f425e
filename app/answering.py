"""One answer under way: from the stream to the widget that shows it and to the store that keeps it.

Two things go on side by side on the app's loop. Events are read as they come, and the widget is told of each; it
decides when to paint. Twice a second the store is given what has come, so that a killed app has lost less than a second
of text. The widget may come and go while the answer goes on. Knows no widgets and no screens.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from textual.message import Message as Note

from gptoss_mlx.app.conversation import Turn, TurnState
from gptoss_mlx.app.messages import ContextChanged, SaveFailed, TurnProgress, TurnSpeed
from gptoss_mlx.app.partial_answer import PartialAnswer
from gptoss_mlx.errors import EngineClosed, EngineError, GptOssError
from gptoss_mlx.events import Done, Event, PromptProgress

if TYPE_CHECKING:
    from gptoss_mlx.app.approval import Approval
    from gptoss_mlx.chat import Chat
    from gptoss_mlx.events import Reply
    from gptoss_mlx.harmony import Message
    from gptoss_mlx.stream import Stream

SAVE_SECONDS = 0.5
"""Between two times that the store is given what came."""

NOTE_SECONDS = 0.25
"""Between two notes of the speed."""


class AnswerView(Protocol):
    """What shows an answer."""

    async def feed(self, event: Event) -> None:
        """Takes what came; comes back at once."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer that the engine works at."""

    chat: "Chat"
    stream: "Stream"
    said: int
    """Messages of the chat before the answer."""
    context_limit: int
    before: "tuple[Message, ...]" = ()
    """What the answer said before the first event of the stream, where it goes on after a tool's result."""


class Answering:
    """The answer that is under way."""

    def __init__(
        self,
        conversation: int,
        turn: Turn,
        save: Callable[[Turn], None],
        post: Callable[[Note], object],
        approval: "Approval",
    ) -> None:
        """`turn` is the model's, as it stands in the store (with what it said, when it goes on). `save` overwrites it
        there, and may be called on any thread; `post` tells who shows progress and speed."""
        self.conversation = conversation
        self.approval = approval
        """Decides on its calls of tools."""
        self.turn = turn
        """As it stood when it was saved last; its final state when `run` is through."""
        self.view: AnswerView | None = None
        self.ended = asyncio.Event()
        """Set when it is through: saved, and shown as it stands."""
        self.crashed = False
        """True when the engine failed, rather than the request."""
        self.stopped = False
        """True once `stop` was called."""
        self._save = save
        self._post = post
        self._began = time.perf_counter()
        self._partial = PartialAnswer()
        self._stream: Stream | None = None
        self._over = asyncio.Event()
        self._missed: list[Event] = []
        self._noted = 0.0
        self._thought = turn.reasoning_seconds

    def snapshot(self) -> Turn:
        """The turn with all that has come, for a view of it; `attach` that view, and it is told what came since."""
        self.view, self._missed = None, []
        return self._as_it_stands()

    async def attach(self, view: AnswerView) -> None:
        """From now on `view`, which was made from the last `snapshot`, shows it."""
        missed, self._missed, self.view = self._missed, [], view
        for event in missed:
            await view.feed(event)

    def detach(self) -> None:
        """Nobody shows it; it goes on."""
        self.view = None

    def stop(self) -> None:
        """Ends it within a token, or a chunk of the prompt; what came is kept. Again: nothing more happens."""
        self.stopped = True
        self.approval.withdraw()
        if self._stream is not None:
            self._stream.cancel()

    def answer_now(self) -> None:
        """Cuts the thinking short."""
        if self._stream is not None:
            self._stream.answer_now()

    async def run(self, begin: Callable[[], Begun]) -> Turn:
        """Begins (`begin` runs on a thread: it encodes the prompt), follows the answer to its end; gives the turn."""
        keeper = asyncio.create_task(self._keep())
        try:
            begun = await asyncio.to_thread(begin)
            self._stream = begun.stream
            self._partial.before = begun.before
            if self.stopped:
                begun.stream.cancel()
            await self._follow(begun)
        except Exception as error:
            self.crashed = isinstance(error, EngineError) and not isinstance(error, EngineClosed)
            self._end(
                "failed", error=str(error) if isinstance(error, GptOssError) else f"{type(error).__name__}: {error}"
            )
        finally:
            self._over.set()
        await keeper
        await self._write()
        return self.turn

    async def _follow(self, begun: Begun) -> None:
        async for event in begun.stream.aevents():
            self._partial.take(event)
            if isinstance(event, Done):
                reply = event.reply
                whole = reply.finish_reason in ("stop", "tool_calls")
                seconds = [*self._earlier_seconds(begun), *(result.seconds for result in reply.tool_results)]
                warnings = [warning.to_dict() for warning in reply.warnings]
                self._end(
                    "complete" if whole else "stopped",
                    messages=tuple(begun.chat.turns[begun.said :]),
                    finish_reason=reply.finish_reason,
                    stats={
                        **reply.stats.to_dict(),
                        **self._dropped(),
                        **({"warnings": warnings} if warnings else {}),
                        **({"tool_seconds": seconds} if seconds else {}),
                        **({"citations": labels} if (labels := self._citation_labels(reply)) else {}),
                    },
                )
                return
            if isinstance(event, PromptProgress):
                self._post(TurnProgress(event))
            if self._partial.reading:
                # What comes before was said before: the view has it from the snapshot.
                await self._show(event)
            self._note_speed(begun.context_limit)

    def _earlier_seconds(self, begun: Begun) -> Sequence[float]:
        """How long the tools ran of an answer that goes on, where each of them is known."""
        known: Sequence[float] = self.turn.stats.get("tool_seconds", ())
        return known if len(known) == sum(message.role == "tool" for message in begun.before) else ()

    def _citation_labels(self, reply: "Reply") -> dict[str, str]:
        """For the turn's stats: the citations of the answer as they stand in it, and as people read them."""
        labels = {reply.text[each.start : each.end]: each.label for each in reply.citations}
        return {**self.turn.stats.get("citations", {}), **labels}

    async def _show(self, event: Event) -> None:
        if self.view is None:
            self._missed.append(event)
        else:
            await self.view.feed(event)

    def _note_speed(self, limit: int) -> None:
        now, partial = time.perf_counter(), self._partial
        if partial.first is not None and now - self._noted > NOTE_SECONDS:
            self._noted = now
            self._post(TurnSpeed(partial.tokens, partial.speed(), partial.first - self._began))
            self._post(ContextChanged(partial.context_tokens, limit))

    def _end(self, state: TurnState, **changes: object) -> None:
        self._partial.end()
        self.turn = replace(self._as_it_stands(), state=state, **changes)  # type: ignore[arg-type]

    def _as_it_stands(self) -> Turn:
        partial = self._partial
        if not partial.reading:
            return self.turn
        thought = partial.reasoning_seconds
        if self._thought is not None:
            thought = self._thought + (thought or 0.0)
        stats = {**self.turn.stats, **self._dropped()}
        return replace(self.turn, messages=partial.messages(), reasoning_seconds=thought, stats=stats)

    def _dropped(self) -> dict[str, Any]:
        """For the turn's stats: what the model did not read of the conversation."""
        dropped = self._partial.dropped
        return {} if dropped is None else {"dropped": {"turns": dropped.turns, "tokens": dropped.tokens}}

    async def _keep(self) -> None:
        kept = (-1, 0)
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), SAVE_SECONDS)
            if not self._over.is_set() and self._partial.size != kept:
                kept = self._partial.size
                self.turn = self._as_it_stands()
                await self._write()

    async def _write(self) -> None:
        try:
            await asyncio.to_thread(self._save, self.turn)
        except Exception as error:
            # A full disk must not end the answer: it goes on, and the next save may succeed.
            self._post(SaveFailed(str(error)))
