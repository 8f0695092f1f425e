"""A running turn as the caller sees it: the answer's text, or every event, sync or async; it can be cut short or
stopped. Questions whether a tool may run are answered where it is read."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator
from types import TracebackType
from typing import Self, TypeAlias

from gptoss_mlx.engine import Job
from gptoss_mlx.errors import Cancelled, EngineError
from gptoss_mlx.events import Done, Event, Reply, TextDelta
from gptoss_mlx.harmony import FINAL
from gptoss_mlx.tools import ApprovalRequest, Approve, Verdict

StreamJob: TypeAlias = Job[Event] | Job[Event | ApprovalRequest]
"""What a stream reads: a turn, or a turn whose tools may have to be approved."""


class Stream:
    """One turn while it runs.

    Iterating gives the text of the final channel only; `events()` gives everything. `reply` is the finished turn. Use
    it as a context manager, or let it go: a stream that nobody holds stops the model.
    """

    def __init__(self, job: StreamJob, approve: Approve | None = None) -> None:
        """`approve` decides on tool calls that ask."""
        self._job = job
        self._approve = approve
        self._reply: Reply | None = None

    def __iter__(self) -> Iterator[str]:
        for event in self.events():
            if isinstance(event, TextDelta) and event.channel == FINAL:
                yield event.text

    def events(self) -> Iterator[Event]:
        """Every event in order, `Done` last. Raises what the engine raised.

        What one reader took, another does not see again: read a stream from one place.
        """
        try:
            for event in self._job:
                if isinstance(event, ApprovalRequest):
                    event.decide(self._ask(event))
                    continue
                self._keep(event)
                yield event
        except KeyboardInterrupt:
            # Ctrl-C while waiting: the reader goes, so the model must not go on by itself.
            self.cancel()
            raise

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.aevents():
            if isinstance(event, TextDelta) and event.channel == FINAL:
                yield event.text

    async def aevents(self) -> AsyncIterator[Event]:
        """`events` for asyncio."""
        async for event in self._job:
            if isinstance(event, ApprovalRequest):
                event.decide(await self._aask(event))
                continue
            self._keep(event)
            yield event

    def cancel(self) -> None:
        """Stops the model within one prefill chunk or one token. What came so far stays, in `reply` too."""
        self._job.cancel()

    def answer_now(self) -> None:
        """Closes the reasoning at the next token; the model answers with what it has."""
        self._job.ticket.hurry()

    @property
    def reply(self) -> Reply:
        """The finished turn; reads the rest of the stream if there is any. Raises what the engine raised."""
        if self._reply is None:
            for _ in self.events():
                pass
        return self._finished()

    async def areply(self) -> Reply:
        """`reply` for asyncio."""
        if self._reply is None:
            async for _ in self.aevents():
                pass
        return self._finished()

    @property
    def finished(self) -> bool:
        """True when the engine is through with this turn."""
        return self._job.ended

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until the engine is through with this turn; False when `timeout` seconds passed first."""
        return self._job.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        job = getattr(self, "_job", None)
        if job is not None:
            job.cancel()

    def _ask(self, request: ApprovalRequest) -> Verdict:
        """What the caller says to a tool call. An error of the caller's code stops the turn and is the reader's."""
        assert self._approve is not None, "the loop asks only where somebody can answer"
        try:
            verdict = self._approve(request.call)
            return asyncio.run(_awaited(verdict)) if inspect.isawaitable(verdict) else verdict
        except BaseException:
            self.cancel()
            raise

    async def _aask(self, request: ApprovalRequest) -> Verdict:
        assert self._approve is not None, "the loop asks only where somebody can answer"
        try:
            if inspect.iscoroutinefunction(self._approve):
                return await _awaited(self._approve(request.call))
            # It may wait for a person: not in the event loop.
            verdict = await asyncio.to_thread(self._approve, request.call)
            return await _awaited(verdict) if inspect.isawaitable(verdict) else verdict
        except BaseException:
            self.cancel()
            raise

    def _keep(self, event: Event) -> None:
        if isinstance(event, Done):
            self._reply = event.reply

    def _finished(self) -> Reply:
        if self._reply is None:
            if self._job.ticket.cancelled():
                raise Cancelled("the turn was stopped before it began")
            raise EngineError("the turn ended without a reply")
        return self._reply


async def _awaited(verdict: Awaitable[Verdict]) -> Verdict:
    return await verdict
