"""`gptoss bench` as a person runs it, over the pocket model: real engines, real figures, real processes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.bench.plan import OURS
from gptoss_mlx.bench.report import FIGURES
from gptoss_mlx.models import POCKET_FOLDER

BENCH = (sys.executable, "-m", "gptoss_mlx.cli", "bench")
SMALL = ("--prompt-tokens", "40", "--decode-tokens", "6")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=120, check=False)


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_both_engines_are_measured_in_turn_and_the_report_is_whole():
    done = bench("pocket", "--against", "mlx-lm", "--runs", "2", *SMALL)
    assert done.returncode == 0, done.stderr
    report = report_of(done)
    assert [(run["engine"], run["run"]) for run in report["runs"]] == [
        (OURS, 1),
        ("mlx-lm", 1),
        (OURS, 2),
        ("mlx-lm", 2),
    ]
    for run in report["runs"]:
        assert all(run[figure.key] > 0 for figure in FIGURES)
        assert run["start_to_first_token_seconds"] > run["load_seconds"]
        assert run["prefill_tokens_per_second"] == pytest.approx(40 / run["ttft_seconds"])
        assert run["peak_resident_bytes"] > 20e6
        assert run["prompt_sha256"] == report["settings"]["prompt_sha256"]
    agreement = report["agreement"]
    assert agreement["decoded_tokens"] == 6
    assert agreement["same_tokens"] == (agreement["first_tokens_that_agree"] == [6, 6])
    assert report["model"] == {
        "name": "pocket",
        "parameters": 5318000,
        "bytes_on_disk": report["model"]["bytes_on_disk"],
    }
    assert report["command"] == "gptoss bench pocket --against mlx-lm --runs 2 --prompt-tokens 40 --decode-tokens 6"
    assert all(report["versions"][name] for name in ("python", "mlx", "mlx-lm", "gptoss-mlx"))
    assert report["complete"]
    for word in ("prefill (tok/s)", "mlx-lm (", "ratio", "peak memory"):
        assert word in done.stdout
    assert "[4/4] mlx-lm, run 2 of 2" in done.stderr


def test_alone_without_a_warm_up_the_first_request_gives_every_figure():
    done = bench("--json", "--no-warm-up", "--runs", "1", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    report = report_of(done)
    (run,) = report["runs"]
    assert run["start_to_first_token_seconds"] == pytest.approx(run["load_seconds"] + run["ttft_seconds"], rel=0.05)
    assert list(report["engines"]) == [OURS]
    assert (report["ratios"], report["agreement"], report["peer_model"]) == (None, None, None)


@pytest.mark.slow
def test_a_model_that_the_peer_refuses_is_one_sentence_after_our_figures(tmp_path: Path):
    other = shutil.copytree(POCKET_FOLDER, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "of another kind"}))
    done = bench("pocket", "--against", "mlx-lm", "--peer-model", str(other), "--runs", "2", *SMALL)
    assert done.returncode == 1
    assert "error: mlx-lm, run 1 of 2, failed while loading: " in done.stderr
    assert "of another kind" in done.stderr
    report = report_of(done)
    assert [run["engine"] for run in report["runs"]] == [OURS]
    assert report["peer_model"]["name"] == "other"
    assert not report["complete"]


def test_wrong_usage_ends_before_anything_runs():
    done = bench("--peer-model", "pocket")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


class Running:
    """A long benchmark under way, whose processes can be told by the name of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*BENCH, "--runs", "500", "--prompt-tokens", "5", "--decode-tokens", "200"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )

    def workers(self) -> int:
        table = subprocess.run(["ps", "-A", "-ww", "-o", "command"], capture_output=True, text=True, check=True).stdout
        return sum(str(self.folder) in line for line in table.splitlines())

    def wait_for_a_run_after_the_first(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("[2/"):
                break
        self.wait_for_workers(1)

    def wait_for_workers(self, count: int, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while self.workers() != count:
            assert time.monotonic() < end, f"there are {self.workers()} workers; expected {count}"
            time.sleep(0.02)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    with contextlib.suppress(ProcessLookupError):
        running.process.kill()
    running.process.communicate()


def test_ctrl_c_ends_the_worker_and_reports_what_was_measured(running: Running):
    running.wait_for_a_run_after_the_first()
    running.process.send_signal(signal.SIGINT)
    out, err = running.process.communicate(timeout=30)
    assert running.process.returncode == 130
    assert running.workers() == 0
    report = json.loads(out.splitlines()[-1])
    assert len(report["runs"]) >= 1
    assert report["error"] == f"stopped by Ctrl-C after {len(report['runs'])} of 500 runs"
    assert "Traceback" not in err
    assert list(running.folder.iterdir()) == []


def test_no_worker_outlives_a_parent_that_was_killed(running: Running):
    running.wait_for_a_run_after_the_first()
    running.process.kill()
    running.wait_for_workers(0)


@pytest.mark.parametrize("model", [("pocket",), ("--shape", "20b")], ids=" ".join)
def test_a_batch_is_measured_against_one_after_the_other(
    model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from dataclasses import replace

    from gptoss_mlx.bench import throughput
    from gptoss_mlx.cli import main

    # The shape itself takes a gigabyte and minutes.
    small = replace(throughput.PRESETS["20b"], hidden_size=64, intermediate_size=32, vocab_size=100)
    monkeypatch.setattr(throughput, "PRESETS", {"20b": small})
    assert main(["bench", *model, "--batch", "3", "--runs", "2", *SMALL]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert (report["batch"], report["prompt_tokens"], report["decode_tokens"], len(report["runs"])) == (3, 40, 6, 2)
    assert report["same_tokens"]
    for run in report["runs"]:
        assert 0 < run["together_tps"] < run["together_decode_tps"]
        assert 0 < run["in_turn_tps"] < run["in_turn_decode_tps"]
    for word in ("together", "decode, all (tok/s)", "3 prompts of 40 tokens", "the same tokens"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pocket", "--batch", "1"), "--batch is 1; expected 2 or more"),
        (("--shape", "20b"), "--shape stands in for a model with --batch only"),
        (("pocket", "--batch", "2", "--against", "mlx-lm"), "leave out --against"),
        (("pocket", "--batch", "2", "--prompt-tokens", "131072"), "expected at most 131072"),
    ],
)
def test_a_batch_that_cannot_be_measured_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    from gptoss_mlx.cli import main

    assert main(["bench", *words]) != 0
    assert message in capsys.readouterr().err
