"""A running turn as the caller sees it: the answer's text, or every event, sync or async; it can be cut short or
stopped."""

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

from gptoss_mlx.engine import Job
from gptoss_mlx.errors import Cancelled, EngineError
from gptoss_mlx.events import Done, Event, Reply, TextDelta
from gptoss_mlx.harmony import FINAL


class Stream:
    """One turn while it runs.

    Iterating gives the text of the final channel only; `events()` gives everything. `reply` is the finished turn. Use
    it as a context manager, or let it go: a stream that nobody holds stops the model.
    """

    def __init__(self, job: Job[Event]) -> None:
        self._job = job
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

    def _keep(self, event: Event) -> None:
        if isinstance(event, Done):
            self._reply = event.reply

    def _finished(self) -> Reply:
        if self._reply is None:
            if self._job.ticket.cancelled():
                raise Cancelled("the turn was stopped before it began")
            raise EngineError("the turn ended without a reply")
        return self._reply
