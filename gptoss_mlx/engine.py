"""One thread that owns the model: everything that touches MLX runs there, because MLX streams are local to a thread.

Work goes in as a callable that gets the model; it comes out as a result (`Engine.call`) or as a stream of items
(`Engine.stream`). Jobs run one after the other in the order they came. A job sees a cancel request through its
`Ticket`; an exception in a job reaches whoever waits for it, and the engine goes on. The engine knows neither text nor
what a job computes.
"""

import asyncio
import atexit
import contextlib
import queue
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from gptoss_mlx.errors import EngineClosed, EngineError, HostLost, NotEnoughMemory
from gptoss_mlx.model import Model
from gptoss_mlx.residence import Residence, as_engine_error

T = TypeVar("T")

__all__ = ["Engine", "Job", "Ticket"]


class Ticket:
    """A job's view of its caller: has the caller asked to stop, or to come to the point?"""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._hurried = threading.Event()

    def cancel(self) -> None:
        """Asks the job to stop at the next chance: within one prefill chunk or one token."""
        self._cancelled.set()

    def cancelled(self) -> bool:
        """True once the caller asked to stop."""
        return self._cancelled.is_set()

    def hurry(self) -> None:
        """Asks the job to cut short what is optional (the reasoning) and give its result."""
        self._hurried.set()

    def hurried(self) -> bool:
        """True once the caller asked for the result."""
        return self._hurried.is_set()


class _End:
    """The last entry of a job's output: how it ended."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Job(Generic[T]):
    """The output of one job: iterate over it (from one place, sync or async) as it comes; `cancel` to stop it.

    Nothing is lost when the reader is slow: items wait in order without bound (they are small).
    """

    def __init__(self, ticket: Ticket | None = None) -> None:
        """`ticket`: where the caller's wishes are seen, when several jobs share one caller."""
        self.ticket = Ticket() if ticket is None else ticket
        self._items: deque[T | _End] = deque()
        self._changed = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._ended = threading.Event()

    def cancel(self) -> None:
        """Asks the job to stop; what it still gives can be read."""
        self.ticket.cancel()

    @property
    def ended(self) -> bool:
        """True when the engine is through with this job (its items may still wait to be read)."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until the engine is through with this job; False when `timeout` seconds passed first."""
        return self._ended.wait(timeout)

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                # A bounded wait, so that Ctrl-C reaches the main thread on every platform.
                while not self._items:
                    self._changed.wait(0.5)
                item = self._items.popleft()
            if isinstance(item, _End):
                self._finish_reading(item)
                return
            yield item

    async def __aiter__(self) -> AsyncIterator[T]:
        loop = asyncio.get_running_loop()
        available = asyncio.Event()

        def wake() -> None:
            # The loop is closed when its program ended without reading to the end: nobody is left to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(available.set)

        self._wake = wake
        try:
            while True:
                available.clear()
                while True:
                    with self._changed:
                        if not self._items:
                            break
                        item = self._items.popleft()
                    if isinstance(item, _End):
                        self._finish_reading(item)
                        return
                    yield item
                await available.wait()
        finally:
            self._wake = None

    def _finish_reading(self, end: _End) -> None:
        # Left in place, so that reading once more ends at once, in the same way.
        with self._changed:
            self._items.append(end)
        if end.error is not None:
            raise end.error

    def put(self, item: T) -> None:
        """Hands one item to the reader (the engine's side)."""
        self._append(item)

    def end(self, error: BaseException | None = None) -> None:
        """Marks the end; the reader's loop ends there, or raises `error` (the engine's side)."""
        self._append(_End(error))

    def _append(self, item: T | _End) -> None:
        with self._changed:
            self._items.append(item)
            if isinstance(item, _End):
                self._ended.set()
            self._changed.notify_all()
            wake = self._wake
        if wake is not None:
            wake()


class Closable(Protocol):
    """What can be closed, on any thread."""

    def close(self) -> None: ...


_Work = Callable[[Model], None]
_Entry = tuple[_Work, Job[Any]] | None
_live: "weakref.WeakSet[Engine]" = weakref.WeakSet()


class Engine:
    """Owns the model on one thread. Make it with a loader; the model is loaded there, and never leaves it.

    Jobs may be handed in while the model still loads; they run when it is there. If loading fails, the constructor
    (with `wait=True`) or the first job raises the error.
    """

    def __init__(
        self, load: Callable[[], Model], *, wait: bool = True, idle_unload_seconds: float | None = None
    ) -> None:
        """`idle_unload_seconds` without a job free the weights; the next job has them loaded again. None: never."""
        self._queue: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._jobs: weakref.WeakSet[Job[Any]] = weakref.WeakSet()
        self._dependents: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._closed = False
        self._loaded: Job[None] = Job()
        self._residence = Residence(load, idle_unload_seconds)
        # The thread holds the queue and not the engine: an engine dropped without close() frees its gigabytes.
        self._thread = threading.Thread(
            target=_serve, args=(self._queue, self._loaded, self._residence), name="gptoss-engine", daemon=True
        )
        self._finalizer = weakref.finalize(self, self._queue.put, None)
        self._finalizer.atexit = False
        _live.add(self)
        self._thread.start()
        if wait:
            try:
                self.wait_until_loaded()
            except BaseException:
                self.close()
                raise

    def wait_until_loaded(self) -> None:
        """Blocks until the model is there; raises what loading raised."""
        for _ in self._loaded:
            pass

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory now."""
        return self._residence.loaded

    def when_short(self, drop: Callable[[], None]) -> None:
        """Has `drop` called, on the engine's thread, when an operation found no memory and when the model is unloaded.

        For whoever keeps caches that can be made again.
        """
        self._residence.when_short(drop)

    def closes(self, dependent: Closable) -> None:
        """Has `dependent` closed when this is; it is not kept alive for that."""
        self._dependents.add(dependent)

    def call(self, function: Callable[[Model, Ticket], T]) -> T:
        """Runs `function(model, ticket)` on the engine thread and waits for its result.

        Raises what it raised: a GptOssError as it is, anything else as the cause of an EngineError; EngineClosed after
        `close`. KeyboardInterrupt while waiting cancels the job.
        """
        job = self.stream(lambda model, ticket: iter((function(model, ticket),)))
        try:
            return next(iter(job))
        except BaseException:
            job.cancel()
            raise

    async def acall(self, function: Callable[[Model, Ticket], T]) -> T:
        """`call` for asyncio; cancelling the task cancels the job."""
        job = self.stream(lambda model, ticket: iter((function(model, ticket),)))
        try:
            async for result in job:
                return result
        except BaseException:
            job.cancel()
            raise
        raise EngineError("a job ended without a result")

    def stream(self, function: Callable[[Model, Ticket], Iterator[T]], *, ticket: Ticket | None = None) -> Job[T]:
        """Queues `function(model, ticket)`; what it gives comes out of the job. With a `ticket` the job has that one.

        Raises EngineClosed.
        """
        job: Job[T] = Job(ticket)

        def work(model: Model) -> None:
            for item in function(model, job.ticket):
                job.put(item)

        with self._lock:
            if self._closed:
                raise EngineClosed("the model is closed; load it again to use it")
            self._jobs.add(job)
            self._queue.put((work, job))
        return job

    def close(self, timeout: float = 10.0) -> None:
        """Cancels what runs and what waits, frees the model and ends the thread.

        Safe to call twice, and from any thread.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                for job in self._jobs:
                    job.cancel()
                self._finalizer()
        for dependent in list(self._dependents):
            dependent.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)


@atexit.register
def _close_all() -> None:
    """Ends every engine before the interpreter goes: a thread inside MLX must not outlive the libraries it runs on."""
    for engine in list(_live):
        engine.close()


def _serve(jobs: "queue.SimpleQueue[_Entry]", loaded: Job[None], residence: Residence) -> None:
    """The engine thread: load, then one job after the other until None comes; unload while none comes for long."""
    try:
        residence.model()
    except BaseException as error:
        loaded.end(error)
    else:
        loaded.end()
    while True:
        try:
            entry = jobs.get(timeout=residence.patience_seconds)
        except queue.Empty:
            residence.unload()
            continue
        if entry is None:
            break
        work, job = entry
        outcome: BaseException | None = None
        try:
            work(residence.model())
        except BaseException as error:
            outcome = as_engine_error(error, "the engine failed")
        if isinstance(outcome, HostLost):
            residence.unload()
        elif isinstance(outcome, NotEnoughMemory):
            residence.make_room()
        job.end(outcome)
        # A job that its reader has dropped must not live on until the next one comes.
        del entry, work, job, outcome
    while not jobs.empty():
        if (entry := jobs.get()) is not None:
            entry[1].end(EngineClosed("the model was closed before this request had its turn"))
    residence.unload()
