"""`gptoss hosts check` says what is wrong with each host and what to do about it."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_mlx.cli import main
from gptoss_mlx.settings import models_folder

Homes = Callable[[str], Path]


@pytest.fixture(autouse=True)
def nothing_is_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())


@pytest.mark.slow
def test_hosts_that_can_are_told_so(homes: Homes, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "check", "127.0.0.1,far", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {(finding["host"], finding["what"]): finding["said"] for finding in report["findings"]}
    assert report["ok"]
    assert found["far", "ssh"] == "connects without asking for a password"
    assert "may be used" in found["far", "memory"]
    assert "as here" in found["127.0.0.1", "gptoss-mlx"]
    assert "GB/s" in found["127.0.0.1,far", "link"]
    assert "layers" in found["127.0.0.1,far", "share"]


def test_every_fault_is_a_finding_with_advice(homes: Homes, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "check", "gone,locked"]) == 1
    said = capsys.readouterr().out
    assert "BAD  gone  ssh: ssh: connect to host gone port 22: Connection refused; see that it is on" in said
    assert "BAD  locked  ssh: locked: Permission denied (publickey).; make `ssh locked` work without" in said


@pytest.mark.slow
def test_a_model_that_is_not_there_is_a_finding_until_it_is_copied(
    homes: Homes, conversions: Callable[[int | None], str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(conversions(None), models_folder() / "little")
    assert main(["hosts", "check", "127.0.0.1,far", "-m", "little"]) == 1
    assert "BAD  far  model: far does not have the model little: `gptoss hosts copy" in capsys.readouterr().out
    assert main(["hosts", "copy", "little", "far"]) == 0
    assert "far: little is in" in capsys.readouterr().out
    assert main(["hosts", "check", "127.0.0.1,far", "-m", "little"]) == 0
    assert "gptoss chat little --hosts 127.0.0.1,far is ready to run" in capsys.readouterr().out


@pytest.mark.slow
def test_ask_answers_on_several_hosts(homes: Homes, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", "What is 17 plus 25?", "--temperature", "0", "--max-tokens", "40"]
    assert main([*words, "--hosts", "127.0.0.1,far"]) == 0
    shared = capsys.readouterr().out
    assert main(words) == 0
    assert capsys.readouterr().out == shared


def test_one_host_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "hi", "--hosts", "mac1"]) == 2
    assert "expected two or more" in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_says_which_host_had_what(homes: Homes, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--runs", "1", "--prompt-tokens", "40", "--decode-tokens", "4", "--json"]
    assert main(["bench", "pocket", "--hosts", "127.0.0.1,far", *words]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["settings"]["hosts"] == "127.0.0.1,far"
    assert [share["host"] for share in report["runs"][0]["hosts"]] == ["127.0.0.1", "far"]
    assert report["runs"][0]["peak_mlx_bytes"] > 1 << 20
