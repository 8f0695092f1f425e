"""A turn with tools that run by themselves, played by a scripted model: the five steps, and everything between them."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest

from gptoss_mlx import Tool, ToolLimits, make_tool
from gptoss_mlx.chat import Chat
from gptoss_mlx.engine import Engine
from gptoss_mlx.errors import ContextOverflow, EngineClosed, UsageError
from gptoss_mlx.events import Done, Event, Reply, ToolCall, ToolResult
from gptoss_mlx.harmony import Message, parse_tokens
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import current_call
from tests.harmony.test_malformed import CASES, TOOLS, Case
from tests.scripted import ScriptedHost, as_model, scripted_chat, scripted_model

THOUGHT = "<|channel|>analysis<|message|>We need a tool.<|end|><|start|>assistant"
ANSWER = "<|channel|>analysis<|message|>Now I know.<|end|><|start|>assistant<|channel|>final<|message|>Fine.<|return|>"


def call(name: str, arguments: str, *, end: str = "<|call|>") -> str:
    return f" to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>{arguments}{end}"


def get_weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


def add(a: int, b: int) -> int:
    return a + b


ROME = call("get_weather", '{"city": "Rome"}')


def play(tokenizer: Tokenizer, *texts: str, tools: Any = (get_weather, add), **options: Any) -> tuple[Chat, Reply]:
    chat = scripted_chat(tokenizer, *texts, tools=list(tools), **options)
    return chat, chat.send("How is it?")


def results(reply: Reply) -> list[str]:
    return [result.content for result in reply.tool_results]


def spoken(chat: Chat) -> list[tuple[str, str | None, str]]:
    return [(message.role, message.channel, message.text) for message in chat.turns]


def test_a_call_runs_and_its_result_is_read_before_the_answer(pocket_tokenizer: Tokenizer):
    chat = scripted_chat(pocket_tokenizer, THOUGHT + ROME, ANSWER, tools=[get_weather])
    events = list(chat.stream("How is it?").events())
    called = ToolCall("call_1", "functions.get_weather", {"city": "Rome"}, '{"city": "Rome"}')
    result = next(event for event in events if isinstance(event, ToolResult))
    assert (result.id, result.name, result.content, result.failed) == (called.id, called.name, "sunny in Rome", False)
    assert events.index(called) < events.index(result)
    assert [event for event in events if isinstance(event, Done)] == [events[-1]]
    reply = events[-1].reply if isinstance(events[-1], Done) else None
    assert reply is not None
    assert (reply.text, reply.finish_reason, reply.rounds) == ("Fine.", "stop", 2)
    assert reply.reasoning == "We need a tool.\n\nNow I know."
    assert (reply.tool_calls, reply.tool_results) == ((called,), (result,))
    assert reply.raw == THOUGHT + ROME + ANSWER
    assert len(reply.tokens) == reply.stats.generated_tokens
    json.dumps([event.to_dict() for event in events])
    assert spoken(chat) == [
        ("user", None, "How is it?"),
        ("assistant", "analysis", "We need a tool."),
        ("assistant", "commentary", '{"city": "Rome"}'),
        ("tool", "commentary", "sunny in Rome"),
        ("assistant", "analysis", "Now I know."),
        ("assistant", "final", "Fine."),
    ]


def test_the_reasoning_before_a_call_is_read_again_within_the_turn_and_dropped_after_it(pocket_tokenizer: Tokenizer):
    model = scripted_model(pocket_tokenizer, THOUGHT + ROME, ANSWER, ANSWER)
    host = ScriptedHost(Engine(lambda: as_model(model)), pocket_tokenizer)
    chat = Chat(host, defaults={"temperature": 0.0, "tools": [get_weather]})
    chat.send("How is it?")
    chat.send("And now?")
    prompts = [pocket_tokenizer.decode(tokens) for tokens in model.calls if len(tokens) > 20]
    assert len(prompts) == 3
    result = "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>sunny in Rome<|end|>"
    assert prompts[1] == prompts[0] + THOUGHT + ROME + result + "<|start|>assistant"
    assert "We need a tool." not in prompts[2]
    assert ROME + result in prompts[2]
    assert "Now I know." not in prompts[2]


def test_calls_follow_each_other_until_there_is_an_answer(pocket_tokenizer: Tokenizer):
    steps = [call("add", f'{{"a": {number}, "b": 1}}') for number in range(3)]
    chat, reply = play(pocket_tokenizer, *steps, ANSWER)
    assert results(reply) == ["1", "2", "3"]
    assert [each.id for each in reply.tool_calls] == ["call_1", "call_2", "call_3"]
    assert (reply.rounds, reply.text) == (4, "Fine.")
    assert chat.pending_calls == []
    # Ids go on in the next turn, as in the conversation.
    again = scripted_chat(pocket_tokenizer, *steps, tools=[add])
    again._turns = chat.turns
    assert next(e for e in again.stream("more").events() if isinstance(e, ToolCall)).id == "call_4"


def test_calls_that_wait_at_the_same_time_all_get_their_results(pocket_tokenizer: Tokenizer):
    first = call("add", '{"a": 1, "b": 1}', end="<|end|>")
    chat, reply = play(pocket_tokenizer, f"{first}<|start|>assistant{ROME}", ANSWER)
    assert results(reply) == ["2", "sunny in Rome"]
    assert [message.name for message in chat.turns if message.role == "tool"] == [
        "functions.add",
        "functions.get_weather",
    ]
    assert reply.text == "Fine."


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_spelling_of_a_call_reaches_its_tool_and_what_is_none_reaches_nothing(
    pocket_tokenizer: Tokenizer, case: Case
):
    reached: list[tuple[str, dict[str, Any]]] = []

    def reach(name: str) -> Callable[..., None]:
        return lambda **given: reached.append((name, given))

    tools = [Tool(name, "", {"type": "object"}, function=reach(name)) for name in ("get_weather", "shell")]
    # A stream that just ends is one in which the model said that its text ends.
    script = case.stream if case.stream.endswith(("<|call|>", "<|return|>")) else case.stream + "<|endoftext|>"
    chat = scripted_chat(pocket_tokenizer, script, ANSWER, tools=tools)
    reply = chat.send("go")
    # The model stops at its first call: what it would invent after it is never said.
    before_stop = parse_tokens(
        [
            *takewhile(
                lambda token: token not in pocket_tokenizer.special.stop_ids,
                pocket_tokenizer.encode_with_special(script),
            )
        ],
        pocket_tokenizer,
        tool_names=TOOLS,
    )
    expected = [message for message in before_stop if message.recipient in TOOLS]
    assert reached == [((m.recipient or "").removeprefix("functions."), json.loads(m.text)) for m in expected]
    # The parser's own cases say which calls there are; none is lost but those after a stop.
    called = [recipient for _, recipient, _, _ in case.messages if recipient in TOOLS]
    assert [m.recipient for m in expected] == called[: len(expected)]
    assert bool(expected) == bool(called)
    assert not any(result.failed for result in reply.tool_results)


def test_a_bare_name_is_the_function_of_that_name(pocket_tokenizer: Tokenizer):
    bare = '<|channel|>commentary to=get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
    assert results(play(pocket_tokenizer, bare, ANSWER)[1]) == ["sunny in Rome"]


@pytest.mark.parametrize("name", ["functions.nothing", "browser.search", "python", "browser.get_weather"])
def test_a_tool_that_is_not_there_is_told_to_the_model(pocket_tokenizer: Tokenizer, name: str):
    text = f"<|channel|>commentary to={name} <|constrain|>json<|message|>{{}}<|call|>"
    _, reply = play(pocket_tokenizer, text, ANSWER)
    assert results(reply) == [f"Error: there is no tool {name}. The tools are: functions.get_weather, functions.add."]
    assert (reply.tool_results[0].failed, reply.text) == (True, "Fine.")


def test_an_error_of_a_tool_goes_to_the_model_and_the_chat_lives(pocket_tokenizer: Tokenizer):
    def get_weather(city: str) -> str:
        raise LookupError(f"no station in {city}")

    chat, reply = play(pocket_tokenizer, ROME, ANSWER, ANSWER, tools=[get_weather])
    assert results(reply) == ["Error: LookupError: no station in Rome"]
    assert (reply.tool_results[0].failed, reply.text) == (True, "Fine.")
    assert chat.send("again").text == "Fine."


def test_arguments_that_do_not_fit_are_written_anew_once(pocket_tokenizer: Tokenizer):
    wrong = call("add", '{"a": 1, "b": "many"}')
    _, reply = play(pocket_tokenizer, wrong, call("add", '{"a": 1, "b": 2}'), ANSWER)
    assert results(reply)[0].startswith("Error: the arguments do not fit: b: Input should be a valid integer")
    assert "Call it again with arguments of this schema:" in results(reply)[0]
    assert results(reply)[1:] == ["3"]
    _, reply = play(pocket_tokenizer, wrong, wrong, ANSWER)
    assert "Do not call it again" in results(reply)[1]
    assert reply.text == "Fine."


def test_a_result_that_is_too_long_loses_its_middle_and_the_model_is_told(pocket_tokenizer: Tokenizer):
    def get_weather(city: str) -> str:
        return "A" * 50 + "B" * 50

    _, reply = play(pocket_tokenizer, ROME, ANSWER, tools=[get_weather], tool_limits=ToolLimits(result_characters=20))
    assert results(reply) == [
        "A" * 10 + "\n[... 80 of 100 characters were cut here: the result is too long ...]\n" + "B" * 10
    ]


def test_after_the_last_round_the_model_has_to_answer(pocket_tokenizer: Tokenizer):
    again = call("add", '{"a": 1, "b": 1}')
    chat, reply = play(pocket_tokenizer, again, again, again, "Enough.<|return|>", tool_limits=ToolLimits(rounds=2))
    assert results(reply)[:2] == ["2", "2"]
    assert results(reply)[2].startswith("Error: no more calls are possible in this turn (limit: 2)")
    assert (reply.text, reply.finish_reason, reply.rounds) == ("Enough.", "stop", 4)
    assert spoken(chat)[-1] == ("assistant", "final", "Enough.")


def test_a_tool_that_takes_too_long_is_an_error_for_the_model(pocket_tokenizer: Tokenizer):
    def get_weather(city: str) -> str:
        call = current_call()
        assert call is not None
        while not call.cancelled:
            time.sleep(0.005)
        return "too late"

    for tools, limits in (
        ([get_weather], ToolLimits(seconds=0.05)),
        ([make_tool(get_weather, max_seconds=0.05)], ToolLimits()),
    ):
        _, reply = play(pocket_tokenizer, ROME, ANSWER, tools=tools, tool_limits=limits)
        assert results(reply) == ["Error: no result within 0.05 seconds."]
        assert reply.text == "Fine."


# Approval


def test_somebody_is_asked_before_a_tool_runs_and_a_refusal_is_told(pocket_tokenizer: Tokenizer):
    asked: list[ToolCall] = []
    verdicts: list[bool | str] = [True, False, "it costs money"]

    def approve(call: ToolCall) -> bool | str:
        asked.append(call)
        return verdicts[len(asked) - 1]

    _, reply = play(pocket_tokenizer, ROME, ROME, ROME, ANSWER, approve=approve)
    assert [call.arguments for call in asked] == [{"city": "Rome"}] * 3
    assert results(reply) == [
        "sunny in Rome",
        "Error: the call was refused. The tool did not run.",
        "Error: the call was refused: it costs money. The tool did not run.",
    ]
    assert [result.failed for result in reply.tool_results] == [False, True, True]
    assert reply.text == "Fine."


def test_the_question_comes_up_where_the_stream_is_read(pocket_tokenizer: Tokenizer):
    threads: list[int] = []

    def approve(call: ToolCall) -> bool:
        threads.append(threading.get_ident())
        return True

    play(pocket_tokenizer, ROME, ANSWER, approve=approve)
    assert threads == [threading.get_ident()]


def test_in_asyncio_the_question_may_be_a_coroutine_of_the_readers_loop(pocket_tokenizer: Tokenizer):
    async def work() -> tuple[Reply, list[Event], bool]:
        loop, same = asyncio.get_running_loop(), False

        async def approve(call: ToolCall) -> bool:
            nonlocal same
            same = asyncio.get_running_loop() is loop
            await asyncio.sleep(0.01)
            return True

        chat = scripted_chat(pocket_tokenizer, ROME, ANSWER, tools=[get_weather])
        stream = chat.stream("hi", approve=approve)
        events = [event async for event in stream.aevents()]
        return await stream.areply(), events, same

    reply, events, same = asyncio.run(work())
    assert same
    assert results(reply) == ["sunny in Rome"]
    assert isinstance(events[-1], Done)


def test_in_asyncio_a_plain_function_that_waits_does_not_hold_the_loop_up(pocket_tokenizer: Tokenizer):
    async def work() -> int:
        ticks, asked = 0, threading.Event()

        def approve(call: ToolCall) -> bool:
            return asked.wait(10)

        async def tick() -> None:
            nonlocal ticks
            while ticks < 5:
                await asyncio.sleep(0.001)
                ticks += 1
            asked.set()

        chat = scripted_chat(pocket_tokenizer, ROME, ANSWER, tools=[get_weather])
        reply, _ = await asyncio.gather(chat.asend("hi", approve=approve), tick())
        assert results(reply) == ["sunny in Rome"]
        return ticks

    assert asyncio.run(work()) == 5


def test_a_tools_own_policy_goes_before_that_of_the_turn(pocket_tokenizer: Tokenizer):
    asked: list[str] = []

    def approve(call: ToolCall) -> bool:
        asked.append(call.name)
        return True

    tools = [make_tool(get_weather, policy="always"), make_tool(add, policy="never")]
    _, reply = play(pocket_tokenizer, ROME, call("add", '{"a": 1, "b": 1}'), ANSWER, tools=tools, approve=approve)
    assert asked == []
    assert results(reply) == [
        "sunny in Rome",
        "Error: the call was refused: it is switched off. The tool did not run.",
    ]
    _, reply = play(pocket_tokenizer, ROME, ANSWER, approve="never")
    assert results(reply)[0].startswith("Error: the call was refused")


def test_a_tool_that_asks_needs_somebody_to_ask(pocket_tokenizer: Tokenizer):
    with pytest.raises(UsageError, match="there is nobody to ask; give approve="):
        scripted_chat(pocket_tokenizer, tools=[make_tool(add, policy="ask")])


def test_an_error_in_the_approval_is_the_readers_and_stops_the_turn(pocket_tokenizer: Tokenizer):
    def approve(call: ToolCall) -> bool:
        raise RuntimeError("the window was closed")

    chat = scripted_chat(pocket_tokenizer, ROME, ANSWER, ANSWER, tools=[get_weather], approve=approve)
    stream = chat.stream("hi")
    with pytest.raises(RuntimeError, match="the window was closed"):
        stream.reply  # noqa: B018
    assert stream.wait(10)
    assert chat.pending_calls == []
    assert chat.send("again", approve="always").text == "Fine."


# Stops


def stopped_chat(tokenizer: Tokenizer, tool: Callable[[str], str], **options: Any) -> tuple[Chat, Reply]:
    chat = scripted_chat(tokenizer, ROME, ANSWER, tools=[make_tool(tool, name="get_weather")], **options)
    stream = chat.stream("hi")
    for event in stream.events():
        if isinstance(event, ToolCall):
            threading.Timer(0.1, stream.cancel).start()
    return chat, stream.reply


def test_a_stop_ends_the_tool_and_the_turn_and_the_history_is_whole(pocket_tokenizer: Tokenizer):
    ended = threading.Event()

    def slow(city: str) -> str:
        call = current_call()
        assert call is not None
        call.on_cancel(ended.set)
        ended.wait(30)
        return "late"

    chat, reply = stopped_chat(pocket_tokenizer, slow)
    assert ended.is_set()
    assert reply.finish_reason == "cancelled"
    assert results(reply) == ["Error: the user stopped this call."]
    assert chat.pending_calls == []
    # The next turn goes on from there.
    assert chat.send("and now?").text == "Fine."


def test_a_tool_that_does_not_end_is_left_running_and_the_chat_goes_on(pocket_tokenizer: Tokenizer):
    over = threading.Event()

    def stubborn(city: str) -> str:
        over.wait(30)
        return "late"

    chat, reply = stopped_chat(pocket_tokenizer, stubborn, tool_limits=ToolLimits(grace_seconds=0.1))
    assert "does not end and was left running" in results(reply)[0]
    assert chat.send("and now?").text == "Fine."
    over.set()


def test_a_stop_while_somebody_is_asked_ends_the_turn(pocket_tokenizer: Tokenizer):
    asked = threading.Event()
    chat = scripted_chat(pocket_tokenizer, ROME, ANSWER, tools=[get_weather], approve=lambda call: asked.wait(30))
    stream = chat.stream("hi")
    reader = threading.Thread(target=lambda: stream.reply, daemon=True)
    reader.start()
    time.sleep(0.2)
    chat.stop()
    assert stream.finished
    assert chat.turns[-1].text == "Error: the call was refused: the user stopped the turn. The tool did not run."
    asked.set()
    reader.join(10)


def test_a_new_turn_stops_the_loop_that_runs(pocket_tokenizer: Tokenizer):
    steps = [call("add", f'{{"a": {number}, "b": 1}}') for number in range(200)]
    chat = scripted_chat(pocket_tokenizer, *steps, tools=[add], tool_limits=ToolLimits(rounds=1000))
    stream = chat.stream("hi")
    seen = 0
    for event in stream.events():
        seen += isinstance(event, ToolResult)
        if seen == 2:
            break
    chat.clear()
    assert stream.finished
    assert chat.turns == []


def test_closing_the_model_ends_a_loop(pocket_tokenizer: Tokenizer):
    model = scripted_model(pocket_tokenizer, ROME, ANSWER)
    engine = Engine(lambda: as_model(model))
    chat = Chat(ScriptedHost(engine, pocket_tokenizer), defaults={"temperature": 0.0})

    def closes(city: str) -> str:
        engine.close()
        return "closed"

    with pytest.raises(EngineClosed):
        chat.send("hi", tools=[make_tool(closes, name="get_weather")])
    assert chat.turns[-1] == Message.tool("functions.get_weather", "closed")


def test_a_result_that_fills_the_context_is_no_silent_loss(pocket_tokenizer: Tokenizer):
    def get_weather(city: str) -> str:
        return "sun " * 400

    chat = scripted_chat(pocket_tokenizer, ROME, ANSWER, tools=[get_weather], context_limit=300)
    with pytest.raises(ContextOverflow):
        chat.send("hi")
    assert chat.turns[-1].role == "tool"
    assert chat.undo() == "hi"


# Which tools


def test_tools_whose_results_the_caller_gives_stop_the_loop(pocket_tokenizer: Tokenizer):
    by_hand = {"name": "ask_user", "description": "", "parameters": {"type": "object", "properties": {}}}
    first = call("add", '{"a": 1, "b": 1}', end="<|end|>")
    chat, reply = play(
        pocket_tokenizer,
        f"{first}<|start|>assistant{call('ask_user', '{}')}",
        ROME,
        ANSWER,
        tools=[add, by_hand, get_weather],
    )
    assert (reply.finish_reason, results(reply)) == ("tool_calls", ["2"])
    assert [each.name for each in chat.pending_calls] == ["functions.ask_user"]
    answer = chat.answer_calls({chat.pending_calls[0].id: "yes"}).reply
    assert (results(answer), answer.text) == (["sunny in Rome"], "Fine.")


def test_no_tool_is_offered_when_the_choice_is_none(pocket_tokenizer: Tokenizer):
    chat, reply = play(pocket_tokenizer, ROME, ANSWER, tool_choice="none")
    assert [message.role for message in chat.messages][:2] == ["system", "user"]
    assert results(reply) == ["Error: there is no tool functions.get_weather. No tools can be called in this turn."]
    assert reply.text == "Fine."


def test_a_choice_among_tools_that_are_not_there_is_refused(pocket_tokenizer: Tokenizer):
    with pytest.raises(
        UsageError, match="tool_choice is 'fly'; expected one of auto, none, required, get_weather, add"
    ):
        play(pocket_tokenizer, tool_choice="fly")
    with pytest.raises(UsageError, match="as no tool is given"):
        play(pocket_tokenizer, tools=[], tool_choice="required")
    with pytest.raises(UsageError, match="two tools of the name 'add'"):
        play(pocket_tokenizer, tools=[add, add])


# Trust


def test_an_answer_that_was_stopped_in_a_tool_goes_on_with_a_new_message(pocket_tokenizer: Tokenizer):
    stopped = threading.Event()

    def wait_for_weather(city: str) -> str:
        """The weather, once the caller has stopped the turn."""
        assert stopped.wait(20)
        return f"sunny in {city}"

    tool = make_tool(wait_for_weather, name="get_weather")
    chat = scripted_chat(pocket_tokenizer, THOUGHT + ROME, ANSWER, tools=[tool])
    stream = chat.stream("How is it?")
    for event in stream.events():
        if isinstance(event, ToolCall):
            stream.cancel()
            stopped.set()
    assert chat.turns[-1].role == "tool"
    before = chat.turns
    reply = chat.continue_answer()
    assert reply.text == "Fine."
    assert chat.turns[: len(before)] == before
    assert spoken(chat)[-1] == ("assistant", "final", "Fine.")
