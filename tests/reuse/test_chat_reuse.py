"""Chats with the pocket model on a pool: the same answers as a cold engine, and no more read than has changed."""

from collections.abc import Iterator
from typing import Any

import pytest

from gptoss_mlx import Chat, GptOss, Reply, load
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message, render_message
from gptoss_mlx.turn import answers_start

OPTIONS: dict[str, Any] = {"date": "2026-01-31", "temperature": 0, "logprobs": True}
WEATHER = {
    "name": "get_weather",
    "description": "Gets the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def warm() -> Iterator[GptOss]:
    with load("pocket", **OPTIONS) as model:
        yield model


@pytest.fixture(scope="module")
def cold() -> Iterator[GptOss]:
    with load("pocket", reuse=False, **OPTIONS) as model:
        yield model


@pytest.fixture(autouse=True)
def empty(warm: GptOss) -> None:
    """Each test begins with nothing kept."""
    warm.engine.call(lambda model, ticket: warm.kv_pool.clear())


class Pair:
    """The same chat with a warm and with a cold model; whatever is done is done to both and compared."""

    def __init__(self, warm: Chat, cold: Chat) -> None:
        self.warm, self.cold = warm, cold

    def do(self, method: str, *arguments: Any, **options: Any) -> Reply:
        found: Reply = getattr(self.warm, method)(*arguments, **options)
        expected: Reply = getattr(self.cold, method)(*arguments, **options)
        found, expected = (getattr(reply, "reply", reply) for reply in (found, expected))
        assert found.tokens == expected.tokens
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        assert found.finish_reason == expected.finish_reason
        assert found.stats.prompt_tokens == expected.stats.prompt_tokens
        assert expected.stats.cached_tokens == 0
        return found

    def fork(self) -> "Pair":
        return Pair(self.warm.fork(), self.cold.fork())

    @property
    def messages(self) -> list[Message]:
        return self.warm.messages


def reread(reply: Reply) -> int:
    return reply.stats.prompt_tokens - reply.stats.cached_tokens


@pytest.fixture
def pair(warm: GptOss, cold: GptOss) -> Pair:
    return Pair(warm.chat(system="Answer in one sentence."), cold.chat(system="Answer in one sentence."))


def tokens_of(pair: Pair, message: Message) -> int:
    return len(render_message(message, pair.warm._host.tokenizer))


def test_every_way_through_a_chat_gives_the_answers_of_a_cold_engine(pair: Pair):
    first = pair.do("send", "What is 17 plus 25?")
    second = pair.do("send", "And 3 more?")
    assert second.stats.cached_tokens >= first.stats.prompt_tokens
    assert reread(second) <= first.stats.generated_tokens + tokens_of(pair, Message.user("And 3 more?")) + 2
    assert reread(pair.do("regenerate")) == 1
    pair.do("send", "Reverse the word: stone", max_tokens=9)
    pair.do("send", "Reverse the word: lamp", effort="none")
    pair.do("send", "What is 8 plus 9?", max_reasoning_tokens=3)
    branch = pair.fork()
    branch.do("send", "What is 5 plus 5?")
    pair.do("send", "What is 6 plus 6?")
    branch.do("send", "And 1 more?")
    edited = pair.do("edit", 1, "What is 40 plus 2?")
    assert edited.stats.cached_tokens >= first.stats.prompt_tokens
    pair.warm.undo()
    pair.cold.undo()
    pair.do("send", "Spell: cat")
    # Another effort stands in the system message, and changes all that comes after it.
    assert pair.do("send", "What is 2 plus 2?", effort="low").stats.cached_tokens < first.stats.prompt_tokens


def test_a_tools_result_is_read_and_what_came_before_is_not(warm: GptOss, cold: GptOss):
    pair = Pair(warm.chat(tools=[WEATHER]), cold.chat(tools=[WEATHER]))
    reply = pair.do("send", "What is the weather in Paris?")
    assert reply.tool_calls
    result = {call.id: '{"temperature": 21}' for call in reply.tool_calls}
    after = pair.do("answer_calls", result)
    assert reread(after) <= tokens_of(pair, Message.tool("functions.get_weather", '{"temperature": 21}')) + 3
    following = pair.do("send", "Thanks. What is 1 plus 1?")
    assert following.stats.cached_tokens >= reply.stats.prompt_tokens


def test_a_stopped_answer_and_a_stopped_prompt_are_taken_up(pair: Pair):
    pair.do("send", "What is 17 plus 25?")
    stream = pair.warm.stream("Tell me about the sea. " * 60, prefill_chunk=32)
    events = stream.events()
    next(events)
    next(events)
    stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    pair.cold._turns = list(pair.warm._turns)
    again = pair.do("regenerate", max_tokens=20)
    assert again.stats.cached_tokens >= 32
    pair.do("send", "Go on", max_tokens=10)


def test_one_question_after_another_shares_what_is_the_same(warm: GptOss, cold: GptOss):
    shared = "You are terse. " * 60
    for question in ("What is 1 plus 2?", "What is 2 plus 2?"):
        messages = [Message.developer(shared), Message.user(question)]
        found, expected = warm.generate(messages), cold.generate(messages)
        assert found.tokens == expected.tokens
    assert found.stats.cached_tokens >= len(warm.tokenizer.encode(shared))


def test_answers_start_behind_the_last_question_whatever_came_since(warm: GptOss):
    system, user = Message.system("x"), Message.user("<|start|>user is only text here")
    call = Message.assistant("{}", channel="commentary", recipient="functions.f")
    asked = warm.prompt_tokens([system, user])
    assert answers_start(asked, warm.tokenizer) == len(asked)
    later = warm.prompt_tokens([system, user, call, Message.tool("functions.f", "1")])
    assert answers_start(later, warm.tokenizer) == len(asked)
    alone = warm.prompt_tokens([system])
    assert answers_start(alone, warm.tokenizer) == len(alone)


def test_reuse_is_an_option_and_its_limit_too():
    with load("pocket", kv_limit_bytes=100, **OPTIONS) as model:
        chat = model.chat()
        assert [chat.send(text, max_tokens=3).stats.cached_tokens for text in ("a", "b")] == [0, 0]
    with pytest.raises(UsageError, match="kv_limit_bytes is -1"):
        load("pocket", kv_limit_bytes=-1)


def test_a_closed_model_keeps_nothing():
    with load("pocket", **OPTIONS) as model:
        model.ask("What is 1 plus 2?", max_tokens=3)
        assert model.kv_pool.nbytes > 0
    assert model.kv_pool.nbytes == 0
