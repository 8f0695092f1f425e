"""Servers as they live, crash, hang and end."""

import contextvars
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gptoss_mlx.errors import ToolServerError, UsageError
from gptoss_mlx.tools import ToolFailure, run_call
from gptoss_mlx.tools.mcp import McpServer, close_servers, server
from tests.tools.mcp.servers import HERE, ROGUE, alive, calculator, rogue, run, until


def pid_of(server: McpServer) -> int:
    return int(json.loads(run(server, "environment"))["pid"])


def test_a_server_of_the_official_library_is_used_to_its_end():
    with calculator() as found:
        assert found.state == "ready"
        tools = {tool.name: tool for tool in found.tools}
        assert list(tools) == ["add", "divide", "slow", "crash", "learn"]
        assert tools["add"].description == "Adds two numbers.\n\nThe second is 1 if it is not given."
        assert tools["add"].parameters == {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 1}},
            "required": ["a"],
        }
        assert tools["learn"].parameters is None
        assert {(tool.namespace.name, tool.namespace.description) for tool in found.tools} == {
            ("calculator", "Reckons exactly.")
        }
        assert {tool.policy for tool in found.tools} == {"ask"}
        # A text that says the same is not repeated.
        assert run(found, "add", a=2, b=40) == "42"
        assert json.loads(run(found, "divide", a=1, b=4)) == {"value": 0.25, "exact": False}
        with pytest.raises(ToolFailure, match="Error executing tool divide"):
            run(found, "divide", a=1, b=0)
        # Its list changes.
        assert run(found, "learn") == "learnt"
        until(lambda: "subtract" in [tool.name for tool in found.tools])
        assert run(found, "subtract", a=5, b=3) == "2"
        # A call is stopped: the server is told, and answers the next one.
        start = time.monotonic()
        slow = next(tool for tool in found.tools if tool.name == "slow")
        outcome = run_call(
            slow,
            "calculator.slow",
            {},
            seconds=30,
            grace=5,
            cancelled=lambda: time.monotonic() - start > 0.3,
            context=contextvars.copy_context(),
        )
        assert (outcome.text, outcome.abandoned) == ("Error: the user stopped this call.", False)
        until(lambda: "slow was cancelled" in found.log_file.read_text())
        assert "slow: 1 of 2 half of it" in found.log_file.read_text()
        assert run(found, "add", a=1, b=2) == "3"
    assert found.state == "off"


@pytest.mark.slow
def test_a_server_of_the_official_library_crashes_and_is_there_again():
    with calculator() as found:
        with pytest.raises(ToolFailure, match="ended during the call; nobody knows how far it came"):
            run(found, "crash")
        assert found.state == "crashed"
        assert found.take_notices() == [
            "calculator: it ended; its last words were: out of paper. It is started again at the next call."
        ]
        assert run(found, "add", a=1, b=1) == "2"
        assert (found.state, found.take_notices()) == ("ready", [])


def test_a_list_of_several_pages_is_read_whole():
    with rogue("pages") as found:
        assert [tool.name for tool in found.tools][-2:] == ["environment", "injects"]
        assert len(found.tools) == 11


def test_a_list_without_an_end_is_left():
    with rogue("endless") as found:
        assert found.tools == ()
        assert "more than 100 pages" in found.take_notices()[0]


def test_what_would_fill_every_prompt_is_left_out():
    with rogue("crowd") as found:
        assert 30 < len(found.tools) < 35
        assert "tools are left out: expected 200 at most, and 100000 characters in all" in found.take_notices()[0]


def test_a_callback_that_fails_does_no_harm():
    def fails() -> None:
        raise RuntimeError("the window is gone")

    with rogue(on_change=fails) as found:
        assert run(found, "echo", text="hi") == "hi"


def test_a_changed_list_is_read_again():
    changes: list[int] = []
    with rogue(on_change=lambda: changes.append(1)) as found:
        before = len(changes)
        run(found, "grow")
        until(lambda: found.tools[-1].name == "grown")
        assert len(changes) > before
        assert run(found, "grown") == "grown"


def test_bad_tools_are_left_out_with_the_reason_and_the_others_stay():
    with rogue("bad-tools") as found:
        assert [tool.name for tool in found.tools] == ["good", "read_file_v2", "read_file_v2_2", "_2nd"]
        assert run(found, "read_file_v2_2") == "read.file.v2"
        said = "\n".join(found.take_notices())
    for sentence in (
        "the tool 'read file/v2' is called read_file_v2 here",
        "the tool 'read.file.v2' is called read_file_v2_2 here",
        "the tool '2nd' is called _2nd here",
        "the tool 'good' is listed twice",
        "the tool 'no-schema' is left out: inputSchema: Field required",
        "the tool 7 is left out: it: Input should be",
        "the tool 'a-list' is left out: inputSchema.type: Input should be 'object'",
        "the tool 'nonsense' is left out: its schema is no JSON schema",
        "the tool 'elsewhere' is left out: its schema refers to 'http://127.0.0.1:9/x', which is outside of it",
        "the tool 'nowhere' is left out: its schema refers to '#/$defs/none', which is not in it",
        "the tool 'lines' is left out: its schema names the argument 'a\\n}'",
        "the tool 'long' is left out: its schema is longer than 20000 characters",
        "the tool 'many' is left out: a schema has more than 20000 parts",
    ):
        assert sentence in said


def test_what_is_no_message_is_skipped_and_told_once(caplog: pytest.LogCaptureFixture):
    with rogue("garbage") as found:
        assert run(found, "echo", text="hi") == "hi"
        assert run(found, "echo", text="ho") == "ho"
        assert found.take_notices() == ["rogue: it writes on standard output what is no message; that is skipped"]


def test_nothing_of_a_server_comes_on_the_screen(tmp_path: Path):
    script = (
        "import sys; from gptoss_mlx.tools.mcp import McpServer\n"
        f"with McpServer([sys.executable, {str(ROGUE)!r}, 'garbage']) as server:\n"
        "    next(tool for tool in server.tools if tool.name == 'echo').function(text='hi')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "GPTOSS_HOME": str(tmp_path / "home")},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "it begins" in (tmp_path / "home" / "mcp" / "rogue.log").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/such/program --fast", r"'/no/such/program' cannot be run \(No such file or directory\)"),
        ("http://127.0.0.1:9/mcp", "http://127.0.0.1:9/mcp cannot be used .ConnectError"),
    ],
)
def test_a_server_that_cannot_be_reached_is_one_sentence(command: str, said: str):
    with pytest.raises(ToolServerError, match=said), McpServer(command, name="none"):
        pass


def test_a_server_that_ends_at_once_is_told_with_its_last_words():
    with pytest.raises(ToolServerError, match="it ended before it answered; its last words were: the key is missing"):
        rogue("exits").__enter__()


def test_a_server_that_answers_nothing_is_given_up():
    start = time.monotonic()
    with pytest.raises(ToolServerError, match=r"it did not answer within 0\.5 seconds; its last words were: it begins"):
        rogue("hang", start_seconds=0.5).__enter__()
    assert time.monotonic() - start < 5


def test_errors_of_a_tool_and_of_the_protocol_are_words_for_the_model():
    with rogue() as found:
        with pytest.raises(ToolFailure, match=r"^there is no such city$"):
            run(found, "fails")
        with pytest.raises(ToolFailure, match=r"^not today$"):
            run(found, "refuses")


def test_what_a_model_of_text_cannot_read_is_said_in_words():
    with rogue() as found:
        assert run(found, "kinds") == (
            "first\n"
            "[an image (image/png, 3 bytes), which cannot be shown to this model]\n"
            "[a sound (audio/wav, 3 bytes), which cannot be played to this model]\n"
            "[a link to a.txt: file:///a.txt (a file)]\n"
            "[the content of file:///b.txt:]\ninside\n"
            "[the content of file:///c (binary data), which cannot be shown to this model]\n"
            '{"found": 3}'
        )


def test_a_server_that_crashes_again_and_again_is_left():
    with rogue(restarts=2) as found:
        for number in range(3):
            with pytest.raises(ToolFailure, match="ended during the call"):
                run(found, "ends")
            assert found.state == ("failed" if number == 2 else "crashed")
            said = found.take_notices()
            assert len(said) == 1
            assert said[0].startswith("rogue: it ended; its last words were: Segmentation fault")
        assert found.offered_tools() == ()
        tool = found.tools[0]
        with pytest.raises(ToolFailure, match=r"rogue is gone: it ended.*It is not started again"):
            tool.function(text="hi")
        assert found.take_notices() == []
        # A person may start it anew.
        found.restart()
        assert found.wait()
        assert run(found, "echo", text="hi") == "hi"


def test_a_restart_that_fails_is_told_to_the_model_and_to_the_user(tmp_path: Path):
    with rogue("once", str(tmp_path / "mark"), restarts=1) as found:
        with pytest.raises(ToolFailure):
            run(found, "ends")
        found.take_notices()
        with pytest.raises(ToolFailure, match="cannot be started again: it ended before it answered"):
            run(found, "echo", text="hi")
        assert "it was started before" in found.take_notices()[0]
        assert found.state == "failed"


def test_a_server_that_ends_between_two_calls_is_seen_and_started_again():
    with rogue("deaf") as found:
        assert run(found, "echo", text="hi") == "hi"
        until(lambda: found.state == "crashed")
        assert run(found, "echo", text="ho") == "ho"


def test_a_call_that_is_out_of_time_is_withdrawn_from_the_server():
    with rogue() as found:
        waits = next(tool for tool in found.tools if tool.name == "waits")
        outcome = run_call(
            waits,
            "rogue.waits",
            {},
            seconds=0.1,
            grace=5,
            cancelled=lambda: False,
            context=contextvars.copy_context(),
        )
        assert (outcome.text, outcome.abandoned) == ("Error: no result within 0.1 seconds.", False)
        until(lambda: json.loads(run(found, "cancelled")) != [])


def test_several_calls_run_at_the_same_time():
    with rogue() as found:

        def wait() -> None:
            with pytest.raises(ToolFailure):
                run(found, "waits")

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        texts: list[str] = []
        others = [threading.Thread(target=lambda n=n: texts.append(run(found, "echo", text=str(n)))) for n in range(8)]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join(10)
        assert sorted(texts) == [str(n) for n in range(8)]
    # The end of the server ends the call.
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_server_gets_its_environment_and_its_folder_and_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setenv("TOKEN", "t0ken")
    with rogue(env={"GIVEN": "the ${TOKEN}"}, cwd=tmp_path) as found:
        there = json.loads(run(found, "environment"))
    assert there["GIVEN"] == "the t0ken"
    assert Path(there["cwd"]).resolve() == tmp_path.resolve()
    assert "SECRET" not in there
    with pytest.raises(ToolServerError, match=r"is given \$\{NOT_SET\}, which is not set here"):
        rogue(env={"GIVEN": "${NOT_SET}"}).__enter__()


def test_the_process_has_ended_when_the_server_is_closed():
    with rogue() as found, rogue(name="other") as other:
        pids = [pid_of(found), pid_of(other)]
        assert all(map(alive, pids))
        close_servers([found, other])
        assert not any(map(alive, pids))
        with pytest.raises(ToolFailure, match="was closed"):
            server.McpServer._run(found, "echo", {})


@pytest.mark.slow
def test_a_server_that_does_not_want_to_end_is_killed():
    with rogue("stubborn") as found:
        pid = pid_of(found)
    assert not alive(pid)


@pytest.mark.parametrize("end", [pytest.param("return", marks=pytest.mark.slow), "kill"])
def test_no_process_outlives_a_program_that_forgets_it_or_is_killed(tmp_path: Path, end: str):
    script = (
        "import sys, json, time; from gptoss_mlx.tools.mcp import McpServer\n"
        f"server = McpServer([sys.executable, {str(ROGUE)!r}]); server.begin(); server.wait()\n"
        "tool = next(tool for tool in server.tools if tool.name == 'environment')\n"
        "print(json.loads(tool.function())['pid'], flush=True)\n"
        f"time.sleep({60 if end == 'kill' else 0})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    if end == "kill":
        process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    until(lambda: not alive(pid))


def test_a_log_that_cannot_be_written_is_told_and_holds_nothing_up(home: Path):
    home.mkdir()
    (home / "mcp").write_text("in the way")
    with rogue() as found:
        assert run(found, "echo", text="hi") == "hi"
        assert "cannot be written" in found.take_notices()[0]


def test_a_log_that_has_grown_is_put_aside(home: Path):
    (home / "mcp").mkdir(parents=True)
    (home / "mcp" / "rogue.log").write_text("x" * (1 << 20) + "\n")
    with rogue():
        pass
    assert (home / "mcp" / "rogue.old.log").stat().st_size > 1 << 20
    assert (home / "mcp" / "rogue.log").stat().st_size < 1000


def test_without_the_library_it_is_said_what_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'not installed here; pip install "gptoss-mlx\[mcp\]"'):
        McpServer("anything")


@pytest.mark.slow
def test_a_server_that_listens_is_used_by_its_address():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "calculator_server.py"), str(port)], stderr=subprocess.DEVNULL
    )
    try:

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listens, 30)
        with McpServer(f"http://127.0.0.1:{port}/mcp", name="calculator") as found:
            assert run(found, "add", a=2, b=40) == "42"
            run(found, "learn")
            until(lambda: "subtract" in [tool.name for tool in found.tools])
            process.kill()
            process.wait()
            with pytest.raises(ToolFailure):
                run(found, "add", a=1, b=1)
    finally:
        process.kill()
        process.wait()
