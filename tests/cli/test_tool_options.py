"""`--tool` and the question before a tool runs, as a person meets them."""

import json
from pathlib import Path

import pytest

from gptoss_mlx.cli.arguments import make_parser
from gptoss_mlx.cli.terminal import printable, shown_call
from gptoss_mlx.cli.tools import load_tool, tool_options
from gptoss_mlx.errors import SandboxError, UsageError
from gptoss_mlx.options import OptionArguments
from gptoss_mlx.tools import Tool
from tests.cli.test_commands import GREEDY, gptoss
from tests.python_sandbox.conftest import need_sandbox
from tests.terminal import Terminal

TOOLS = '''
import time

def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression.

    Args:
        expression: For example 2+3
    """
    return str(eval(expression, {}))

def calculate(expression: str) -> str:
    """Evaluates an arithmetic expression.

    Args:
        expression: For example 2+3
    """
    time.sleep(60)
    return "late"
'''
QUESTION = "What is 17 times 23?"


@pytest.fixture
def tools(tmp_path: Path) -> str:
    (tmp_path / "own_tools.py").write_text(TOOLS)
    return f"{tmp_path}/own_tools.py"


def test_ask_lets_the_model_call_a_function_and_keeps_the_call_off_standard_output(tools: str):
    done = gptoss("ask", QUESTION, "--tool", f"{tools}:calculator", "--yes", *GREEDY, "-e", "high")
    assert done.returncode == 0
    assert "391" in done.stdout
    assert "call of" not in done.stdout
    assert (
        '[call of functions.calculator: {"expression":"17*23"}]\n[result of functions.calculator: 391]' in done.stderr
    )


def test_json_shows_call_and_result_as_events(tools: str):
    done = gptoss("ask", QUESTION, "--tool", f"{tools}:calculator", "--yes", "--json", *GREEDY, "-e", "high")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    called, result = (next(e for e in events if e["type"] == kind) for kind in ("tool_call", "tool_result"))
    assert (called["arguments"], result["content"], result["id"]) == ({"expression": "17*23"}, "391", called["id"])
    assert events[-1]["reply"]["tool_results"][0]["content"] == "391"


def test_where_nobody_can_be_asked_yes_is_needed(tools: str):
    done = gptoss("ask", QUESTION, "--tool", f"{tools}:calculator")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the tools ask before they run")
    assert done.stderr.count("\n") == 1


def test_a_person_decides_on_each_call(tools: str, tmp_path: Path):
    terminal = Terminal(tmp_path, "chat", "--plain", *GREEDY, "-e", "high", "--tool", f"{tools}:calculator")
    terminal.wait_for(r"\n> ")
    for answer, result in (("n", "refused"), ("too dear", "refused: too dear"), ("y", "391"), ("a", "391")):
        terminal.type(QUESTION + "\n")
        terminal.wait_for(r"17\*23.*\n.*functions\.calculator: run it\?.*: ")
        terminal.type(answer + "\n")
        terminal.wait_for(rf"\[result of functions\.calculator: .*{result}[^>]*\n> ")
        terminal.type("/new\n")
        terminal.wait_for(r"a new conversation\r?\n> ")
    terminal.type(QUESTION + "\n")
    assert "run it?" not in terminal.wait_for(r"result of functions\.calculator: 391[^>]*\n> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_stops_at_the_question_and_in_a_running_tool_and_keeps_the_chat(tools: str, tmp_path: Path):
    terminal = Terminal(tmp_path, "chat", "--plain", *GREEDY, "-e", "high", "--tool", f"{tools}:calculate")
    terminal.wait_for(r"\n> ")
    terminal.type(QUESTION + "\n")
    terminal.wait_for(r"run it\?.*: ")
    terminal.interrupt()
    terminal.wait_for(r"the user stopped the turn[^>]*\[stopped\]\r?\n> ")
    terminal.type("/new\n")
    terminal.wait_for(r"a new conversation\r?\n> ")
    terminal.type(QUESTION + "\n")
    terminal.wait_for(r"run it\?.*: ")
    terminal.type("y\n")
    terminal.interrupt()
    terminal.wait_for(r"the user stopped this call; the tool does not end[^>]*\[stopped\]\r?\n> ")
    terminal.type("/stats\n")
    terminal.wait_for(r"context +\d+ of \d+ tokens[^>]*\n> ")
    terminal.type("\x04")
    assert terminal.end() == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("calculator", "names no function; expected module:function"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        ("{tools}:nothing", "there is no function 'nothing' in"),
        ("{tools}:__name__", "there is no function '__name__' in"),
        ("missing.py:f", "missing.py cannot be imported"),
    ],
)
def test_a_tool_that_is_not_there_is_one_clear_sentence(tools: str, word: str, message: str):
    with pytest.raises(UsageError, match=message):
        load_tool(word.format(tools=tools))


def test_a_module_is_found_from_the_current_folder(tools: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert load_tool("own_tools:calculator").name == "calculator"


def test_what_the_model_writes_cannot_redraw_the_screen():
    assert printable('{"a": "\x1b[2Jü\n\x07"}') == '{"a": "\\x1b[2Jü\n\\x07"}'


def options(*words: str) -> OptionArguments:
    return tool_options(make_parser().parse_args(["ask", "hi", *words]))


def test_python_is_a_tool_like_others_that_asks_unless_told_not_to():
    need_sandbox()
    chosen = options("--python", "--yes")
    assert [(tool.name, tool.full_name) for tool in chosen.get("tools", ()) if isinstance(tool, Tool)] == [
        ("python", "python")
    ]
    assert chosen.get("approve") == "always"
    with pytest.raises(UsageError, match="the tools ask before they run, and there is no terminal"):
        options("--python")
    assert options() == {}


def test_without_a_sandbox_python_is_refused_in_one_sentence_unless_told_to_do_without(
    monkeypatch: pytest.MonkeyPatch,
):
    def refused(*, unsandboxed: bool = False) -> None:
        if not unsandboxed:
            raise SandboxError("there is no sandbox for the python tool on this machine (no namespaces)")

    monkeypatch.setattr("gptoss_mlx.python_sandbox.session.check_sandbox", refused)
    with pytest.raises(SandboxError, match="there is no sandbox"):
        options("--python", "--yes")
    tools = options("--python-unsandboxed", "--yes").get("tools", ())
    assert [tool.full_name for tool in tools if isinstance(tool, Tool)] == ["python"]


def test_code_is_shown_below_the_call_and_cannot_redraw_the_screen():
    assert shown_call("functions.f", '{"a": 1}') == '{"a": 1}'
    assert shown_call("python", "```python\nx = 1\nprint('\x1b[2J')\n```") == "\n    x = 1\n    print('\\x1b[2J')\n"
