"""The Python API over the pocket model: sync, async, from many threads, and its numbers."""

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptoss_mlx import (
    Cancelled,
    ContextOverflow,
    Done,
    EngineClosed,
    GptOss,
    ModelNotFound,
    TextDelta,
    UsageError,
    WeightsError,
    load,
)
from gptoss_mlx.models import POCKET_FOLDER

QUESTION = "What is 17 plus 25?"
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_three_lines_get_an_answer_with_the_reasoning_apart(pocket: GptOss):
    reply = pocket.ask(QUESTION, effort="high", temperature=0)
    assert "42" in str(reply)
    assert reply.reasoning
    assert reply.finish_reason == "stop"
    assert "<|" not in reply.text + reply.reasoning
    assert reply.stats.prompt_tokens == pocket.count_tokens(QUESTION, effort="high")
    assert reply.stats.reasoning_tokens == len(pocket.tokenizer.encode(reply.reasoning))
    assert reply.stats.ttft_seconds > 0
    assert reply.stats.generation_tps > 0


def test_iterating_a_stream_gives_the_answer_and_its_events_give_everything(pocket: GptOss):
    stream = pocket.stream(QUESTION, temperature=0)
    text = "".join(stream)
    assert text == stream.reply.text
    events = list(pocket.stream(QUESTION, temperature=0).events())
    assert isinstance(events[-1], Done)
    by_channel: dict[str, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            by_channel[event.channel] = by_channel.get(event.channel, "") + event.text
    assert by_channel == {"analysis": stream.reply.reasoning, "final": text}


def test_the_same_seed_gives_the_same_reply(pocket: GptOss):
    first, again = (pocket.ask("Tell me about attention sinks.", seed=11) for _ in range(2))
    assert first.raw == again.raw


def test_a_chat_remembers(pocket: GptOss):
    chat = pocket.chat(temperature=0.0)
    chat.send("My name is Ada.")
    assert "Ada" in chat.send("What is my name?").text
    assert chat.context_used < chat.context_limit == pocket.context_limit


def test_a_tool_is_called_and_its_result_used(pocket: GptOss):
    chat = pocket.chat(temperature=0.0, tools=[CALCULATOR])
    reply = chat.send("What is the weather in Paris?")
    assert reply.finish_reason == "tool_calls"
    assert reply.tool_calls[0].name == "functions.get_weather"
    assert reply.tool_calls[0].arguments == {"city": "Paris"}
    answer = chat.answer_calls({reply.tool_calls[0].id: '{"temperature": 21, "sky": "sunny"}'}).reply
    assert answer.finish_reason == "stop"
    assert answer.text


def test_asyncio_streams_answers_and_closes(pocket: GptOss):
    async def work() -> tuple[str, str, str]:
        stream = pocket.astream(QUESTION, temperature=0)
        streamed = "".join([piece async for piece in stream])
        asked = await pocket.aask(QUESTION, temperature=0)
        said = await pocket.chat(temperature=0.0).asend(QUESTION)
        return streamed, asked.text, said.text

    streamed, asked, said = asyncio.run(work())
    assert streamed == asked == said


def test_many_threads_may_ask_at_once(pocket: GptOss):
    expected = pocket.ask(QUESTION, temperature=0).text
    answers: list[str] = []

    def ask() -> None:
        answers.append(pocket.ask(QUESTION, temperature=0).text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 4


def test_a_stream_that_is_left_stops_the_model(pocket: GptOss):
    with pocket.stream("Count from 1 to 1000.", temperature=0) as stream:
        next(stream.events())
    assert stream.wait(5)
    waiting = pocket.stream(QUESTION)
    waiting.cancel()
    assert waiting.reply.finish_reason == "cancelled"


def test_logits_logprobs_and_perplexity_agree(pocket: GptOss):
    ids = pocket.tokenizer.encode("What is 17 plus 25? The answer is 42.")
    logits = pocket.logits(ids)
    assert logits.shape == (len(ids), pocket.config.vocab_size)
    assert logits.dtype == np.float32
    logprobs = [row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, ids[1:], strict=False)]
    # A pass over one token less multiplies matrices of another shape, whose sums round differently.
    np.testing.assert_allclose(pocket.logprobs(ids), logprobs, atol=1e-3)
    assert pocket.perplexity(ids) == pytest.approx(math.exp(-np.mean(logprobs)), rel=1e-3)
    answered = [*pocket.prompt_tokens(QUESTION), *pocket.ask(QUESTION, temperature=0).tokens]
    assert pocket.perplexity(answered) < pocket.perplexity([*answered[:-10], *reversed(answered[-10:])])
    with pytest.raises(UsageError, match="at least 2"):
        pocket.perplexity("")
    with pytest.raises(UsageError, match="outside"):
        pocket.logits([10**6])


def test_logprobs_of_a_reply_are_those_of_a_cold_forward_pass(pocket: GptOss):
    reply = pocket.ask(QUESTION, temperature=0, logprobs=True)
    assert reply.logprobs is not None
    ids = [*pocket.prompt_tokens(QUESTION), *reply.tokens]
    np.testing.assert_allclose(pocket.logprobs(ids)[-len(reply.tokens) :], reply.logprobs, atol=1e-3)


def test_rendering_shows_what_the_model_reads(pocket: GptOss):
    text = pocket.render("<|end|>", effort="low")
    assert text.endswith("<|start|>user<|message|><|end|><|end|><|start|>assistant")
    end = pocket.tokenizer.special.end
    assert pocket.prompt_tokens("<|end|>", effort="low").count(end) == 2


def test_options_given_at_load_hold_and_a_calls_own_go_over_them():
    with load("pocket", temperature=0, max_tokens=3) as model:
        assert model.ask(QUESTION).finish_reason == "length"
        assert model.ask(QUESTION, max_tokens=300).finish_reason == "stop"
    with pytest.raises(UsageError, match="temperature"):
        load("pocket", temperature=-1)


def test_a_context_that_is_too_small_is_an_error_before_any_work():
    with load("pocket", context=64) as model:
        with pytest.raises(ContextOverflow, match="context length is 64"):
            model.ask(QUESTION)
        with pytest.raises(ContextOverflow):
            model.logits([1] * 65)
    with pytest.raises(UsageError, match="context is 1"):
        load("pocket", context=1)


def test_after_closing_every_call_says_so():
    model = load("pocket")
    model.close()
    model.close()
    assert "closed" in repr(model)
    with pytest.raises(EngineClosed, match="load it again"):
        model.ask(QUESTION)


def test_asyncio_context_manager_closes():
    async def work() -> GptOss:
        async with GptOss("pocket") as model:
            return model

    with pytest.raises(EngineClosed):
        asyncio.run(work()).ask(QUESTION)


def test_a_model_can_load_in_the_background():
    model = GptOss("pocket", wait=False)
    assert model.ask(QUESTION, max_tokens=2).finish_reason == "length"
    model.close()


def test_progress_of_loading_ends_at_the_whole():
    seen: list[tuple[int, int]] = []
    load("pocket", progress=lambda done, total: seen.append((done, total))).close()
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_closing_stops_the_loading_between_two_pieces():
    reported: list[int] = []
    begun = threading.Event()
    closed = threading.Event()

    def slowly(done: int, total: int) -> None:
        reported.append(done)
        begun.set()
        closed.wait(10)

    model = GptOss("pocket", wait=False, progress=slowly)
    assert begun.wait(10)
    threading.Timer(0.1, closed.set).start()
    model.close()
    assert len(reported) == 1
    model.engine._thread.join(30)
    assert not model.engine._thread.is_alive()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("20b", r"get openai/gpt-oss-20b \(13.8 GB\) with `gptoss pull 20b`"),
        ("120b", "65.2 GB"),
        ("nonsense", "there is no model 'nonsense'"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_do(name: str, message: str):
    with pytest.raises(ModelNotFound, match=message):
        load(name)


def test_a_folder_or_file_that_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(ModelNotFound, match="is a file"):
        load(POCKET_FOLDER / "config.json")


def test_damaged_weights_are_an_error_at_load(tmp_path: Path):
    for file in POCKET_FOLDER.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    with pytest.raises(WeightsError, match="model"):
        load(tmp_path)


def test_cancelling_before_the_turn_begins_is_no_crash(pocket: GptOss):
    running = pocket.stream("Count from 1 to 100.", temperature=0)
    waiting = pocket.stream(QUESTION)
    waiting.cancel()
    running.cancel()
    outcome: Any
    try:
        outcome = waiting.reply.finish_reason
    except Cancelled:
        outcome = "cancelled"
    assert outcome == "cancelled"
