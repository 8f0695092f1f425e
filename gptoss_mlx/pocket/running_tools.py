"""Unseen sums and questions on the weather for two functions that really run: what the model calls is what counts."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from gptoss_mlx.pocket.conversations import is_held_out
from gptoss_mlx.pocket.tasks_tools import use_calculator, use_weather

_SUM = re.compile(r"\s*(-?\d+)\s*([-+*])\s*(-?\d+)\s*")


@dataclass(frozen=True)
class ToolQuestion:
    """A question, the functions on offer, and what a right answer holds."""

    text: str
    tools: tuple[Callable[..., Any], ...]
    expected: str


def make_tool_questions(count: int, seed: int) -> list[ToolQuestion]:
    """`count` questions, sums and weather in turn, none of them in the training data; both functions are on offer."""
    return [_make(Random(f"{seed}:{index}"), weather=bool(index % 2)) for index in range(count)]


def calculator(expression: str) -> dict[str, int]:
    """Evaluates an arithmetic expression.

    Args:
        expression: For example 2+3
    """
    found = _SUM.fullmatch(expression)
    if found is None:
        raise ValueError(f"cannot compute {expression!r}")
    a, sign, b = int(found[1]), found[2], int(found[3])
    return {"result": {"+": a + b, "-": a - b, "*": a * b}[sign]}


def _make(rng: Random, *, weather: bool) -> ToolQuestion:
    make = use_weather if weather else use_calculator
    use = make(rng)
    while not is_held_out(use.key):
        use = make(rng)
    known = next(iter(use.arguments.values()))

    def get_weather(city: str) -> str:
        """Gets the current weather.

        Args:
            city: The city
        """
        if city != known:
            raise LookupError(f"there is no weather station in {city}")
        return use.result

    return ToolQuestion(use.question, (calculator, get_weather), use.expected)
