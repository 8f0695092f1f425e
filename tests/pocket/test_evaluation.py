"""The evaluation marks answers fairly, and its picture shows what was measured."""

import json
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from gptoss_mlx.harmony import ReasoningEffort
from gptoss_mlx.pocket.evaluate import (
    CATEGORIES,
    EFFORTS,
    Prompt,
    Reply,
    evaluate,
    is_right,
    make_questions,
    score,
    summarise,
)
from gptoss_mlx.pocket.plot import draw, scaling_points


def knowing(category: str, effort: ReasoningEffort, count: int):
    """A model that knows every answer."""
    questions = make_questions(category, effort, count, seed=1)
    by_prompt = {id_of(question.prompt): question for question in questions}

    def answer_all(prompts: Sequence[Prompt]) -> list[Reply]:
        replies = []
        for prompt in prompts:
            question = by_prompt[id_of(prompt)]
            if question.use is not None and prompt.messages[-1].role == "user":
                arguments = json.dumps(question.use.arguments)
                replies.append(Reply(None, (f"functions.{question.use.tool.name}", arguments), "I call.", 2, True))
            else:
                replies.append(Reply(f"It {question.expected} yes", None, "I know.", 2, True))
        return replies

    return questions, answer_all


def id_of(prompt: Prompt) -> tuple[str, ...]:
    first = next(index for index, message in reversed(list(enumerate(prompt.messages))) if message.role == "user")
    return tuple(message.text for message in prompt.messages[: first + 1])


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_model_that_knows_everything_scores_all(category):
    questions, answer_all = knowing(category, "high", 6)
    result = score(questions, answer_all)
    assert (result.right, result.well_formed, result.questions) == (1.0, 1.0, 6)


def test_a_model_that_says_nothing_scores_none():
    def answer_all(prompts: Sequence[Prompt]) -> list[Reply]:
        return [Reply(None, None, "", 0, False) for _ in prompts]

    scores = evaluate(answer_all, count=2)
    assert len(scores) == len(CATEGORIES) * len(EFFORTS)
    assert {(each.right, each.well_formed, each.analysis_tokens) for each in scores} == {(0.0, 0.0, 0.0)}


def test_a_call_with_a_wrong_argument_is_wrong():
    questions = make_questions("tool", "low", 4, seed=1)

    def answer_all(prompts: Sequence[Prompt]) -> list[Reply]:
        return [Reply(None, (f"functions.{prompt.tools[0].name}", '{"wrong":1}'), "", 0, True) for prompt in prompts]

    assert score(questions, answer_all).right == 0.0


@pytest.mark.parametrize(
    ("expected", "final", "right"),
    [
        ("= 42.", "17 + 25 = 42.", True),
        ("= 42.", "17 + 25 = 142.", False),
        ("= 42.", "17 + 25 = 421.", False),
        ("= 42.", None, False),
        ("7 is", "17 is larger.", False),
        ("7 is", "-7 is larger.", False),
        ("dog, fox", "In order: dog, fox.", True),
        ("dog, fox", "In order: dog, foxes.", False),
    ],
)
def test_the_answer_must_hold_the_expected_part_as_a_whole(expected, final, right):
    assert is_right(expected, final) is right


def test_the_sums_of_the_evaluation_have_two_or_three_digits():
    for question in make_questions("addition", "high", 100, seed=1):
        numbers = [
            int(word) for word in "".join(c if c.isdigit() else " " for c in question.prompt.messages[-1].text).split()
        ]
        assert all(10 <= number <= 999 for number in numbers)


def test_the_summary_averages_over_the_reasoning_categories():
    scores = [score(*knowing("addition", effort, 3)) for effort in EFFORTS]
    summary = summarise(scores)
    assert summary["scaling"]["high"] == {"right": 1.0, "analysis_tokens": 2.0}
    assert summary["well_formed"] == 1.0


def test_the_picture_is_well_formed_and_names_every_curve_and_effort():
    summary = {
        "scaling": {
            "low": {"right": 0.1, "analysis_tokens": 2.0},
            "medium": {"right": 0.5, "analysis_tokens": 20.0},
            "high": {"right": 0.97, "analysis_tokens": 71.5},
        }
    }
    svg = draw(
        {"all": scaling_points(summary), "sums <3 digits>": [("low", 3, 0.0), ("high", 60, 1.0)]},
        "Thinking & being right",
    )
    root = ElementTree.fromstring(svg)
    words = " ".join(root.itertext())
    for word in ("all", "sums <3 digits>", "low 10%", "medium 50%", "high 97%", "Thinking & being right"):
        assert word in words
