"""When there is no memory after all: every place where it can be found out ends in the right error, and goes on."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx import EngineError, GptOss, NotEnoughMemory, load
from gptoss_mlx.engine import Engine, Ticket
from gptoss_mlx.memory_limits import is_shortage
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.ops import Ops, use_ops
from gptoss_mlx.ops.selection import current_ops
from gptoss_mlx.weights import load_model

NO_MEMORY = "[malloc] Unable to allocate 1073741824 bytes."


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (RuntimeError(NO_MEMORY), True),
        (
            RuntimeError(
                "[metal::malloc] Attempting to allocate 48736917632 bytes which is greater than the maximum allowed "
                "buffer size of 30150672384 bytes."
            ),
            True,
        ),
        (RuntimeError("[metal::malloc] Resource limit (499000) exceeded."), True),
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Insufficient Memory "
                "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
            ),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("[matmul] Last dimension of first input with shape (2,3)"), False),
        (ValueError(NO_MEMORY), False),
    ],
)
def test_want_of_memory_is_known_by_its_words(error: Exception, short: bool) -> None:
    assert is_shortage(error) == short


class Shortage:
    """Counts what may allocate, and fails at one of those calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.fail_at: int | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError(NO_MEMORY)


class FailingOps:
    """Operations of which one finds no memory."""

    def __init__(self, inner: Ops, shortage: Shortage) -> None:
        self._inner, self._shortage = inner, shortage

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._inner, name)

        def work(*arguments: Any, **named: Any) -> Any:
            self._shortage()
            return operation(*arguments, **named)

        return work


@contextmanager
def allocations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shortage]:
    """Every operation of a forward pass, every evaluation and every reading of tensors may find no memory."""
    shortage = Shortage()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            shortage()
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("eval", "async_eval", "load"):
            patch.setattr(mx, name, counted(getattr(mx, name)))
        with use_ops(FailingOps(current_ops(), shortage)):  # type: ignore[arg-type]
            yield shortage


EVERY = [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(29, id="some")]
"""Which of the places where there may be no memory are tried."""


@pytest.mark.parametrize("stride", EVERY)
def test_any_allocation_of_a_load_can_fail_and_the_next_request_loads_again(
    monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    with allocations(monkeypatch) as shortage:
        load_model(POCKET_FOLDER)
        places = shortage.calls
        assert places > 20
        for place in range(1, places + 1, stride):
            shortage.calls, shortage.fail_at = 0, place
            engine = Engine(lambda: load_model(POCKET_FOLDER), wait=False)
            with pytest.raises(NotEnoughMemory, match="not enough memory for the weights"):
                engine.wait_until_loaded()
            assert engine.call(lambda model, ticket: model.config.vocab_size) == 3021
            engine.close()


def test_a_load_that_finds_no_memory_raises_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with allocations(monkeypatch) as shortage:
        shortage.fail_at = 9
        with pytest.raises(NotEnoughMemory, match="Unable to allocate 1073741824"):
            load("pocket")


@pytest.mark.parametrize("reuse", [False, True], ids=["cold", "reusing"])
@pytest.mark.parametrize("stride", EVERY)
def test_any_allocation_of_a_turn_can_fail_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, stride: int, reuse: bool
) -> None:
    # One chunk in the middle of a prompt, the last one, and a few tokens.
    options: dict[str, Any] = {"prefill_chunk": 60, "max_tokens": 2, "temperature": 0}
    with load("pocket", date="2026-01-31", reuse=reuse) as model:
        chat = model.chat()
        chat.send("Hello", **options)
        before = chat.messages
        kept_nothing = 0
        with allocations(monkeypatch) as shortage:
            # The first turn makes what later ones find there.
            chat.send("What is 17 plus 25?", **options)
            chat.undo()
            shortage.calls = 0
            expected = chat.send("What is 17 plus 25?", **options)
            places = shortage.calls
            chat.undo()
            assert places > 90
            for place in range(1, places + 1, stride):
                if reuse:
                    # A failure drops what was kept.
                    chat.send("What is 17 plus 25?", **options)
                    chat.undo()
                shortage.calls, shortage.fail_at = 0, place
                reply, said = None, ""
                try:
                    reply = chat.send("What is 17 plus 25?", **options)
                except NotEnoughMemory as error:
                    said = str(error)
                if reply is None:
                    assert "not enough memory for this request" in said
                    assert "Unable to allocate" in said
                else:
                    # There was none for keeping what was read: the answer is whole all the same.
                    assert reuse
                    kept_nothing += 1
                    assert reply.raw == expected.raw
                    chat.undo()
                assert chat.messages == before
        assert kept_nothing <= 2
        assert chat.send("What is 17 plus 25?", **options).raw == expected.raw


def test_what_the_failed_turn_held_is_let_go(pocket: GptOss) -> None:
    kept: list[NotEnoughMemory] = []

    def fill(model: Model, ticket: Ticket) -> None:
        large = mx.zeros((64, 1 << 20), dtype=mx.uint8)
        mx.eval(large)
        raise RuntimeError(NO_MEMORY)

    before = mx.get_active_memory()
    with pytest.raises(NotEnoughMemory) as caught:
        pocket.engine.call(fill)
    kept.append(caught.value)
    # Though the caller holds on to the error.
    assert mx.get_active_memory() - before < 1 << 20
    assert isinstance(kept[0].__cause__, RuntimeError)


def test_caches_are_dropped_when_memory_is_short() -> None:
    engine = Engine(lambda: load_model(POCKET_FOLDER))
    dropped: list[int] = []
    engine.when_short(lambda: dropped.append(threading.get_ident()))

    def fail(model: Model, ticket: Ticket) -> None:
        raise MemoryError("full")

    with pytest.raises(NotEnoughMemory, match="full"):
        engine.call(fail)
    # The caller may be told before it is done.
    thread = engine.call(lambda model, ticket: threading.get_ident())
    assert dropped == [thread]
    engine.close()


def test_another_failure_of_loading_is_not_tried_again() -> None:
    attempts: list[int] = []

    def damaged() -> Model:
        attempts.append(1)
        raise ValueError("damaged")

    engine = Engine(damaged, wait=False)
    for _ in range(3):
        with pytest.raises(EngineError, match="loading the model failed: ValueError: damaged"):
            engine.call(lambda model, ticket: 1)
    assert len(attempts) == 1
    engine.close()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def test_an_idle_model_is_unloaded_and_the_next_request_loads_it_again() -> None:
    gc.collect()
    before = mx.get_active_memory()
    seen: list[tuple[int, int]] = []
    with load("pocket", idle_unload_seconds=0.05, progress=lambda *at: seen.append(at), seed=1) as model:
        chat = model.chat()
        first = chat.send("What is 17 plus 25?", max_tokens=8)
        thread = model.engine.call(lambda model, ticket: threading.get_ident())
        wait_until(lambda: not model.engine.loaded)
        wait_until(lambda: mx.get_active_memory() - before < 1 << 20)
        assert not model.memory().loaded
        seen.clear()
        again = chat.regenerate(max_tokens=8)
        assert seen[-1][0] == seen[-1][1] > 0
        assert again.tokens == first.tokens
        assert model.engine.call(lambda model, ticket: threading.get_ident()) == thread


def test_a_model_that_is_used_is_not_unloaded() -> None:
    loads: list[int] = []

    def once() -> Model:
        loads.append(1)
        return load_model(POCKET_FOLDER)

    engine = Engine(once, idle_unload_seconds=5)
    for _ in range(5):
        assert engine.call(lambda model, ticket: model.config.vocab_size) == 3021
    assert engine.loaded
    assert len(loads) == 1
    engine.close()
    assert not engine.loaded


def test_caches_go_with_an_idle_model() -> None:
    engine = Engine(lambda: load_model(POCKET_FOLDER), idle_unload_seconds=0.02)
    dropped = threading.Event()
    engine.when_short(dropped.set)
    assert dropped.wait(10)
    engine.close()
