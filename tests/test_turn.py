"""One turn with a scripted model: channels, limits, stop strings, budgets, tool calls and malformed output."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gptoss_mlx.chat import Chat
from gptoss_mlx.engine import Engine
from gptoss_mlx.errors import ContextOverflow, EngineError
from gptoss_mlx.events import (
    ChannelStart,
    Done,
    Event,
    ParseWarning,
    PromptProgress,
    Reply,
    TextDelta,
    ToolCall,
)
from gptoss_mlx.tokenizer import Tokenizer
from tests.scripted import ScriptedHost, as_model, scripted_chat, scripted_model

THOUGHT = "<|channel|>analysis<|message|>We add the numbers. So the sum is four.<|end|>"
ANSWER = "<|start|>assistant<|channel|>final<|message|>The sum is 4.<|return|>"
WEATHER = {"name": "get_weather", "description": "Weather.", "parameters": {"type": "object", "properties": {}}}


def events_of(tokenizer: Tokenizer, text: str, **options: Any) -> list[Event]:
    return list(scripted_chat(tokenizer, text).stream("What is 2 + 2?", **options).events())


def reply_of(tokenizer: Tokenizer, text: str, **options: Any) -> Reply:
    last = events_of(tokenizer, text, **options)[-1]
    assert isinstance(last, Done)
    return last.reply


def test_reasoning_and_answer_come_apart_and_the_reply_is_last(pocket_tokenizer: Tokenizer):
    events = events_of(pocket_tokenizer, THOUGHT + ANSWER)
    kinds = [type(event) for event in events]
    assert kinds[:2] == [PromptProgress, PromptProgress]
    assert [event for event in events if isinstance(event, ChannelStart)] == [
        ChannelStart("analysis", None),
        ChannelStart("final", None),
    ]
    reply = events[-1].reply if isinstance(events[-1], Done) else None
    assert reply is not None
    assert reply.reasoning == "We add the numbers. So the sum is four."
    assert str(reply) == reply.text == "The sum is 4."
    assert reply.finish_reason == "stop"
    assert reply.raw == THOUGHT + ANSWER
    for channel, text in (("analysis", reply.reasoning), ("final", reply.text)):
        deltas = [event for event in events if isinstance(event, TextDelta) and event.channel == channel]
        assert "".join(delta.text for delta in deltas) == text
        tokens = sum(delta.tokens for delta in deltas)
        assert tokens == (reply.stats.reasoning_tokens if channel == "analysis" else reply.stats.answer_tokens)
        assert tokens == len(pocket_tokenizer.encode(text))
    assert reply.stats.generated_tokens == len(reply.tokens)


def test_every_event_is_one_json_object(pocket_tokenizer: Tokenizer):
    for event in events_of(pocket_tokenizer, THOUGHT + ANSWER, logprobs=True):
        data = json.loads(json.dumps(event.to_dict()))
        assert next(iter(data)) == "type"


def test_max_tokens_stops_and_says_so(pocket_tokenizer: Tokenizer):
    reply = reply_of(pocket_tokenizer, THOUGHT + ANSWER, max_tokens=5)
    assert reply.finish_reason == "length"
    assert reply.stats.generated_tokens == len(reply.tokens) == 5
    assert THOUGHT.endswith("<|end|>")
    assert "We add the numbers.".startswith(reply.reasoning)


@pytest.mark.parametrize("budget", [0, 1, 4])
def test_a_reasoning_budget_closes_the_analysis_and_opens_the_answer(pocket_tokenizer: Tokenizer, budget: int):
    words = pocket_tokenizer.encode("one two three four five six seven eight nine ten")
    script = "<|channel|>analysis<|message|>" + pocket_tokenizer.decode(words)
    reply = reply_of(pocket_tokenizer, script, max_reasoning_tokens=budget, max_tokens=30)
    assert reply.reasoning_truncated
    assert reply.stats.reasoning_tokens == budget
    assert reply.reasoning == pocket_tokenizer.decode(words[:budget])
    assert "<|end|><|start|>assistant<|channel|>final<|message|>" in reply.raw
    assert reply.text
    assert not reply.warnings


def test_a_budget_that_is_not_reached_changes_nothing(pocket_tokenizer: Tokenizer):
    reply = reply_of(pocket_tokenizer, THOUGHT + ANSWER, max_reasoning_tokens=1000)
    assert not reply.reasoning_truncated
    assert reply.raw == THOUGHT + ANSWER


def test_answer_now_does_the_same_when_the_caller_asks(pocket_tokenizer: Tokenizer):
    stream = scripted_chat(pocket_tokenizer, "<|channel|>analysis<|message|>Hmm").stream("hi", max_tokens=40)
    stream.answer_now()
    assert stream.reply.reasoning_truncated
    assert stream.reply.text


def test_effort_none_opens_the_answer_at_once(pocket_tokenizer: Tokenizer):
    chat = scripted_chat(pocket_tokenizer, "Four.<|return|>")
    reply = chat.send("2 + 2", effort="none")
    assert (reply.text, reply.reasoning) == ("Four.", "")
    assert reply.finish_reason == "stop"
    assert reply.stats.generated_tokens == len(pocket_tokenizer.encode("Four.")) + 1


def test_effort_none_leaves_the_choice_of_a_call_when_tools_are_offered(pocket_tokenizer: Tokenizer):
    text = " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
    reply = reply_of(pocket_tokenizer, text, effort="none", tools=[WEATHER])
    assert [call.name for call in reply.tool_calls] == ["functions.get_weather"]


@pytest.mark.parametrize(("stop", "shown"), [("sum", "The "), ("is 4", "The sum "), ("The", ""), ("4.", "The sum is ")])
def test_a_stop_string_ends_the_answer_before_it(pocket_tokenizer: Tokenizer, stop: str, shown: str):
    events = events_of(pocket_tokenizer, THOUGHT + ANSWER, stop=stop)
    reply = events[-1].reply if isinstance(events[-1], Done) else None
    assert reply is not None
    assert reply.text == shown
    assert reply.finish_reason == "stop"
    streamed = "".join(event.text for event in events if isinstance(event, TextDelta) and event.channel == "final")
    assert streamed == shown


def test_a_stop_string_does_not_look_at_the_reasoning(pocket_tokenizer: Tokenizer):
    assert reply_of(pocket_tokenizer, THOUGHT + ANSWER, stop=["numbers"]).text == "The sum is 4."


def test_what_was_held_back_for_a_stop_string_is_shown_in_the_end(pocket_tokenizer: Tokenizer):
    assert reply_of(pocket_tokenizer, THOUGHT + ANSWER, stop=["4.!"]).text == "The sum is 4."


CALL = (
    "<|channel|>analysis<|message|>We need a tool.<|end|><|start|>assistant to=functions.get_weather"
    '<|channel|>commentary <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
)


def test_a_tool_call_ends_the_turn_with_its_arguments(pocket_tokenizer: Tokenizer):
    events = events_of(pocket_tokenizer, CALL, tools=[WEATHER])
    call = ToolCall("call_1", "functions.get_weather", {"city": "Rome"}, '{"city": "Rome"}')
    assert call in events
    reply = events[-1].reply if isinstance(events[-1], Done) else None
    assert reply is not None
    assert reply.tool_calls == (call,)
    assert reply.finish_reason == "tool_calls"
    assert reply.text == reply.commentary == ""


def test_arguments_that_are_no_json_object_stay_readable(pocket_tokenizer: Tokenizer):
    reply = reply_of(pocket_tokenizer, CALL.replace('{"city": "Rome"}', "ls -R"), tools=[WEATHER])
    assert (reply.tool_calls[0].arguments, reply.tool_calls[0].raw) == (None, "ls -R")


def test_malformed_markup_is_a_warning_and_loses_nothing(pocket_tokenizer: Tokenizer):
    events = events_of(pocket_tokenizer, "<|channel|>analysis<|message|>Hm<|end|>The sum is 4.<|return|>")
    assert any(isinstance(event, ParseWarning) for event in events)
    reply = events[-1].reply if isinstance(events[-1], Done) else None
    assert reply is not None
    assert (reply.reasoning, reply.text) == ("Hm", "The sum is 4.")
    assert reply.warnings


def test_logprobs_come_one_per_token_when_asked_for(pocket_tokenizer: Tokenizer):
    events = events_of(pocket_tokenizer, THOUGHT + ANSWER, logprobs=True)
    reply = events[-1].reply if isinstance(events[-1], Done) else None
    assert reply is not None
    assert reply.logprobs is not None
    assert len(reply.logprobs) == len(reply.tokens)
    # The script's tokens have all but the whole probability.
    assert all(-1e-6 < value <= 0 for value in reply.logprobs)
    assert reply_of(pocket_tokenizer, THOUGHT + ANSWER).logprobs is None


def test_the_context_limit_ends_the_turn_by_name_and_never_passes(pocket_tokenizer: Tokenizer):
    chat = scripted_chat(pocket_tokenizer, "<|channel|>final<|message|>" + "word " * 500, context_limit=120)
    reply = chat.send("hi")
    assert reply.finish_reason == "context"
    assert reply.stats.prompt_tokens + reply.stats.generated_tokens == 120
    assert chat.context_used > 120
    before = chat.messages
    with pytest.raises(ContextOverflow, match="context length is 120") as caught:
        chat.send("and now?")
    assert caught.value.context_limit == 120
    assert chat.messages == before


def test_cancelling_in_the_answer_keeps_what_came(pocket_tokenizer: Tokenizer):
    chat = scripted_chat(pocket_tokenizer, "<|channel|>final<|message|>" + "word " * 3000)
    stream = chat.stream("hi")
    seen = ""
    for piece in stream:
        seen += piece
        if len(seen) > 50:
            stream.cancel()
    reply = stream.reply
    assert reply.finish_reason == "cancelled"
    assert reply.text == seen
    assert chat.messages[-1].text == seen


def slow_chat(tokenizer: Tokenizer, *texts: str) -> Chat:
    model = scripted_model(tokenizer, *texts)
    model.delay_seconds = 0.02
    return Chat(ScriptedHost(Engine(lambda: as_model(model)), tokenizer))


def test_cancelling_while_the_prompt_is_read_takes_effect_within_a_chunk(pocket_tokenizer: Tokenizer):
    chat = slow_chat(pocket_tokenizer, "", ANSWER.removeprefix("<|start|>assistant"))
    stream = chat.stream("word " * 600, prefill_chunk=16)
    events: Iterator[Event] = stream.events()
    next(events)
    next(events)
    stream.cancel()
    progress = [event.done for event in events if isinstance(event, PromptProgress)]
    assert len(progress) <= 2
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.stats.generated_tokens == 0
    # The question is not lost: it can be answered again.
    assert chat.messages[-1].role == "user"
    assert chat.regenerate().text == "The sum is 4."


def test_progress_says_how_long_reading_will_take(pocket_tokenizer: Tokenizer):
    events = slow_chat(pocket_tokenizer, ANSWER).stream("word " * 100, prefill_chunk=30).events()
    seen = [event for event in events if isinstance(event, PromptProgress)]
    assert seen[0].eta_seconds is None
    assert [event.cached for event in seen] == [0] * len(seen)
    assert seen[-1].eta_seconds == 0.0
    for event in seen[1:-1]:
        assert event.eta_seconds == pytest.approx(event.seconds * (event.total - event.done) / event.done)
    assert [event.seconds for event in seen] == sorted(event.seconds for event in seen)
    assert seen[-1].seconds >= 0.02 * (len(seen) - 1)
    # What the cache had counts neither as read nor as left to read.
    assert PromptProgress(60, 100, cached=50, seconds=2.0).eta_seconds == pytest.approx(8.0)


def test_a_crash_of_the_engine_is_an_error_and_the_chat_goes_on(pocket_tokenizer: Tokenizer):
    model = scripted_model(pocket_tokenizer, THOUGHT, ANSWER.removeprefix("<|start|>assistant"))
    model.fail_at = 4
    chat = Chat(ScriptedHost(Engine(lambda: as_model(model)), pocket_tokenizer))
    with pytest.raises(EngineError, match="the device is gone"):
        chat.send("hi")
    assert [message.role for message in chat.messages] == ["system"]
    assert chat.send("hi").text == "The sum is 4."


@pytest.mark.parametrize("role", ["user", "functions.get_weather to=assistant"])
def test_a_message_that_the_model_invents_for_somebody_else_ends_its_turn(pocket_tokenizer: Tokenizer, role: str):
    script = f"<|channel|>final<|message|>Four.<|end|><|start|>{role}<|channel|>commentary<|message|>And 3 + 3?<|end|>"
    chat = scripted_chat(pocket_tokenizer, script)
    reply = chat.send("2 + 2")
    assert (reply.text, reply.commentary, reply.finish_reason) == ("Four.", "", "stop")
    assert reply.warnings
    assert chat.messages[-1].text == "Four."


@pytest.mark.parametrize(
    ("script", "warns"),
    [
        ("<|channel|>analysis<|message|>fine<|end|><|start|>assistant<|channel|>final", False),
        ("<|channel|>analysis<|message|>x<|channel|>final<|message|>bare words go on and on", True),
    ],
)
def test_what_a_cut_breaks_off_is_no_warning_and_what_the_model_broke_is_one(
    pocket_tokenizer: Tokenizer, script: str, warns: bool
):
    count = len(pocket_tokenizer.encode_with_special(script))
    for cut in range(count - 2, count + 1):
        reply = reply_of(pocket_tokenizer, script, max_tokens=cut)
        assert reply.finish_reason == "length"
        assert bool(reply.warnings) == warns
