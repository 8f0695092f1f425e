"""Replies to many prompts at once are those to each alone, in the order of the prompts."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gptoss_mlx import ContextOverflow, GptOss, Message, UsageError, batch_turns, memory_limits
from gptoss_mlx.device import this_device

QUESTIONS = ["What is 17 plus 25?", "Hello!", "What is the capital of France?", "What is 3 times 4?", "Who are you?"]


def without_stats(replies: list[Any]) -> list[Any]:
    return [replace(reply, stats=None) for reply in replies]


@pytest.mark.parametrize("at_once", [1, 3])
def test_greedy_replies_are_token_for_token_those_of_one_after_the_other(pocket: GptOss, at_once: int) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    expected = [pocket.generate(question, **options) for question in QUESTIONS]
    found = pocket.generate_batch(QUESTIONS, at_once=at_once, **options)
    assert without_stats(found) == without_stats(expected)
    assert [reply.stats.generated_tokens for reply in found] == [reply.stats.generated_tokens for reply in expected]
    # All begin with the same system message.
    assert min(reply.stats.cached_tokens for reply in found) > 50


def test_every_prompt_has_a_seed_of_its_own(pocket: GptOss) -> None:
    found = pocket.generate_batch(["Hello!"] * 4, seed=2**64 - 2, max_tokens=12, temperature=3)
    seeds = [2**64 - 2, 2**64 - 1, 0, 1]
    expected = [pocket.generate("Hello!", seed=seed, max_tokens=12, temperature=3) for seed in seeds]
    assert [reply.tokens for reply in found] == [reply.tokens for reply in expected]
    assert len({reply.tokens for reply in found}) > 1


@pytest.mark.parametrize(
    "options",
    [{"effort": "none"}, {"max_reasoning_tokens": 3}, {"stop": ["2"]}, {"logprobs": True}, {"prefill_chunk": 9}],
    ids=str,
)
def test_options_mean_what_they_mean_for_one(pocket: GptOss, options: dict[str, Any]) -> None:
    options = {"temperature": 0, "max_tokens": 24, **options}
    expected = [pocket.generate(question, **options) for question in QUESTIONS[:3]]
    found = pocket.generate_batch(QUESTIONS[:3], **options)
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.text, one.reasoning, one.finish_reason) == (
            other.tokens,
            other.text,
            other.reasoning,
            other.finish_reason,
        )
        assert one.reasoning_truncated == other.reasoning_truncated
        if other.logprobs is not None:
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_whole_conversations_are_prompts_too(pocket: GptOss) -> None:
    conversations: list[Any] = [
        [Message.user("Hello!")],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 plus 2?"}],
        "What is 5 plus 5?",
    ]
    found = pocket.generate_batch(conversations, temperature=0, max_tokens=10)
    assert [reply.tokens for reply in found] == [
        pocket.generate(one, temperature=0, max_tokens=10).tokens for one in conversations
    ]


def test_replies_come_as_they_end_and_a_finished_one_makes_room(
    pocket: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    step = batch_turns.step_together

    def counted(model: Any, generations: Any) -> Any:
        together.append(len(generations))
        return step(model, generations)

    monkeypatch.setattr(batch_turns, "step_together", counted)
    numbers = [number for number, _ in pocket.stream_batch(QUESTIONS, at_once=2, temperature=0)]
    assert sorted(numbers) == list(range(5))
    assert max(together) == 2
    # Only the last one is ever alone.
    alone = [index for index, count in enumerate(together) if count == 1]
    assert alone == list(range(len(together) - len(alone), len(together)))


def test_fewer_run_together_where_memory_is_short(pocket: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    step = batch_turns.step_together

    def counted(model: Any, generations: Any) -> Any:
        together.append(len(generations))
        return step(model, generations)

    monkeypatch.setattr(batch_turns, "step_together", counted)
    small = replace(this_device(), memory_bytes=1, working_set_bytes=None)
    monkeypatch.setattr(memory_limits, "this_device", lambda: small)
    expected = pocket.generate_batch(QUESTIONS, temperature=0, max_tokens=4)
    assert set(together) == {1}
    assert len(expected) == 5


def test_a_batch_can_be_stopped(pocket: GptOss) -> None:
    stream = pocket.stream_batch(QUESTIONS * 4, at_once=2, max_tokens=30)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    # The engine is free again, or this would never return.
    assert pocket.generate("Hello!", max_tokens=2).stats.generated_tokens == 2


def test_asyncio_has_the_same(pocket: GptOss) -> None:
    async def work() -> list[Any]:
        return await pocket.agenerate_batch(QUESTIONS[:2], temperature=0, max_tokens=8)

    expected = pocket.generate_batch(QUESTIONS[:2], temperature=0, max_tokens=8)
    assert without_stats(asyncio.run(work())) == without_stats(expected)


def test_what_cannot_be_a_batch_is_refused_before_any_work(pocket: GptOss) -> None:
    assert pocket.generate_batch([]) == []
    with pytest.raises(UsageError, match="expected a list of prompts"):
        pocket.generate_batch("Hello!")
    with pytest.raises(UsageError, match="at_once is 0"):
        pocket.generate_batch(QUESTIONS, at_once=0)
    with pytest.raises(ContextOverflow):
        pocket.generate_batch(["Hello!", "word " * 140_000])
