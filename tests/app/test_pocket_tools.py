"""The real pocket model with tools in the app, and the command line that gives them."""

import time
from pathlib import Path

import pytest

from gptoss_mlx import load
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.toolbox import Source, Toolbox
from gptoss_mlx.cli.tools import load_tool
from gptoss_mlx.tools import make_tool
from tests.app.at_terminal import AtTerminal
from tests.app.driving import Desk, drive
from tests.app.test_tools import asked

GREEDY = Preferences(temperature=0.0)

TOOLS = '''
def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression.

    Args:
        expression: For example 2+3
    """
    return str(eval(expression, {}))
'''


def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression.

    Args:
        expression: For example 2+3
    """
    return str(eval(expression, {}))


def get_weather(city: str) -> str:
    """Gets the current weather in a city.

    Args:
        city: The city, such as Oslo
    """
    return "snow, -3 degrees"


def test_the_pocket_model_calculates_and_asks_for_the_weather_in_the_app(home: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("What is 17 times 23?")
        await asked(desk)
        await desk.until_shown("May calculator run?")
        assert 'expression: "17*23"' in desk.screen
        await desk.press("y")
        await desk.until(lambda: desk.idle and len(desk.path) == 2, 60)
        assert "391" in desk.path[-1].answer
        desk.app.action_new_chat()
        await desk.until(lambda: not desk.path)
        await desk.say("What is the weather in Oslo?")
        await asked(desk)
        await desk.until_shown("May get_weather run?")
        assert 'city: "Oslo"' in desk.screen
        await desk.press("a")
        await desk.until(lambda: desk.idle and len(desk.path) == 2, 60)
        assert "snow" in desk.path[-1].answer
        await desk.until_shown("→ snow, -3 degrees")

    sources = [Source(make_tool(tool), "here") for tool in (calculator, get_weather)]
    drive(home, load, work, model="pocket", preferences=GREEDY, toolbox=Toolbox(sources))


@pytest.mark.slow
def test_tool_and_yes_and_choices_hold_in_the_app_of_the_command_line(home: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TOOLS)
    words = ("-m", "gptoss_mlx.cli", "chat", "pocket", "--temperature", "0")
    app = AtTerminal(home, *words, "--tool", f"{tmp_path}/own.py:calculator", "--yes", size=(120, 30))
    try:
        app.wait_for("Ask anything")
        app.type("What is 17 times 23?\r")
        app.wait_for("→ 391")
        app.type("\x11")
        assert app.end() == 0
    finally:
        if app.process.poll() is None:
            app.kill()
    app = AtTerminal(home, *words, "--choices", "violet,orange", "-e", "none")
    try:
        app.wait_for("Ask anything")
        app.type("\x0eWhich?\r")
        time.sleep(0.1)
        deadline = time.monotonic() + 30
        while not (app.seen("violet") or app.seen("orange")):
            assert time.monotonic() < deadline, app.tail()
            time.sleep(0.05)
        app.type("\x11")
        assert app.end() == 0
    finally:
        if app.process.poll() is None:
            app.kill()
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert store.path(latest.id, latest.leaf)[-1].answer in ("violet", "orange")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tool", "no_such_module:f"], "no_such_module cannot be imported"),
        (["--regex", "("], "regex"),
        (["--schema", "missing.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_a_tool_or_a_form_is_told_before_the_app_opens(home: Path, words: list[str], said: str) -> None:
    app = AtTerminal(home, "-m", "gptoss_mlx.cli", "chat", "pocket", *words)
    assert app.end(30) == 2
    assert said in app.tail()
    assert not (home / "chats.sqlite3").exists()


@pytest.mark.slow
def test_a_kill_while_a_tool_runs_leaves_a_chat_that_opens_whole_and_goes_on(home: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        TOOLS.replace("    return str", "    import time\n    time.sleep(60)\n    return str")
    )
    app = AtTerminal(
        home,
        *("-m", "gptoss_mlx.cli", "chat", "pocket", "--temperature", "0"),
        *("--tool", f"{tmp_path}/own.py:calculator", "--yes"),
    )
    try:
        app.wait_for("Ask anything")
        app.type("What is 17 times 23?\r")
        app.wait_for("calculator")
        time.sleep(2)
    finally:
        app.kill()

    async def work(desk: Desk) -> None:
        await desk.until_shown("→ no result")
        assert desk.path[-1].state == "stopped"
        desk.app.action_continue_answer()
        await desk.until(lambda: desk.idle and desk.path[-1].state == "complete", 60)
        assert [message.role for message in desk.path[-1].messages].count("tool") >= 1
        assert desk.path[-1].messages[1].tool_name == "functions.calculator"
        assert desk.path[-1].answer
        await desk.ask("What is 2 plus 2?")
        assert desk.path[-1].state == "complete"

    (tmp_path / "own.py").write_text(TOOLS)
    tool = load_tool(f"{tmp_path}/own.py:calculator")
    toolbox = Toolbox([Source(tool, "here")], run_all=True)
    drive(home, load, work, model="pocket", preferences=GREEDY, toolbox=toolbox)
