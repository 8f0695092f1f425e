"""`gptoss pull`, `list`, `path`, `rm` and the offer of `chat`, as a person and as a script runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub.stand_in import COMMIT, StandInHub
from tests.terminal import Terminal

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(autouse=True)
def environment(hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home with späces"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home with späces"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gptoss_mlx.cli", *arguments]


def gptoss(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_from_nothing_to_an_answer_and_back(hub: StandInHub, home: Path) -> None:
    missing = gptoss("ask", "-m", "20b", "Hello")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "20b is not on this machine: get openai/gpt-oss-20b (13.8 GB) with `gptoss pull 20b`" in missing.stderr
    assert hub.requests == []

    dry = gptoss("pull", "20b", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert f"  {SHARD}  " in dry.stdout
    assert "more while it is made" in dry.stdout
    assert not home.exists()

    done = gptoss("pull", "20b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{home / 'models' / 'gpt-oss-20b'}: ")
    assert done.stdout.endswith("next: gptoss chat gpt-oss-20b\n")
    assert f"{SHARD}: downloading" in done.stderr
    assert f"{SHARD}: converted" in done.stderr
    assert "\x1b" not in done.stderr
    assert gptoss("pull", "20b").stdout.endswith("nothing to do\n")
    assert gptoss("pull", "20b", "--dry-run").stdout.endswith("there is nothing to do\n")

    assert gptoss("path", "20b").stdout == f"{home / 'models' / 'gpt-oss-20b'}\n"
    row = gptoss("list").stdout.splitlines()[2]
    assert row.startswith("gpt-oss-20b")
    assert "openai/gpt-oss-20b@c0ffee0  never" in row
    answer = gptoss("ask", "-m", "20b", "Hello", "--max-tokens", "3", "--seed", "1")
    assert answer.returncode == 0, answer.stderr
    assert "just now" in gptoss("list").stdout.splitlines()[2]
    hub.forget()
    verified = gptoss("verify", "20b").stdout.splitlines()
    assert verified[0] == f"made of openai/gpt-oss-20b@{COMMIT}:"
    size, sha256 = (hub.folder / SHARD).stat().st_size, hub.sha256(hub.folder / SHARD)
    assert f"  {SHARD}  {size:,} bytes  sha256 {sha256}" in verified
    assert verified[-1].endswith("all as converted")
    assert hub.requests == []

    gone = gptoss("rm", "20b")
    assert (gone.returncode, gone.stderr) == (0, "")
    assert gone.stdout.startswith("removed gpt-oss-20b: ")
    assert list((home / "models").iterdir()) == []
    again = gptoss("rm", "20b")
    assert again.returncode == 1
    assert "there is no model '20b' to remove" in again.stderr
    assert gptoss("rm", "pocket").returncode == 2


def test_json_is_plan_progress_and_result(home: Path) -> None:
    lines = [json.loads(line) for line in gptoss("pull", "20b", "--json", "--dense-bits", "4").stdout.splitlines()]
    assert lines[0]["type"] == "plan"
    assert lines[0]["memory_ok"]
    assert {line["type"] for line in lines[1:-1]} == {"progress"}
    assert lines[-2]["state"] == "done"
    assert lines[-1]["type"] == "done"
    assert lines[-1]["folder"] == str(home / "models" / "gpt-oss-20b-4bit")
    states = {file["state"] for line in lines[1:-1] for file in line["files"]}
    assert {"downloading", "done"} <= states
    dry = json.loads(gptoss("pull", "20b", "--json", "--dry-run").stdout)
    assert dry["disk_ok"]


@pytest.mark.slow
def test_a_refusal_is_one_sentence_and_an_exit_code(hub: StandInHub) -> None:
    for arguments, code, words in (
        (("no/such",), 1, "has no repository no/such that you may read"),
        (("20b@nowhere",), 1, "has no revision 'nowhere'"),
        (("nonsense",), 2, "'nonsense' is no model on the hub"),
        (("20b", "--limit", "fast"), 2, "--limit is 'fast'"),
        (("20b", "--connections", "0"), 2, "--connections is 0"),
        (("20b", "--context", "10000000"), 2, "context is 10000000"),
        (("20b", "--patience", "0"), 2, "--patience is 0"),
    ):
        done = gptoss("pull", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    hub.fail("status", SHARD, times=1e9, status=404)
    error = json.loads(gptoss("pull", "20b", "--json").stdout.splitlines()[-1])
    assert (error["type"], error["error"]) == ("error", "DownloadError")


def test_ctrl_c_keeps_what_came_and_rm_takes_it_away(hub: StandInHub, home: Path) -> None:
    hub.fail("slow", SHARD, times=1e9, after=400_000)
    process = start_pull()
    wait_for_part(process, home)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert error.endswith("stopped; the same command goes on from here\n")
    listed = gptoss("list")
    assert len(listed.stdout.splitlines()) == 2
    assert "gpt-oss-20b.partial: a download that runs or was stopped" in listed.stderr
    assert gptoss("rm", "20b").returncode == 0
    assert list((home / "models").iterdir()) == []


@pytest.mark.slow
def test_a_network_that_is_gone_for_a_while_is_told_once(hub: StandInHub) -> None:
    hub.fail("cut", SHARD, times=1, after=300_000)
    hub.fail("status", SHARD, times=5, status=503, retry_after="1")
    done = gptoss("pull", "20b")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    said = [number for number, line in enumerate(lines) if "network" in line]
    assert len(said) == 2
    assert lines[said[0]].startswith(f"waiting for the network ({SHARD}: the hub answers HTTP 503")
    assert lines[said[0]].endswith("); it goes on by itself")
    assert lines[said[1]] == "the network is back"


@pytest.mark.slow
def test_a_pull_that_runs_cannot_be_removed_and_a_second_one_waits(hub: StandInHub, home: Path) -> None:
    hub.fail("slow", SHARD, times=1e9, after=1_000_000)
    first = start_pull()
    wait_for_part(first, home)
    refused = gptoss("rm", "20b")
    assert refused.returncode == 2
    assert "gpt-oss-20b is being made by another process" in refused.stderr
    second = start_pull()
    out, error = first.communicate(timeout=60)
    assert first.returncode == 0, error
    out, error = second.communicate(timeout=60)
    assert second.returncode == 0, error
    assert out.endswith("nothing to do\n")


def start_pull() -> subprocess.Popen[str]:
    return subprocess.Popen(command("pull", "20b"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_part(process: subprocess.Popen[str], home: Path) -> None:
    """Until the slow shard is under way."""
    end = time.monotonic() + 30
    while not list(home.glob(f"models/*.partial/download/{SHARD}.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_model_in_use_is_not_removed(home: Path) -> None:
    assert gptoss("pull", "20b").returncode == 0
    chat = Terminal(home, "chat", "20b", "--plain")
    chat.wait_for(r"\n> ")
    refused = gptoss("rm", "20b", "-y")
    assert refused.returncode == 2
    assert "gpt-oss-20b is in use by another process" in refused.stderr
    chat.type("\x04")
    assert chat.end() == 0
    removing = Terminal(home, "rm", "20b")
    removing.wait_for(r"remove gpt-oss-20b \(.*\[y/N\] ")
    removing.type("\n")
    removing.wait_for("nothing was removed")
    assert removing.end() == 1
    assert gptoss("rm", "20b").returncode == 0


def test_chat_offers_to_get_the_model(hub: StandInHub, home: Path) -> None:
    refusing = Terminal(home, "chat", "20b", "--plain")
    refusing.wait_for(r"20b is not here: 13.8 GB, .*, about 18 minutes at 100 Mbit/s; get it\? \[Y/n\] ")
    refusing.type("n\n")
    refusing.wait_for("error: 20b is not on this machine")
    assert refusing.end() == 1
    assert hub.requests == []
    accepting = Terminal(home, "chat", "20b", "--plain")
    accepting.wait_for(r"\[Y/n\] ")
    accepting.type("\n")
    accepting.wait_for("next: gptoss chat gpt-oss-20b")
    accepting.wait_for(r"gpt-oss-20b: .* parameters.*\r?\n> ")
    accepting.type("\x04")
    assert accepting.end() == 0


@pytest.mark.slow
def test_offline_with_the_model_here_there_is_no_request(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gptoss("pull", "20b").returncode == 0
    hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert gptoss("pull", "20b").stdout.endswith("nothing to do\n")
    refused = gptoss("pull", "120b")
    assert refused.returncode == 1
    assert "HF_HUB_OFFLINE is set and openai/gpt-oss-120b is not in" in refused.stderr
    assert hub.requests == []


@pytest.mark.slow
def test_a_pull_at_a_terminal_draws_bars(home: Path, hub: StandInHub) -> None:
    hub.fail("slow", SHARD, times=1e9, after=2_000_000)
    terminal = Terminal(home, "pull", "20b")
    terminal.wait_for("KV cache")
    terminal.wait_for("next: gptoss chat gpt-oss-20b")
    assert terminal.end() == 0


@pytest.mark.slow
def test_the_home_may_be_unwritable_and_the_model_still_runs(home: Path) -> None:
    """Nothing that is only good to know stops a chat."""
    assert gptoss("pull", "20b").returncode == 0
    (home / "used").write_text("a file in the way")
    assert gptoss("ask", "-m", "20b", "Hello", "--max-tokens", "2").returncode == 0
    assert os.listdir(home / "models") == ["gpt-oss-20b"]
