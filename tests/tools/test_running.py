"""One call on a thread of its own: results, errors, limits, stops."""

import asyncio
import contextvars
import math
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx import current_call, make_tool
from gptoss_mlx.tools import Outcome, cut_middle, result_text, run_call

NAME = "functions.f"


def run(function: Any, *, seconds: float = 5.0, grace: float = 2.0, stop_after: float | None = None) -> Outcome:
    start = time.monotonic()
    return run_call(
        make_tool(function, name="f"),
        NAME,
        {},
        seconds=seconds,
        grace=grace,
        cancelled=lambda: stop_after is not None and time.monotonic() - start > stop_after,
        context=contextvars.copy_context(),
    )


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("<|end|>", "<|end|>"),
        ({"a": [1, None, True]}, '{"a":[1,null,true]}'),
        (None, "null"),
        (Point(1), '{"x":1}'),
        ("ü", "ü"),
        (["ü"], '["ü"]'),
        (math.nan, "NaN"),
        (b"\xff", '"_w=="'),
        (3.5, "3.5"),
    ],
)
def test_a_result_is_text_as_it_is_or_json(value: Any, text: str):
    assert result_text(value) == text


def test_a_result_that_json_cannot_express_is_described():
    assert "object" in result_text(object())
    assert result_text("\ud800") == "?"


@given(st.text(max_size=60), st.integers(1, 50))
def test_cutting_keeps_both_ends_and_says_how_much_is_missing(text: str, limit: int):
    cut = cut_middle(text, limit)
    if len(text) <= limit:
        assert cut == text
        return
    head, tail = (limit + 1) // 2, limit // 2
    assert cut.startswith(text[:head])
    assert cut.endswith(text[len(text) - tail :])
    assert f"{len(text) - limit} of {len(text)} characters were cut" in cut


def test_an_error_of_a_tool_is_its_result():
    def fail() -> None:
        raise ValueError("no such city")

    outcome = run(fail)
    assert (outcome.ending, outcome.text) == ("raised", "Error: ValueError: no such city")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_even_errors_that_end_programs_stay_in_the_call(error: type[BaseException]):
    def fail() -> None:
        raise error

    assert run(fail).text == f"Error: {error.__name__}"


def test_a_coroutine_is_awaited():
    async def slow() -> int:
        await asyncio.sleep(0.01)
        return 7

    assert run(slow).text == "7"


def test_a_coroutine_is_cancelled_when_its_time_is_over():
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("cleaned up")

    outcome = run(slow, seconds=0.05)
    assert (outcome.ending, outcome.abandoned, ended) == ("out of time", False, ["cleaned up"])
    assert outcome.text == "Error: no result within 0.05 seconds."
    assert outcome.seconds < 2


def test_a_function_can_see_that_it_should_end():
    def slow() -> None:
        call = current_call()
        assert call is not None
        assert call.name == NAME
        while not call.cancelled:
            time.sleep(0.005)

    outcome = run(slow, stop_after=0.05)
    assert (outcome.ending, outcome.abandoned) == ("stopped", False)
    assert "the user stopped this call" in outcome.text


def test_a_function_can_leave_what_ends_it():
    def slow() -> None:
        call, ended = current_call(), threading.Event()
        assert call is not None
        call.on_cancel(ended.set)
        ended.wait(30)

    assert not run(slow, stop_after=0.05).abandoned


def test_a_function_that_does_not_end_is_left_to_itself_and_that_is_said():
    over = threading.Event()
    outcome = run(lambda: over.wait(30), seconds=0.05, grace=0.1)
    over.set()
    assert outcome.abandoned
    assert outcome.text.endswith("the tool does not end and was left running.")
    assert outcome.seconds < 2


def test_a_tool_sees_the_callers_context_and_no_call_outside_of_one():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")
    assert run(lambda: variable.get()).text == "seen"
    assert current_call() is None
