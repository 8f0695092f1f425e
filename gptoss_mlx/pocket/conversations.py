"""The generator's own words for training text: exchanges, messages and conversations.

Owns plain dataclasses over harmony's messages and the held-out rule. Does not own tasks (`tasks_*`), rendering
(`rendering`) or mixing (`mixture`).
"""

import hashlib
from dataclasses import dataclass

from gptoss_mlx.harmony import Message, ReasoningEffort, ToolDescription

LETTERWISE = "\u2060"
"""A mark inside generated text: the token boundary falls here. It is never part of the text itself."""


@dataclass(frozen=True)
class Exchange:
    """One question with its analysis at one effort and its answer."""

    question: str
    """What the user writes."""
    analysis: str
    """What the model thinks."""
    answer: str
    """What the model says."""
    key: str
    """What the question asks, free of phrasing: the held-out rule looks at this alone."""
    category: str
    """The task it belongs to."""
    expected: str = ""
    """The part of the answer that makes it right (a number, a word); empty: the answer as a whole."""


@dataclass(frozen=True)
class Part:
    """One harmony message of a training conversation and what the loss sees of it."""

    message: Message
    """The message; its text may hold LETTERWISE marks."""
    learned: bool = False
    """Whether the loss counts it."""
    end_learned: bool = True
    """Whether the loss counts its terminator (not where the analysis was cut short)."""


@dataclass(frozen=True)
class Conversation:
    """Everything after the system message, which follows from effort, date and tools."""

    effort: ReasoningEffort
    """low, medium or high."""
    parts: tuple[Part, ...]
    """User, assistant and tool messages in order; old analysis is already left out."""
    category: str
    """The task of the last exchange."""
    tools: tuple[ToolDescription, ...] = ()
    """Functions on offer."""
    instructions: str | None = None
    """Developer instructions."""


def is_held_out(key: str) -> bool:
    """Whether a question belongs to the evaluation alone: one key in ten, by its sha256.

    A sum with a one-digit number is never held out: such sums are steps of the others.
    """
    if key.startswith("add:") and int(key.removeprefix("add:").split(",")[0]) < 10:
        return False
    return hashlib.sha256(key.encode()).digest()[0] < 26


def plain(text: str) -> str:
    """The text without LETTERWISE marks."""
    return text.replace(LETTERWISE, "")


def letterwise(word: str) -> str:
    """A word marked so that each of its letters becomes a token of its own."""
    return LETTERWISE + LETTERWISE.join(word) + LETTERWISE


def words_key(kind: str, question: str) -> str:
    """The key of a question that is known by its words: letters and digits only, in lower case."""
    return kind + ":" + "".join(c for c in question.lower() if c.isalnum())
