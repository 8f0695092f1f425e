"""`gptoss bench --turns`: the conversation that is played, and what each engine reads of it again."""

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest

from gptoss_mlx.bench.conversation import TURNS, TURNS_WITH_TOOL, make_conversation
from gptoss_mlx.bench.plan import OURS
from gptoss_mlx.bench.race import Outcome
from gptoss_mlx.bench.turns import TurnsSettings, make_turns_plan, run_turns
from gptoss_mlx.bench.turns_report import make_turns_report, turns_table_lines
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import parse_tokens
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.turn import answers_start

BENCH = (sys.executable, "-m", "gptoss_mlx.cli", "bench", "pocket", "--turns")


def bench(*arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stderr
    return done, json.loads(done.stdout.splitlines()[-1])


def test_the_conversation_has_its_length_and_its_tool_calls(pocket_tokenizer: Tokenizer):
    requests = make_conversation(pocket_tokenizer, 8000, seed=1)
    assert abs(len(requests[-1].prompt) - 8000) < 20
    assert [request.turn for request in requests if request.kind == "question"] == list(range(1, TURNS + 1))
    assert [request.turn for request in requests if request.kind == "result"] == list(TURNS_WITH_TOOL)
    assert requests == make_conversation(pocket_tokenizer, 8000, seed=1)
    assert requests != make_conversation(pocket_tokenizer, 8000, seed=2)
    for request in requests:
        assert request.start == answers_start(request.prompt, pocket_tokenizer)


def test_what_is_new_and_what_has_changed_add_up(pocket_tokenizer: Tokenizer):
    requests = make_conversation(pocket_tokenizer, 2500, seed=0)
    assert (requests[0].new_tokens, requests[0].changed_tokens) == (len(requests[0].prompt), 0)
    for before, request in itertools.pairwise(requests):
        context = before.prompt + before.answer
        common = len(request.prompt) - request.new_tokens - request.changed_tokens
        assert request.prompt[:common] == context[:common]
        if request.kind == "result":
            # All of it stays; what ended the call is the one token of the context that nothing had to read.
            assert (common, request.changed_tokens) == (len(context) - 1, 0)
        else:
            assert request.prompt[common] != context[common]
            # The answer without its reasoning is what has changed; with a tool, the call and its result, too.
            assert 40 < request.changed_tokens < (120 if before.kind == "question" else 260)


def test_the_answers_are_what_a_model_would_have_said(pocket_tokenizer: Tokenizer):
    for request in make_conversation(pocket_tokenizer, 2500, seed=0):
        messages = parse_tokens([*request.prompt, *request.answer], pocket_tokenizer, role=None)
        assert [message.channel for message in messages[-2:]] in (["analysis", "final"], ["analysis", "commentary"])
        assert request.answer[-1] in pocket_tokenizer.special.stop_ids


def test_a_conversation_that_is_too_short_or_too_long_is_refused():
    with pytest.raises(UsageError, match="for 10 turns"):
        make_turns_plan("pocket", TurnsSettings(conversation_tokens=100))
    with pytest.raises(UsageError, match="half of the"):
        make_turns_plan("pocket", TurnsSettings(conversation_tokens=100_000))


def assert_within_bound(report: dict[str, Any]) -> None:
    for request, read in zip(report["requests"], report["engines"][OURS]["read_tokens"], strict=True):
        assert read <= request["new_tokens"] + 1.1 * request["changed_tokens"]
    assert report["within_bound"][OURS]
    assert report["complete"]


def test_ours_reads_what_is_new_and_what_has_changed_and_no_more():
    done, report = bench("--conversation-tokens", "1500")
    assert report["requests"][-1]["prompt_tokens"] == pytest.approx(1500, abs=20)
    assert_within_bound(report)
    for word in ("turn 10 question", "turn  8 result", "from nothing, turn 2", "never read more than"):
        assert word in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_in_a_chat_of_8000_tokens_the_second_turn_answers_ten_times_sooner_than_from_nothing():
    _, report = bench()
    assert report["requests"][-1]["prompt_tokens"] == pytest.approx(8000, abs=20)
    assert_within_bound(report)
    assert report["engines"][OURS]["cold_over_warm"]["2"] >= 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mlx_lm_plays_the_same_conversation():
    _, report = bench("--against", "mlx-lm", "--conversation-tokens", "1500")
    assert report["within_bound"] == {OURS: True, "mlx-lm": False}
    theirs, ours = (report["engines"][engine] for engine in ("mlx-lm", OURS))
    assert sum(theirs["read_tokens"]) > 3 * sum(ours["read_tokens"])
    assert all(found["median"] > 0 for found in theirs["ttft_seconds"])


WORKER = """
import json, sys
request = json.load(open(sys.argv[1]))
if request["engine"] == "mlx-lm":
    sys.exit(3)
figures = {"requests": [{"read_tokens": 5, "ttft_seconds": 0.5} for _ in request["requests"]],
           "cold_ttft_seconds": {"2": 5.0}, "peak_resident_bytes": 1, "peak_mlx_bytes": 1,
           "dtype": "float32", "device": "cpu", "engine_version": "1"}
print(json.dumps({"figures": figures}))
"""


def test_what_was_played_before_an_engine_failed_is_kept(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    plan = make_turns_plan("pocket", TurnsSettings(conversation_tokens=1500, runs=2), peer="mlx-lm")
    outcome: Outcome = run_turns(plan, worker=[sys.executable, str(script)])
    assert outcome.error == "mlx-lm, run 1 of 2, ended with exit code 3 and without figures before it began"
    machine = {"processor": "p", "cores": 2, "memory_bytes": 1, "os": "o", "architecture": "a", "load_average": 0.0}
    report = make_turns_report(plan, outcome, command="gptoss bench", machine=machine)
    assert json.loads(json.dumps(report)) == report
    assert list(report["engines"]) == [OURS]
    assert report["engines"][OURS]["cold_over_warm"] == {"2": 10.0}
    assert any("10.0 times as long" in line for line in turns_table_lines(report))
