"""Questions never seen in training, and what a model scores on them. It is given a function that answers.

Owns the question sets, the marking and the summary; knows no model. `measure` runs them on the torch network.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from gptoss_mlx.harmony import Message, ReasoningEffort, ToolDescription
from gptoss_mlx.pocket.conversations import Conversation, Exchange, Part, is_held_out
from gptoss_mlx.pocket.mixture import (
    TASKS,
    answered,
    distractors,
    make_exchange,
    make_refusal,
    make_use,
    remembered,
    used,
)
from gptoss_mlx.pocket.tasks_dialogues import make_follow_up, make_memory
from gptoss_mlx.pocket.tasks_tools import ToolUse

EFFORTS: tuple[ReasoningEffort, ...] = ("low", "medium", "high")
"""Every question is asked at each of them."""
DATE = "2026-01-31"
"""The date in the system message of every question."""
SCALING_CATEGORIES = (
    "addition",
    "subtraction",
    "multiplication",
    "comparison",
    "number sort",
    "reversing",
    "letter count",
    "word length",
    "word sort",
    "follow-up",
)
"""The categories that thinking can help with: the scaling plot is about these."""


@dataclass(frozen=True)
class Prompt:
    """What the model is asked: a conversation that ends with the user or with a function's result."""

    effort: ReasoningEffort
    messages: tuple[Message, ...]
    """Without system and developer message."""
    tools: tuple[ToolDescription, ...] = ()
    date: str = DATE


@dataclass(frozen=True)
class Reply:
    """What the model said."""

    final: str | None
    """The answer; None if there is none."""
    call: tuple[str, str] | None
    """The function's full name and the arguments as written; None if none was called."""
    analysis: str
    """The reasoning."""
    analysis_tokens: int
    """Its length in tokens."""
    well_formed: bool
    """Whether the turn is harmony to the letter: analysis, then one final answer or one call."""


AnswerAll = Callable[[Sequence[Prompt]], Sequence[Reply]]
"""Answers every prompt, in order."""


@dataclass(frozen=True)
class Question:
    """One held-out question and what makes an answer right."""

    category: str
    effort: ReasoningEffort
    messages: tuple[Message, ...]
    expected: str
    solution: tuple[Part, ...]
    """What follows in the generator's own words: analysis and answer; around a call, its result too."""
    tools: tuple[ToolDescription, ...] = ()
    use: ToolUse | None = None
    """The call that is expected first, and its result."""

    @property
    def prompt(self) -> Prompt:
        """What the model sees first."""
        return Prompt(self.effort, self.messages, self.tools)

    @property
    def conversation(self) -> Conversation:
        """The question with its solution, the only part that is learned."""
        asked = tuple(Part(message) for message in self.messages)
        return Conversation(self.effort, asked + self.solution, self.category, self.tools)


@dataclass(frozen=True)
class Score:
    """The figures of one category at one effort."""

    category: str
    effort: ReasoningEffort
    questions: int
    right: float
    """Share of right answers."""
    analysis_tokens: float
    """Mean length of the analysis."""
    well_formed: float
    """Share of well-formed turns."""


def question_messages(exchange: Exchange, *before: Exchange) -> tuple[Message, ...]:
    """Earlier exchanges as history, then the question."""
    history = tuple(part.message for each in before for part in remembered(each))
    return (*history, Message.user(exchange.question))


def make_questions(category: str, effort: ReasoningEffort, count: int, seed: int) -> list[Question]:
    """Held-out questions of one category; the same questions at every effort."""
    return [one_question(category, effort, Random(f"{seed}:{category}:{index}")) for index in range(count)]


def one_question(category: str, effort: ReasoningEffort, rng: Random) -> Question:
    """One held-out question."""
    if category in ("tool", "no function"):
        if category == "no function":
            refusal = make_refusal(rng, effort, held_out=True)
            return Question(category, effort, question_messages(refusal), refusal.expected, answered(refusal)[1:])
        use = make_use(rng, held_out=True)
        tools, solution = distractors(rng, use), used(use, effort, rng)[1:]
        return Question(category, effort, (Message.user(use.question),), use.expected, solution, tools, use)
    if category == "memory":
        while True:
            first, second, _ = make_memory(rng, effort)
            if is_held_out(first.key):
                return Question(
                    category, effort, question_messages(second, first), second.expected, answered(second)[1:]
                )
    if category == "follow-up":
        while True:
            first = make_exchange(rng, effort, held_out=True, task="addition")
            second = make_follow_up(rng, effort, int(first.expected.strip("= .")))
            if is_held_out(second.key):
                return Question(
                    category, effort, question_messages(second, first), second.expected, answered(second)[1:]
                )
    exchange = make_exchange(rng, effort, held_out=True, task=category)
    return Question(category, effort, question_messages(exchange), exchange.expected, answered(exchange)[1:])


CATEGORIES = (*TASKS, "follow-up", "memory", "tool", "no function")
"""Everything that is measured; additions are those of two and three digits."""


def is_right(expected: str, final: str | None) -> bool:
    """Whether the answer holds what makes it right, as whole words and numbers."""
    return final is not None and re.search(rf"(?<![\w-]){re.escape(expected)}(?![\w])", final) is not None


def is_expected_call(use: ToolUse, call: tuple[str, str] | None) -> bool:
    """Whether the call names the function and its arguments."""
    if call is None or call[0] != f"functions.{use.tool.name}":
        return False
    try:
        return bool(json.loads(call[1]) == use.arguments)
    except ValueError:
        return False


def score(questions: Sequence[Question], answer_all: AnswerAll) -> Score:
    """Asks the questions, all of one category and effort, and marks the answers.

    A right call of a function gets its result for a second turn.
    """
    replies = list(answer_all([question.prompt for question in questions]))
    turns = [(reply.well_formed, reply.analysis_tokens) for reply in replies]
    right = 0
    second: list[tuple[Question, Prompt]] = []
    for question, reply in zip(questions, replies, strict=True):
        if question.use is None:
            right += reply.call is None and is_right(question.expected, reply.final)
        elif is_expected_call(question.use, reply.call) and reply.call is not None:
            name, arguments = reply.call
            call = (
                Message.assistant(reply.analysis, channel="analysis"),
                Message.assistant(arguments, channel="commentary", recipient=name, content_type="<|constrain|>json"),
                Message.tool(name, question.use.result),
            )
            second.append((question, Prompt(question.effort, question.messages + call, question.tools)))
    if second:
        for (question, _), reply in zip(second, answer_all([prompt for _, prompt in second]), strict=True):
            right += is_right(question.expected, reply.final)
            turns.append((reply.well_formed, reply.analysis_tokens))
    first = questions[0]
    return Score(
        first.category,
        first.effort,
        len(questions),
        right / len(questions),
        sum(tokens for _, tokens in turns) / len(turns),
        sum(formed for formed, _ in turns) / len(turns),
    )


def evaluate(
    answer_all: AnswerAll,
    count: int = 100,
    seed: int = 7,
    categories: Sequence[str] = CATEGORIES,
    efforts: Sequence[ReasoningEffort] = EFFORTS,
) -> list[Score]:
    """The scores of every category at every effort, `count` questions each."""
    return [
        score(make_questions(category, effort, count, seed), answer_all)
        for category in categories
        for effort in efforts
    ]


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """All scores, and for each effort the mean accuracy and analysis length over SCALING_CATEGORIES."""
    scaling = {}
    for effort in EFFORTS:
        chosen = [each for each in scores if each.effort == effort and each.category in SCALING_CATEGORIES]
        if chosen:
            scaling[effort] = {
                "right": sum(each.right for each in chosen) / len(chosen),
                "analysis_tokens": sum(each.analysis_tokens for each in chosen) / len(chosen),
            }
    turns = sum(each.questions for each in scores)
    formed = sum(each.well_formed * each.questions for each in scores) / turns
    return {"scaling": scaling, "well_formed": formed, "scores": [asdict(each) for each in scores]}
