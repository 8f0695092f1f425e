"""`--mcp`: servers of tools on the command line, over a model that says what is written down."""

import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.cli import main
from gptoss_mlx.events import ToolCall
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.scripted_engine import ScriptedLoad, final
from tests.tools.mcp.servers import ROGUE, alive, until

pytest.importorskip("mcp", reason="the extra mcp is not installed")


def server(*modes: str) -> str:
    return shlex.join([sys.executable, "-S", "-E", str(ROGUE), *modes])


def call(name: str, **arguments: object) -> str:
    return f" to={name}<|channel|>commentary <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path / "home"


@pytest.fixture
def scripts(pocket_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model of the commands will say."""
    said: list[str] = []

    def load(name: str, defaults: Any, arguments: Any) -> Any:
        loading = ScriptedLoad(pocket_tokenizer, *said)
        model: Any = loading(name, context=arguments.context, progress=lambda *_: None, checking=lambda *_: None)
        model.defaults = {**model.defaults, **defaults, "temperature": 0.0}
        return model

    for module in ("ask", "plain_chat"):
        monkeypatch.setattr(f"gptoss_mlx.cli.{module}.load_with_progress", load)
    return said


def ask(*words: str) -> int:
    return main(["ask", "go", *words])


def test_ask_uses_the_tools_of_servers_and_ends_them(scripts: list[str], capfd: pytest.CaptureFixture[str]):
    scripts += [call("rogue.environment"), call("rogue_2.echo", text="hi"), final("Done.")]
    assert ask("--mcp", server(), "--mcp", server("pages"), "--yes", "--json") == 0
    out, err = capfd.readouterr()
    results = [event for event in map(json.loads, out.splitlines()) if event["type"] == "tool_result"]
    assert (results[1]["name"], results[1]["content"]) == ("rogue_2.echo", "hi")
    pid = json.loads(results[0]["content"])["pid"]
    until(lambda: not alive(pid))
    assert err == ""


def test_ask_gives_no_answer_without_a_server_that_it_was_to_use(scripts: list[str], capfd: pytest.CaptureFixture[str]):
    scripts += [final("Done.")]
    assert ask("--mcp", server("exits"), "--yes") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: the server 'rogue' (")
    assert err.endswith("its last words were: the key is missing\n")


def test_what_a_server_does_is_told_on_standard_error(scripts: list[str], capfd: pytest.CaptureFixture[str]):
    scripts += [call("rogue.ends"), final("It crashed.")]
    assert ask("--mcp", server(), "--yes") == 0
    out, err = capfd.readouterr()
    assert out == "It crashed.\n"
    assert "[result of rogue.ends: Error: the server rogue ended during the call" in err
    assert "[rogue: it ended; its last words were: Segmentation fault, more or less. It is started again" in err


def test_a_chat_goes_on_without_a_server_that_cannot_be_started(
    scripts: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    scripts += [call("rogue_2.echo", text="hi"), final("Done.")]
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    assert main(["chat", "--plain", "--mcp", server("exits"), "--mcp", server(), "--yes"]) == 0
    out, err = capfd.readouterr()
    assert "[rogue: it ended before it answered; its last words were: the key is missing.]" in err
    assert "[result of rogue_2.echo: hi]" in out
    assert "Done." in out


def test_a_server_of_the_settings_is_named_and_its_policies_hold(
    home: Path, scripts: list[str], capfd: pytest.CaptureFixture[str]
):
    home.mkdir()
    command = json.dumps([sys.executable, "-S", "-E", str(ROGUE)])
    (home / "settings.toml").write_text(
        f'tools = {{ "mine.echo" = "never", "mine.*" = "ask", other = "always" }}\n[mcp.mine]\ncommand = {command}\n'
    )
    scripts += [call("mine.echo", text="hi"), call("mine.fails"), final("Done.")]
    assert ask("--mcp", "mine", "--yes") == 0
    _, err = capfd.readouterr()
    assert "[result of mine.echo: Error: the call was refused: it is switched off. The tool did not run.]" in err
    assert "[result of mine.fails: Error: there is no such city]" in err


def test_a_person_is_asked_by_the_tools_full_name(
    scripts: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    def approval(terminal: object) -> Any:
        def approve(call: ToolCall) -> bool:
            asked.append(call.name)
            return False

        return approve

    monkeypatch.setattr("gptoss_mlx.cli.tools.TerminalApproval", approval)
    monkeypatch.setattr("gptoss_mlx.cli.tools._terminal", lambda: None)
    scripts += [call("fails"), final("Done.")]
    assert ask("--mcp", server()) == 0
    assert asked == ["rogue.fails"]
    assert "refused" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mcp", "a 'b", "--yes"], "cannot be read (No closing quotation)"),
        (["--mcp", "", "--yes"], "has an empty command"),
        (["--mcp", "anything"], "the tools ask before they run"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], said: str, capfd: pytest.CaptureFixture[str]):
    assert ask(*words) == 2
    _, err = capfd.readouterr()
    assert said in err
    assert err.count("\n") == 1


def test_without_the_library_it_is_said_what_installs_it(
    scripts: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ask("--mcp", server(), "--yes") == 2
    assert 'pip install "gptoss-mlx[mcp]"' in capfd.readouterr().err
