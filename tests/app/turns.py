"""Turns for the tests of the app's widgets."""

from gptoss_mlx.app.conversation import Turn, TurnState
from gptoss_mlx.harmony import ANALYSIS, FINAL, Message


def user_turn(id: int, text: str) -> Turn:
    """What a user said."""
    return Turn(id, id - 1 or None, "user", (Message.user(text),), text)


def answer_turn(id: int, answer: str, reasoning: str = "", *, state: TurnState = "complete") -> Turn:
    """What the model said."""
    messages = [Message.assistant(reasoning, channel=ANALYSIS)] if reasoning else []
    messages += [Message.assistant(answer, channel=FINAL)] if answer else []
    stats = {"reasoning_tokens": 341} if reasoning else {}
    seconds = 6.2 if reasoning else None
    return Turn(id, id - 1, "assistant", tuple(messages), state=state, reasoning_seconds=seconds, stats=stats)


def conversation(turns: int) -> list[Turn]:
    """So many turns, by turns of user and model; answers are of different lengths."""
    return [
        user_turn(n, f"Question {n}?") if n % 2 else answer_turn(n, ANSWERS[n // 2 % len(ANSWERS)], f"Thought {n}.")
        for n in range(1, turns + 1)
    ]


ANSWERS = (
    "It is **so**, and `f(x)` says why.\n\n- one\n- two\n  - three\n",
    "# Title\n\nA paragraph that is long enough to wrap in a narrow terminal, and then some more of it.\n\n"
    "```python\ndef double(x: int) -> int:\n    return 2 * x\n```\n\n1. first\n2. second\n",
    "Short.",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n" + "Words and words. " * 40,
)
