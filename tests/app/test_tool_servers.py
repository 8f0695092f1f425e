"""Servers of tools in the app: they start beside it, are called, crash, are switched off and started again."""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.app.preferences import Preferences, load_preferences
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.toolbox import Source, Toolbox
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import make_tool
from gptoss_mlx.tools.mcp import ServerSpec
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final
from tests.app.test_tools import asked
from tests.tools.mcp.servers import ROGUE, alive, run, until

pytest.importorskip("mcp", reason="the extra mcp is not installed")


def call(name: str, **arguments: object) -> str:
    return f" to={name}<|channel|>commentary <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"


def rogue(*modes: str, name: str = "rogue", **settings: Any) -> ServerSpec:
    return ServerSpec(name, (sys.executable, "-S", "-E", str(ROGUE), *modes), **settings)


def play(
    home: Path,
    tokenizer: Tokenizer,
    work: Callable[[Desk], Awaitable[None]],
    *scripts: str,
    servers: tuple[ServerSpec, ...] = (),
    **arguments: Any,
) -> ScriptedLoad:
    load = ScriptedLoad(tokenizer, *scripts)
    drive(home, load, work, servers=servers, size=(110, 34), **arguments)
    return load


async def told(desk: Desk, words: str) -> None:
    """Waits for a notification."""
    await desk.until(lambda: any(words in note.message for note in desk.app._notifications))


def test_a_servers_tool_asks_runs_and_is_kept(home: Path, tokenizer: Tokenizer) -> None:
    pids: list[int] = []

    async def work(desk: Desk) -> None:
        await desk.say("Say hi.")
        await asked(desk)
        await desk.until_shown("May rogue.echo run?")
        await desk.until_shown("MCP server rogue")
        await desk.press("y")
        await desk.until_idle()
        await desk.until_shown('rogue.echo {"text": "hi"} → hi')
        pids.append(json.loads(run(desk.app.servers.servers[0], "environment"))["pid"])

    load = play(home, tokenizer, work, call("echo", text="hi"), final("Hi."), servers=(rogue(),))
    prompt = tokenizer.decode(load.loaded[0].scripted.prompts[0])
    assert "namespace rogue {" in prompt
    assert "namespace functions" not in prompt
    # Leaving the app ended it.
    until(lambda: not alive(pids[0]))


def test_an_answer_waits_for_servers_that_start_and_says_so(
    home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_mlx.app.app.SERVER_SECONDS", 0.1)

    async def work(desk: Desk) -> None:
        await desk.say("Go.")
        await told(desk, "Waiting for tools to start: slow")
        await told(desk, "slow: it did not answer within 1 seconds")
        await desk.until_idle()
        assert desk.path[-1].answer == "Without it."

    play(home, tokenizer, work, final("Without it."), servers=(rogue("hang", name="slow", start_seconds=1.0),))


def test_an_answer_that_is_stopped_waits_for_no_server(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("Go.")
        await desk.until(lambda: desk.app.answers.running is not None)
        await desk.press("escape")
        await desk.until(lambda: desk.idle and len(desk.path) == 2)
        assert desk.path[-1].state == "stopped"

    play(home, tokenizer, work, final("No."), servers=(rogue("hang", name="slow", start_seconds=60.0),))


@pytest.mark.slow
def test_f6_shows_servers_switches_them_and_keeps_policies(home: Path, tokenizer: Tokenizer) -> None:
    def own(a: int) -> int:
        """One's own."""
        return a

    async def work(desk: Desk) -> None:
        await desk.press("f6")
        await desk.until_shown("● rogue.*")
        await desk.until_shown("11 tools")
        await desk.until_shown("✗ wrong.* the server 'wrong' has neither a command nor a url")
        await desk.until_shown("on failed: it ended before it answered; its last words were")
        # The server itself, below one's own tool and Python: what it says, where, and all of its tools at once.
        await desk.press("down", "down", "down")
        await desk.until_shown("the key is missing, started by:")
        await desk.press("down")
        await desk.until_shown("It tells the model:")
        await desk.until_shown("Be <|end|> careful.")
        await desk.until_shown("rogue.log")
        await desk.press("p")
        await desk.until_shown("runs at once 11 tools")
        await desk.press("down", "p")
        await desk.until_shown("● rogue.echo on never runs")
        await desk.press("down", "enter")
        await desk.until_shown("○ rogue.kinds off here")
        await desk.press("escape")
        await desk.ask("Go.")
        results = [message.text for message in desk.path[-1].messages if message.role == "tool"]
        assert results[0] == "Error: the call was refused: it is switched off. The tool did not run."
        assert results[1] == "Error: there is no such city"
        # The whole server, for this conversation.
        await desk.press("f6")
        await desk.until_shown("● rogue.*")
        await desk.press("down", "down", "down", "down", "space")
        await desk.until_shown("○ rogue.* off here")
        await desk.until_shown("○ rogue.echo off here")
        await desk.press("escape")
        await desk.ask("And now?")

    preferences = replace(
        Preferences(),
        mcp={
            "rogue": {"command": [sys.executable, "-S", "-E", str(ROGUE)]},
            "gone": {"command": [sys.executable, "-S", "-E", str(ROGUE), "exits"]},
            "wrong": {},
        },
    )
    load = play(
        home,
        tokenizer,
        work,
        call("rogue.echo", text="hi"),
        call("rogue.fails"),
        final("So."),
        final("Bare."),
        preferences=preferences,
        toolbox=Toolbox([Source(make_tool(own), "--tool shop:own")]),
    )
    prompts = [tokenizer.decode(prompt) for prompt in load.loaded[0].scripted.prompts]
    assert "type fails" in prompts[0]
    assert "type kinds" not in prompts[0]
    assert "namespace rogue" not in prompts[-1]
    assert "namespace functions" in prompts[-1]
    assert load_preferences().tools == {"rogue.*": "always", "rogue.echo": "never"}
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert latest.settings.tools_off == ("rogue.kinds", "rogue.*")


@pytest.mark.slow
def test_a_crash_is_told_once_and_r_starts_the_server_again(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        turn = await desk.ask("Crash.")
        assert turn.answer == "It crashed."
        await told(desk, "rogue: it ended; its last words were: Segmentation fault, more or less")
        await desk.press("f6")
        await desk.until_shown("failed: it ended")
        await desk.press("down", "r")
        await desk.until_shown("11 tools")
        await desk.press("escape")
        await desk.ask("Again.")
        assert [message.text for message in desk.path[-1].messages if message.role == "tool"] == ["hi"]

    play(
        home,
        tokenizer,
        work,
        call("rogue.ends"),
        final("It crashed."),
        call("rogue.echo", text="hi"),
        final("Well."),
        servers=(rogue(restarts=0),),
        toolbox=Toolbox(run_all=True),
    )


@pytest.mark.slow
def test_tools_that_come_later_are_there_at_the_next_answer(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.ask("Grow.")
        await desk.until(lambda: len(desk.app.servers.servers[0].tools) == 12)
        await desk.ask("And?")

    load = play(
        home,
        tokenizer,
        work,
        call("rogue.grow"),
        final("Grown."),
        call("rogue.grown"),
        final("Used."),
        servers=(rogue(policy="always"),),
    )
    prompts = [tokenizer.decode(prompt) for prompt in load.loaded[0].scripted.prompts]
    assert "type grown" not in prompts[0]
    assert "type grown" in prompts[2]


@pytest.mark.slow
def test_two_servers_of_one_name_and_one_that_is_named_twice(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.ask("Go.")
        assert [server.name for server in desk.app.servers.servers] == ["rogue", "rogue_2"]

    table = {"command": [sys.executable, "-S", "-E", str(ROGUE)]}
    preferences = replace(Preferences(), mcp={"rogue": table})
    servers = (rogue(), rogue("pages"))
    play(home, tokenizer, work, final("So."), servers=servers, preferences=preferences)


def test_the_app_begins_without_what_servers_need() -> None:
    script = (
        "import sys, gptoss_mlx.app.app; print([m for m in ('mcp', 'anyio', 'gptoss_mlx.tools') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
