"""Python in the app: off until it is switched on, remembered, asked about with its code, shown as code, stopped."""

import subprocess
import sys
from pathlib import Path

import pytest
from textual.widgets import Static

from gptoss_mlx.app.preferences import Preferences, load_preferences
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.tool_sessions import AT_ONCE, ConversationSessions
from gptoss_mlx.app.toolbox import Source, Toolbox
from gptoss_mlx.app.widgets.approval_prompt import shown_call
from gptoss_mlx.app.widgets.tool_call import ToolCallBlock
from gptoss_mlx.errors import SandboxError
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import make_tool
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final
from tests.app.test_tools import asked, block, roles
from tests.python_sandbox.conftest import need_sandbox

ON = Preferences(python=True)


def cell(code: str) -> str:
    """The script of a call after some thought."""
    return (
        "<|channel|>analysis<|message|>I compute.<|end|>"
        f"<|start|>assistant<|channel|>analysis to=python code<|message|>{code}<|call|>"
    )


def test_it_is_off_until_it_is_switched_on_and_that_is_remembered(
    home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toolbox, "check_python", lambda self: None)

    async def work(desk: Desk) -> None:
        await desk.ask("One?")
        await desk.press("f6")
        await desk.until_shown("python")
        await desk.until_shown("off here asks first built in, in a sandbox")
        await desk.until_shown("none of your files")
        await desk.press("enter")
        await desk.until_shown("python on asks first")
        await desk.until(lambda: desk.app.preferences.python)
        await desk.press("escape")
        await desk.ask("Two?")
        desk.app.action_new_chat()
        await desk.until(lambda: not desk.path)
        await desk.ask("Three?")
        await desk.press("f6", "enter", "escape")
        await desk.until(lambda: not desk.app.preferences.python)
        await desk.ask("Four?")

    load = ScriptedLoad(tokenizer, *(final("So.") for _ in range(4)))
    drive(home, load, work, size=(100, 30))
    prompts = [tokenizer.decode(prompt) for prompt in load.loaded[0].scripted.prompts]
    assert ["## python" in prompt for prompt in prompts] == [False, True, True, False]
    assert "# Tools\n\n## python\n\nUse this tool to execute Python code in your chain of thought." in prompts[1]
    assert load_preferences().python is False
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert latest.settings.python is False


def test_where_there_is_no_sandbox_it_stays_off_and_says_why(
    home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Toolbox) -> None:
        raise SandboxError("there is no sandbox for the python tool on this machine (no such thing)")

    monkeypatch.setattr(Toolbox, "check_python", refuse)

    async def work(desk: Desk) -> None:
        await desk.press("f6")
        await desk.until_shown("off here")
        await desk.press("enter")
        # Toasts are not painted in tests.
        await desk.until(lambda: any("there is no sandbox" in note.message for note in desk.app._notifications))
        await desk.until_shown("off here")
        assert not desk.app.preferences.python

    drive(home, ScriptedLoad(tokenizer), work, size=(100, 30))
    assert load_preferences().python is False


def test_a_cell_is_asked_about_with_its_code_runs_and_is_shown_as_code(home: Path, tokenizer: Tokenizer) -> None:
    need_sandbox()

    async def work(desk: Desk) -> None:
        await desk.say("17 times 25?")
        await asked(desk)
        await desk.until_shown("May python run?")
        assert "│ x = 17" in desk.screen
        assert "│ print(x * 25)" in desk.screen
        assert "built in, in a sandbox" in desk.screen
        await desk.press("a")
        await desk.until_idle()
        await desk.until_shown("python x = 17 print(x * 25) → 425")
        assert roles(desk.path[-1]) == ["assistant", "call", "tool", "assistant"]
        assert desk.path[-1].messages[2].channel == "analysis"
        assert desk.path[-1].reasoning == "I compute."
        await block(desk).fold(False)
        code = block(desk).query_one(".code", Static)
        assert str(code.content) == "x = 17\nprint(x * 25)"
        assert code.content.spans, "it has no colours"  # type: ignore[union-attr]
        # Names stay in the conversation, and in it only.
        await desk.ask("And plus 1?")
        await desk.until_shown("→ 18")
        desk.app.action_new_chat()
        await desk.until(lambda: not desk.path)
        turn = await desk.ask("Other")
        assert "NameError" in turn.messages[2].text

    async def again(desk: Desk) -> None:
        await desk.until_shown("python x + 1")
        assert desk.path[-1].answer == "Done."

    scripts = (
        cell('{"code": "x = 17\\nprint(x * 25)"}'),
        final("It is 425."),
        cell("x + 1"),
        final("18."),
        cell("x + 1"),
        final("Done."),
    )
    drive(home, ScriptedLoad(tokenizer, *scripts), work, preferences=ON, size=(100, 30))
    drive(home, ScriptedLoad(tokenizer), again, size=(100, 30))


def test_escape_stops_a_running_cell_and_the_conversation_goes_on(home: Path, tokenizer: Tokenizer) -> None:
    need_sandbox()

    async def work(desk: Desk) -> None:
        await desk.say("Loop.")
        await desk.until(lambda: desk.app.answers.running is not None and list(desk.app.query(ToolCallBlock)), 20)
        await desk.until_shown("→ …")
        sessions = desk.app.answers.tool_sessions.of(desk.app.chat.chat.id or 0)
        await desk.until(lambda: any(session.process for _, session in sessions._open.values()), 20)  # type: ignore[attr-defined]
        await desk.press("escape")
        await desk.until(lambda: desk.idle and len(desk.path) == 2, 5)
        await desk.until_shown("failed: the user stopped this call")
        turn = await desk.ask("And now?")
        assert turn.messages[2].text.endswith("2")

    scripts = (cell("while True: pass"), cell("1 + 1"), final("2."))
    drive(home, ScriptedLoad(tokenizer, *scripts), work, preferences=ON, toolbox=Toolbox(run_all=True), size=(100, 30))


# Parts


def test_the_code_is_shown_exactly_as_it_would_run() -> None:
    assert shown_call('{"a": 1}', "python") == '│ {"a": 1}'
    assert shown_call('{"code": "import os\\nx"}', "python") == "│ import os\n│ x"
    assert shown_call("```python\nx\u200b = '\x1b[2J'\n```", "python") == "│ x\\u200b = '␛[2J'"
    assert shown_call('{"code": "x"}', "functions.run") == 'code: "x"'


def test_a_tool_of_the_users_of_that_name_takes_its_place() -> None:
    def python(code: str) -> str:
        return code

    toolbox = Toolbox([Source(make_tool(python), "--tool own:python")])
    assert [source.place for source in toolbox.listed] == ["--tool own:python"]
    assert [tool.full_name for tool in toolbox.offered(python=True)] == ["functions.python"]
    assert [tool.full_name for tool in Toolbox().offered(python=True)] == ["python"]
    assert Toolbox().offered() == []
    assert Toolbox(unsandboxed=True).place("python") == "built in, WITHOUT A SANDBOX"


def test_only_a_few_conversations_keep_something() -> None:
    held = ConversationSessions()
    first = held.of(0)
    assert held.of(0) is first
    for number in range(1, AT_ONCE):
        held.of(number)
    assert held.of(0) is first
    held.of(AT_ONCE)
    held.of(AT_ONCE + 1)
    assert held.of(0) is first
    held.forget(lambda known: known == 0)
    assert held.of(0) is not first
    held.close()


def test_the_first_paint_and_the_help_are_without_it() -> None:
    program = (
        "import sys, gptoss_mlx.app.app, gptoss_mlx.cli.arguments; "
        "print([name for name in sys.modules if 'sandbox' in name or name == 'gptoss_mlx.tools'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
