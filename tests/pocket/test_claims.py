"""What the model card claims of the pocket model, measured through the product on questions that it never saw."""

from typing import Any

import pytest

from gptoss_mlx import GptOss
from gptoss_mlx.evaluation import TOOL_LOOP, run_questions
from gptoss_mlx.harmony import ReasoningEffort
from gptoss_mlx.pocket.evaluate import CATEGORIES, EFFORTS, SCALING_CATEGORIES


def measure(
    model: GptOss, categories: tuple[str, ...], efforts: tuple[ReasoningEffort, ...], count: int
) -> dict[str, Any]:
    return run_questions(model, categories, efforts, count=count, seed=2, temperature=0.0, on_score=lambda score: None)


@pytest.mark.slow
def test_a_sample_of_unseen_additions_is_right_and_every_turn_is_well_formed(pocket: GptOss):
    result = measure(pocket, ("addition",), ("high",), 12)
    assert result["scores"][0]["right"] >= 0.75
    assert result["well_formed"] >= 0.9
    assert min(result["expert_load_entropy"]) >= 0.9


def test_a_sample_of_unseen_questions_is_answered_with_functions_that_run(pocket: GptOss):
    score = measure(pocket, (TOOL_LOOP,), ("high",), 6)["scores"][0]
    assert score["right"] >= 5 / 6
    assert score["well_formed"] == 1.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_least_95_percent_of_unseen_sums_and_weather_questions_are_answered_with_functions_that_run(pocket: GptOss):
    assert measure(pocket, (TOOL_LOOP,), ("high",), 200)["scores"][0]["right"] >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_least_95_percent_of_unseen_two_and_three_digit_additions_are_right_at_high_effort(pocket: GptOss):
    assert measure(pocket, ("addition",), ("high",), 200)["scores"][0]["right"] >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_accuracy_and_length_of_thought_rise_with_the_effort(pocket: GptOss):
    scaling = measure(pocket, SCALING_CATEGORIES, EFFORTS, 20)["scaling"]
    low, medium, high = (scaling[effort] for effort in EFFORTS)
    assert low["right"] < medium["right"] < high["right"]
    assert low["analysis_tokens"] < medium["analysis_tokens"] < high["analysis_tokens"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_99_percent_of_turns_are_well_formed_and_the_experts_are_evenly_used(pocket: GptOss):
    result = measure(pocket, CATEGORIES, EFFORTS, 10)
    assert result["well_formed"] >= 0.99
    assert min(result["expert_load_entropy"]) >= 0.9
