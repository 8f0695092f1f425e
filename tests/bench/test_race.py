"""The parent of the runs, with workers that are a few lines long: order, failures, and what is kept of them."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.bench.plan import OURS, Plan, Settings, make_plan
from gptoss_mlx.bench.race import Outcome, run_race
from gptoss_mlx.bench.report import FIGURES, make_report
from gptoss_mlx.bench.table import table_lines

HEAD = """
import json, os, signal, sys, time
request = json.load(open(sys.argv[1]))
ours = request["engine"] == "gptoss-mlx"
log = open(LOG, "a")
print(request["engine"], file=log, flush=True)
number = len(open(LOG).readlines())
def say(**line): print(json.dumps(line), flush=True)
def figures(tokens=(1, 2, 3)):
    keys = FIGURES
    say(figures={**{key: (2.0 if ours else 1.0) * number for key in keys}, "engine_version": "1", "dtype": "float32",
                 "device": "cpu", "tokens": list(tokens), "prompt": request["prompt"]})
"""
"""A worker that logs its engine; the figures of the n-th process are n, ours 2 n."""


class Race:
    """A race of two engines whose worker ends with the given lines."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.folder = folder

    def run(self, body: str, runs: int = 2, timeout_seconds: float = 60.0) -> tuple[Plan, Outcome]:
        script = self.folder / "worker.py"
        head = HEAD.replace("LOG", repr(str(self.log))).replace("FIGURES", repr([figure.key for figure in FIGURES]))
        script.write_text(head + body)
        plan = make_plan("pocket", Settings(runs=runs, prompt_tokens=8, timeout_seconds=timeout_seconds), peer="mlx-lm")
        return plan, run_race(plan, worker=[sys.executable, str(script)])


@pytest.fixture
def race(tmp_path: Path) -> Race:
    return Race(tmp_path)


def report_of(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    machine = {"processor": "p", "cores": 2, "memory_bytes": 1, "os": "o", "architecture": "a", "load_average": 0.0}
    report = make_report(plan, outcome, command="gptoss bench", machine=machine)
    assert report == json.loads(json.dumps(report))
    assert list(table_lines(report))
    return report


def test_the_report_tells_each_engines_command_buffers(race: Race, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLX_MAX_MB_PER_BUFFER", "70")
    monkeypatch.delenv("MLX_MAX_OPS_PER_BUFFER", raising=False)
    report = report_of(*race.run("figures()", runs=1))
    assert report["mlx_limits"] == {engine: {"MLX_MAX_MB_PER_BUFFER": "70"} for engine in (OURS, "mlx-lm")}


def test_the_engines_take_turns_on_the_same_prompt_and_the_report_adds_up(race: Race):
    plan, outcome = race.run("figures((1, 2, 3) if ours else (1, 2, 4))", runs=3)
    assert outcome.error is None
    assert race.log.read_text().split() == [OURS, "mlx-lm"] * 3
    assert [(run["engine"], run["run"]) for run in outcome.runs] == [
        (engine, n) for n in (1, 2, 3) for engine in (OURS, "mlx-lm")
    ]
    assert all(run["prompt"] == plan.prompt for run in outcome.runs)
    report = report_of(plan, outcome)
    for figure in FIGURES:
        # Ours were 2, 6 and 10; the others 2, 4 and 6.
        assert report["engines"][OURS][figure.key] == {"median": 6, "min": 2, "max": 10}
        assert report["engines"]["mlx-lm"][figure.key] == {"median": 4, "min": 2, "max": 6}
        assert report["ratios"][figure.key] == {"pairs": [1, 6 / 4, 10 / 6], "median": 6 / 4, "min": 1, "max": 10 / 6}
    assert report["agreement"] == {"same_tokens": False, "first_tokens_that_agree": [2, 2, 2], "decoded_tokens": 3}
    assert report["complete"]


def test_a_worker_that_crashes_is_one_sentence_and_what_was_measured_before_is_kept(race: Race):
    crash = "say(stage='loading')\nif number == 2:\n print('no\\nlayer 7', file=sys.stderr)\n sys.exit(3)\nfigures()"
    plan, outcome = race.run(crash)
    assert outcome.error == (
        "mlx-lm, run 1 of 2, ended with exit code 3 and without figures while loading; its last words: no | layer 7"
    )
    assert [run["engine"] for run in outcome.runs] == [OURS]
    report = report_of(plan, outcome)
    assert not report["complete"]
    assert report["error"] == outcome.error
    assert (report["ratios"], report["agreement"]) == (None, None)
    assert list(report["engines"]) == [OURS]


def test_a_worker_that_is_killed_is_told_from_one_that_ends(race: Race):
    _, outcome = race.run("say(stage='measuring')\nos.kill(os.getpid(), signal.SIGKILL)")
    assert outcome.error == (
        "gptoss-mlx, run 1 of 2, was killed by SIGKILL, which is what happens when memory runs out, while measuring"
    )
    assert outcome.runs == []


def test_the_reason_that_a_worker_gives_is_passed_on(race: Race):
    _, outcome = race.run("say(stage='loading')\nsay(error='model.safetensors is damaged')\nsys.exit(1)")
    assert outcome.error == "gptoss-mlx, run 1 of 2, failed while loading: model.safetensors is damaged"


@pytest.mark.parametrize("last", ["time.sleep(60)", "os.close(1); time.sleep(60)"])
def test_a_worker_that_hangs_is_ended_when_its_time_is_up(race: Race, last: str):
    start = time.monotonic()
    body = "say(stage='warming up')\nif number > 1:\n pid = os.fork()\n " + last + "\nfigures()"
    _, outcome = race.run(body, timeout_seconds=1.0)
    assert time.monotonic() - start < 15
    assert outcome.error == ("mlx-lm, run 1 of 2, was ended while warming up: it took longer than 1 s (see --timeout)")
    assert len(outcome.runs) == 1


def test_noise_between_a_workers_lines_is_passed_over(race: Race):
    _, outcome = race.run("print('loading 3 %')\nsys.stdout.write('[1]\\n\"x\"\\n\\n')\nfigures()", runs=1)
    assert outcome.error is None
    assert len(outcome.runs) == 2
