"""The engine thread: order, errors, cancelling, closing, and asyncio."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from gptoss_mlx.engine import Engine, Ticket
from gptoss_mlx.errors import EngineClosed, EngineError, WeightsError
from gptoss_mlx.model import Model

MODEL = cast(Model, cast(Any, "the model"))


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(lambda: MODEL)
    yield made
    made.close()


def count_for_ever(model: Model, ticket: Ticket) -> Iterator[int]:
    number = 0
    while not ticket.cancelled():
        yield number
        number += 1
        time.sleep(0.001)


def test_loading_and_every_job_run_on_one_thread_that_is_not_the_callers():
    threads: list[int] = []

    def load() -> Model:
        threads.append(threading.get_ident())
        return MODEL

    engine = Engine(load)
    for _ in range(3):
        threads.append(engine.call(lambda model, ticket: threading.get_ident()))
    engine.close()
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_jobs_run_in_the_order_they_came(engine: Engine):
    order: list[int] = []

    def job(number: int) -> Any:
        return engine.stream(lambda model, ticket: iter([order.append(number)]))

    jobs = [job(number) for number in range(20)]
    for one in jobs:
        list(one)
    assert order == list(range(20))


def test_an_error_of_the_project_comes_through_as_it_is_and_the_engine_goes_on(engine: Engine):
    def fail(model: Model, ticket: Ticket) -> int:
        raise WeightsError("no such tensor")

    with pytest.raises(WeightsError, match="no such tensor"):
        engine.call(fail)
    assert engine.call(lambda model, ticket: model) is MODEL


def test_any_other_error_becomes_an_engine_error_with_its_cause(engine: Engine):
    def fail(model: Model, ticket: Ticket) -> int:
        raise ZeroDivisionError("by zero")

    with pytest.raises(EngineError, match="ZeroDivisionError: by zero") as caught:
        engine.call(fail)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert engine.call(lambda model, ticket: 5) == 5


def test_a_crash_in_the_middle_of_a_stream_comes_after_what_was_given(engine: Engine):
    def fail(model: Model, ticket: Ticket) -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    seen: list[int] = []
    with pytest.raises(EngineError, match="OSError: gone"):
        seen.extend(engine.stream(fail))
    assert seen == [1, 2]


def test_a_failed_load_reaches_the_one_who_waits_and_every_later_job():
    def load() -> Model:
        raise WeightsError("damaged")

    with pytest.raises(WeightsError, match="damaged"):
        Engine(load)
    engine = Engine(load, wait=False)
    with pytest.raises(WeightsError, match="damaged"):
        engine.call(lambda model, ticket: 1)
    engine.close()


def test_cancelling_ends_a_stream_soon_and_keeps_what_came(engine: Engine):
    job = engine.stream(count_for_ever)
    iterator = iter(job)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    start = time.monotonic()
    job.cancel()
    rest = list(iterator)
    assert time.monotonic() - start < 0.5
    assert rest == list(range(3, 3 + len(rest)))
    assert job.ended
    assert list(job) == []


def test_closing_cancels_the_running_job_and_refuses_the_waiting_and_the_later_ones():
    engine = Engine(lambda: MODEL)
    running = engine.stream(count_for_ever)
    next(iter(running))
    waiting = engine.stream(count_for_ever)
    engine.close()
    engine.close()
    list(running)
    assert waiting.ended
    assert not engine._thread.is_alive()
    with pytest.raises(EngineClosed, match="load it again"):
        engine.call(lambda model, ticket: 1)


def test_an_engine_that_nobody_holds_ends_its_thread():
    engine = Engine(lambda: MODEL)
    thread = engine._thread
    del engine
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_asyncio_reads_a_stream_while_its_loop_stays_free(engine: Engine):
    async def read() -> tuple[list[int], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        job = engine.stream(count_for_ever)
        seen = []
        async for number in job:
            seen.append(number)
            if number == 20:
                job.cancel()
        ticking.cancel()
        return seen, ticks

    seen, ticks = asyncio.run(read())
    assert seen[:21] == list(range(21))
    assert ticks > 5


def test_asyncio_gets_results_and_errors(engine: Engine):
    async def work() -> int:
        with pytest.raises(EngineError, match="no"):
            await engine.acall(lambda model, ticket: int("no"))
        return await engine.acall(lambda model, ticket: 7)

    assert asyncio.run(work()) == 7


def test_cancelling_an_asyncio_task_cancels_its_job(engine: Engine):
    async def work() -> None:
        def slow(model: Model, ticket: Ticket) -> int:
            while not ticket.cancelled():
                time.sleep(0.001)
            return 1

        task = asyncio.create_task(engine.acall(slow))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    # The thread is free again, or this would never return.
    assert engine.call(lambda model, ticket: 3) == 3
