"""The built-in `python` tool in whole turns, played by a scripted model: told, called, run, answered, stopped."""

import threading
import time
from dataclasses import replace
from itertools import takewhile
from typing import Any

import pytest

from gptoss_mlx import Message, PythonLimits, Tool, UsageError, make_python_tool, make_tool
from gptoss_mlx.chat import Chat
from gptoss_mlx.engine import Engine
from gptoss_mlx.events import ToolCall
from gptoss_mlx.harmony import PYTHON, SystemContent, parse_tokens, render_text
from gptoss_mlx.inputs import read_conversation
from gptoss_mlx.options import Options
from gptoss_mlx.python_sandbox.session import ANEW
from gptoss_mlx.python_sandbox.tool import read_code
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tool_loop import open_turn
from tests.harmony.test_malformed import CASES, JSON, Case, W
from tests.python_sandbox.conftest import need_sandbox
from tests.scripted import ScriptedHost, as_model, scripted_chat, scripted_model

ANSWER = "<|channel|>final<|message|>Fine.<|return|>"


def cell(code: str, header: str = "<|channel|>analysis to=python code") -> str:
    return f"<|channel|>analysis<|message|>I compute.<|end|><|start|>assistant{header}<|message|>{code}<|call|>"


@pytest.fixture
def fake() -> tuple[Tool, list[str]]:
    """The tool, and the cells that reached it; nothing runs."""
    ran: list[str] = []

    class Session:
        def __call__(self, arguments: dict[str, Any], earlier: Any) -> str:
            ran.append(arguments["code"])
            return f"result {len(ran)}"

        def close(self) -> None:
            ran.append("closed")

    return replace(make_python_tool(check=False), begin=Session), ran


def test_the_system_message_tells_of_it_in_openais_words(pocket_tokenizer: Tokenizer):
    def add(a: int, b: int) -> int:
        return a + b

    tool = make_python_tool(check=False)
    chat = scripted_chat(pocket_tokenizer, tools=[tool, add])
    system, developer = chat.messages
    assert system.content == (SystemContent(tools=(PYTHON,)),)
    told = render_text(chat.messages)
    assert f"# Tools\n\n## python\n\n{PYTHON.description}\n\n# Valid channels" in told
    assert "type add" in told
    assert "type python" not in told
    assert [message.role for message in scripted_chat(pocket_tokenizer, tools=[tool]).messages] == ["system"]
    assert scripted_chat(pocket_tokenizer, tools=[tool], tool_choice="none").messages[0] == Message.system()
    assert developer.role == "developer"


def test_the_callers_own_system_message_gets_it_too():
    options = Options(tools=(make_python_tool(check=False),))
    own = Message.system(SystemContent(model_identity="You are Ann."))
    first = read_conversation([own, Message.user("hi")], options)[0]
    assert first.content == (SystemContent(model_identity="You are Ann.", tools=(PYTHON,)),)
    given = Message.system(SystemContent(tools=(PYTHON,)))
    assert read_conversation([given, Message.user("hi")], options)[0] == given
    with pytest.raises(UsageError, match="the system message is plain text, and python belongs into it"):
        read_conversation([Message.system("plain"), Message.user("hi")], options)


def test_calls_in_openais_form_are_read_as_what_they_are():
    called = {"id": "1", "function": {"name": "python", "arguments": "print(1)"}}
    messages = read_conversation(
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "1", "content": "1"},
        ],
        Options(),
    )
    assert render_text(messages[2:]) == (
        "<|start|>assistant to=python<|channel|>analysis code<|message|>print(1)<|call|>"
        "<|start|>python to=assistant<|channel|>analysis<|message|>1<|end|>"
    )


def test_a_cell_runs_and_its_result_comes_from_python_on_the_same_channel(
    pocket_tokenizer: Tokenizer, fake: tuple[Tool, list[str]]
):
    tool, ran = fake
    model = scripted_model(pocket_tokenizer, cell("print(17 * 25)"), ANSWER)
    chat = Chat(
        ScriptedHost(Engine(lambda: as_model(model)), pocket_tokenizer), defaults={"temperature": 0.0, "tools": [tool]}
    )
    reply = chat.send("How much?")
    assert ran == ["print(17 * 25)"]
    assert (reply.text, reply.reasoning, reply.tool_calls[0].name) == ("Fine.", "I compute.", "python")
    assert chat.turns[2].content_type == "code"
    result = chat.turns[3]
    assert (result.role, result.name, result.channel, result.recipient) == ("tool", "python", "analysis", "assistant")
    prompt = pocket_tokenizer.decode(next(tokens for tokens in reversed(model.calls) if len(tokens) > 20))
    assert prompt.endswith(
        cell("print(17 * 25)") + "<|start|>python to=assistant<|channel|>analysis<|message|>result 1<|end|>"
        "<|start|>assistant"
    )


@pytest.mark.parametrize("case", [case for case in CASES if W in case.stream], ids=lambda case: case.name)
def test_every_spelling_that_reaches_a_function_reaches_python(
    pocket_tokenizer: Tokenizer, fake: tuple[Tool, list[str]], case: Case
):
    tool, ran = fake
    stream = case.stream.replace(W, "python").replace(JSON, '{"code": "print(1)"}')
    script = stream if stream.endswith(("<|call|>", "<|return|>")) else stream + "<|endoftext|>"
    scripted_chat(pocket_tokenizer, script, ANSWER, tools=[tool]).send("go")
    before_stop = [
        *takewhile(
            lambda token: token not in pocket_tokenizer.special.stop_ids, pocket_tokenizer.encode_with_special(script)
        )
    ]
    expected = [
        read_code(message.text)
        for message in parse_tokens(before_stop, pocket_tokenizer, tool_names=frozenset(("python",)))
        if message.recipient == "python"
    ]
    assert ran == expected
    if [seen for seen in case.messages if seen[1] == W]:
        assert ran == ["print(1)"]


@pytest.mark.parametrize(
    ("header", "channel"),
    [
        ("<|channel|>analysis to=functions.python code", "analysis"),
        ("<|channel|>commentary to=python.run <|constrain|>json", "commentary"),
        ("<|channel|>commentary to=pythoncode", "commentary"),
        (" to=functions.python<|channel|>commentary <|constrain|>json", "commentary"),
        ("<|channel|>analysis to=python", "analysis"),
    ],
)
def test_its_name_in_other_spellings_is_mended(
    pocket_tokenizer: Tokenizer, fake: tuple[Tool, list[str]], header: str, channel: str
):
    tool, ran = fake
    chat = scripted_chat(pocket_tokenizer, cell('{"code": "1 + 1"}', header), ANSWER, tools=[tool])
    reply = chat.send("go")
    assert ran == ["1 + 1"]
    assert (reply.tool_calls[0].name, reply.tool_results[0].name) == ("python", "python")
    assert [message.channel for message in chat.turns if message.name == "python"] == [channel]


def test_a_function_of_the_users_that_is_called_python_stays_theirs(pocket_tokenizer: Tokenizer):
    def python(code: str) -> str:
        return f"mine: {code}"

    call = ' to=functions.python<|channel|>commentary <|constrain|>json<|message|>{"code": "1"}<|call|>'
    chat = scripted_chat(pocket_tokenizer, call, ANSWER, tools=[python])
    assert chat.send("go").tool_results[0].content == "mine: 1"
    assert chat.turns[-2].channel == "commentary"
    with pytest.raises(UsageError, match="two tools of the name 'python'"):
        scripted_chat(pocket_tokenizer, tools=[python, make_python_tool(check=False)])


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("print(1)", "print(1)"),
        ('{"code": "print(1)\\nprint(2)"}', "print(1)\nprint(2)"),
        ("```python\nprint(1)\n```", "print(1)"),
        ("```\nx = 1\n\nx\n```\n", "x = 1\n\nx"),
        ('{"code": "```py\\n1\\n```"}', "1"),
        # Code that only looks like it.
        ('{"code": 1}', '{"code": 1}'),
        ('{"code": "a", "b": "c"}', '{"code": "a", "b": "c"}'),
        ('x = """\n```python\n1\n```\n"""', 'x = """\n```python\n1\n```\n"""'),
        ("", ""),
        ("{" * 5000, "{" * 5000),
    ],
)
def test_what_the_model_wrote_is_read_as_the_code_that_it_means(raw: str, code: str):
    assert read_code(raw) == code


def test_a_budget_of_reasoning_does_not_cut_a_call(pocket_tokenizer: Tokenizer, fake: tuple[Tool, list[str]]):
    tool, ran = fake
    code = "print('a long line of code that takes more tokens than may be thought')"
    script = f"<|channel|>analysis to=python code<|message|>{code}<|call|>"
    chat = scripted_chat(pocket_tokenizer, script, ANSWER, tools=[tool], max_reasoning_tokens=3)
    assert chat.send("go").text == "Fine."
    assert ran == [code]


def test_a_saved_chat_does_not_hold_it(pocket_tokenizer: Tokenizer, fake: tuple[Tool, list[str]]):
    chat = scripted_chat(pocket_tokenizer, cell("1"), ANSWER, tools=[fake[0]])
    chat.send("go")
    saved = chat.to_dict()
    assert saved["tools"] == []
    assert Chat.from_dict(chat._host, saved).turns == chat.turns


def test_a_constrained_turn_can_call_it(pocket_tokenizer: Tokenizer, fake: tuple[Tool, list[str]]):
    tool, ran = fake
    script = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    answer = "<|channel|>final<|message|>yes<|return|>"
    chat = scripted_chat(pocket_tokenizer, script, answer, tools=[tool], choices=["yes", "no"])
    assert chat.send("go").parsed == "yes"
    assert ran == ["print(1)"]
    # Made to call it, a model that would rather talk does.
    chat = scripted_chat(pocket_tokenizer, "x" * 40, ANSWER, tools=[tool], tool_choice="python", max_tokens=30)
    called = [event for event in chat.stream("go").events() if isinstance(event, ToolCall)]
    assert [call.name for call in called] in ([], ["python"])
    assert chat.turns[-1].recipient in ("python", None)


def test_refusals_and_questions_show_the_call(pocket_tokenizer: Tokenizer, fake: tuple[Tool, list[str]]):
    tool, ran = fake
    asked: list[str] = []

    def approve(call: ToolCall) -> bool | str:
        asked.append(call.raw)
        return "not now" if len(asked) == 1 else True

    chat = scripted_chat(pocket_tokenizer, cell("1"), cell("2"), ANSWER, tools=[tool], approve=approve)
    reply = chat.send("go")
    assert asked == ["1", "2"]
    assert ran == ["2"]
    assert reply.tool_results[0].content == "Error: the call was refused: not now. The tool did not run."


# Sessions


def test_sessions_belong_to_conversations_and_end_with_them(pocket_tokenizer: Tokenizer):
    log: list[str] = []

    class Session:
        number = 0

        def __init__(self) -> None:
            Session.number += 1
            self.name = f"session {Session.number}"

        def __call__(self, arguments: dict[str, Any], earlier: Any) -> str:
            log.append(f"{self.name}: {arguments['code']} after {list(earlier)}")
            return "ok"

        def close(self) -> None:
            log.append(f"{self.name} closed")

    tool = replace(make_python_tool(check=False), begin=Session)
    model = scripted_model(pocket_tokenizer, *[cell(str(n)) if n % 2 else ANSWER for n in range(1, 20)])
    engine = Engine(lambda: as_model(model))
    host = ScriptedHost(engine, pocket_tokenizer)
    one = Chat(host, defaults={"temperature": 0.0, "tools": [tool]})
    one.send("a")
    one.send("b")
    other = one.fork()
    other.send("c")
    assert log == ["session 1: 1 after []", "session 1: 3 after ['1']", "session 2: 5 after ['1', '3']"]
    log.clear()
    one.clear()
    one.send("d")
    assert log == ["session 1 closed", "session 3: 7 after []"]
    log.clear()
    # A turn that belongs to no conversation has one for itself.
    options = Options.from_arguments({"temperature": 0.0, "tools": [tool]})
    conversation = read_conversation("e", options)
    stream = open_turn(engine, pocket_tokenizer, conversation, options, context_limit=4096)
    assert stream.reply.text == "Fine."
    assert log == ["session 4: 9 after []", "session 4 closed"]
    log.clear()
    engine.close()
    assert sorted(log) == ["session 2 closed", "session 3 closed"]


def test_names_stay_between_calls_and_turns_and_an_interpreter_that_went_is_told(pocket_tokenizer: Tokenizer):
    need_sandbox()
    tool = make_python_tool(limits=PythonLimits(seconds=20))
    scripts = [cell("x = 6\nprint('set')"), cell("x * 7"), ANSWER, cell("import os; os._exit(1)"), cell("x"), ANSWER]
    chat = scripted_chat(pocket_tokenizer, *scripts, tools=[tool])
    assert [result.content for result in chat.send("go").tool_results] == ["set", "42"]
    first, second = (result.content for result in chat.send("go on").tool_results)
    assert "exit code 1" in first
    assert second.startswith(f"{ANEW}\nTraceback")
    assert chat.turns[-1].text == "Fine."
    chat.close()


def test_a_stop_ends_a_running_cell_within_a_second_and_the_chat_goes_on(pocket_tokenizer: Tokenizer):
    need_sandbox()
    scripts = [cell("x = 1"), ANSWER, cell("while True: pass"), cell("x"), ANSWER]
    chat = scripted_chat(pocket_tokenizer, *scripts, tools=[make_python_tool()])
    chat.send("begin")
    stream = chat.stream("loop")
    stopped: list[float] = []

    def stop() -> None:
        time.sleep(0.4)
        stopped.append(time.monotonic())
        stream.cancel()

    for event in stream.events():
        if isinstance(event, ToolCall):
            threading.Thread(target=stop).start()
    assert time.monotonic() - stopped[0] < 1.3
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.tool_results[0].content == "Error: the user stopped this call."
    assert chat.send("and now?").tool_results[0].content == "1"
    chat.close()


def test_a_tool_of_the_users_can_keep_something_too(pocket_tokenizer: Tokenizer):
    counted = make_tool(lambda: 0, name="count", description="Counts.")
    call = " to=functions.count<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"

    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def __call__(self, arguments: dict[str, Any], earlier: Any) -> int:
            self.value += 1
            return self.value

        def close(self) -> None:
            pass

    chat = scripted_chat(pocket_tokenizer, call, call, ANSWER, tools=[replace(counted, begin=Counter)])
    assert [result.content for result in chat.send("go").tool_results] == ["1", "2"]
