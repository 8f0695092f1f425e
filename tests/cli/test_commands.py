"""The commands as a person runs them, over the pocket model, each in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import Terminal

QUESTION = "What is 17 plus 25?"
GREEDY = ("--temperature", "0", "--date", "2026-01-31")
"""Nothing is left to chance, nor to the day of the test."""


def gptoss(*arguments: str, stdin: str = "", home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GPTOSS_HOME": str(home or "/nonexistent")}
    return subprocess.run(
        [sys.executable, "-m", "gptoss_mlx.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def test_ask_prints_the_answer_and_nothing_else():
    done = gptoss("ask", QUESTION, *GREEDY, "-e", "high")
    assert (done.returncode, done.stderr) == (0, "")
    assert "42" in done.stdout
    assert done.stdout.endswith("\n")
    assert "<|" not in done.stdout


def test_ask_takes_its_question_from_a_pipe():
    done = gptoss("ask", "-", *GREEDY, "-e", "high", stdin=QUESTION + "\n")
    assert "42" in done.stdout


def test_reasoning_goes_to_standard_error_when_asked_for():
    done = gptoss("ask", QUESTION, "--show-reasoning", *GREEDY, "-e", "high")
    assert "42" in done.stdout
    assert done.stderr.strip()
    assert done.stderr.strip() not in done.stdout


def test_json_is_one_event_a_line_and_ends_with_the_reply():
    done = gptoss("ask", QUESTION, "--json", *GREEDY, "-e", "high")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["type"] == "prompt_progress"
    assert events[-1]["type"] == "done"
    answer = "".join(e["text"] for e in events if e["type"] == "text_delta" and e["channel"] == "final")
    assert answer == events[-1]["reply"]["text"]


def test_an_answer_without_code_is_an_error_of_extract_and_is_not_lost():
    done = gptoss("ask", "Hello!", "-x", *GREEDY)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no code block" in done.stderr


def test_chat_answers_the_lines_of_a_pipe_as_one_conversation():
    done = gptoss("chat", "--plain", *GREEDY, "-e", "high", stdin=f"{QUESTION}\nMy name is Ada.\nWhat is my name?\n")
    assert done.returncode == 0
    assert done.stdout.startswith(f"> {QUESTION}\n")
    assert re.search(r"thought for \d+\.\d s, \d+ tokens", done.stdout)
    assert "42" in done.stdout
    assert "Ada" in done.stdout.split("> What is my name?")[1]


def test_chat_without_a_terminal_and_without_lines_answers_a_sample_question():
    done = gptoss("chat")
    assert done.returncode == 0
    assert done.stdout.startswith("> What is 17 plus 25?\n")
    assert done.stderr == ""


def test_info_describes_the_pocket_model():
    facts = json.loads(gptoss("info", "--json").stdout)
    assert facts["experts_per_token"] == 4
    assert facts["weight_bytes_on_disk"] >= facts["weight_bytes_expected"]
    assert 0 < facts["context_that_fits"] == facts["memory"]["context"] <= facts["context"]
    assert facts["memory"]["needed_bytes"] <= facts["memory"]["limit_bytes"]
    table = gptoss("info", "pocket").stdout
    assert "MXFP4" in table
    assert f"{facts['context_that_fits']:,} tokens of context fit here: it takes " in table


def test_check_says_what_the_named_model_takes():
    done = gptoss("check", "pocket")
    assert re.search(r"^pocket takes [\d.]+ [GM]B of memory with [\d,]+ tokens of context .*: fits$", done.stdout, re.M)


def test_a_full_context_is_an_error_or_leaves_the_oldest_turns_out_and_says_so():
    lines = ("Hello there, how are you? " * 6 + "\n") * 3
    words = ("chat", "--plain", "--context", "200", "--max-tokens", "20", *GREEDY, "-e", "low")
    done = gptoss(*words, stdin=lines)
    assert done.returncode == 1
    assert "the context length is 200" in done.stderr
    done = gptoss(*words, "--overflow", "drop_oldest", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"\[the context is full: the oldest \d turn\(s\), \d+ tokens, are not read any more\]", done.stdout
    )


def test_evaluate_prints_a_table_and_ends_with_json():
    done = gptoss("evaluate", "-n", "2", "--kind", "addition", "-e", "high")
    assert done.returncode == 0
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["scores"][0]["questions"] == 2
    assert gptoss("evaluate", "--kind", "nonsense").returncode == 2


def test_compare_prints_a_table_and_ends_with_json(tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("What is 17 plus 25? It is 42.")
    done = gptoss("compare", "pocket", "pocket", "--text", str(text))
    assert (done.returncode, done.stderr) == (0, "")
    assert "agree" in done.stdout.splitlines()[0]
    report = json.loads(done.stdout.splitlines()[-1])
    reference, same = report["models"]
    assert (reference["kl_mean"], same["kl_mean"], same["argmax_agreement"]) == (None, 0.0, 1.0)
    assert same["computed_weight_bytes_per_token"] < same["weight_bytes_on_disk"]


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m gptoss_mlx.cli ask '{QUESTION}' --json | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_conversation_at_a_terminal(home: Path, tmp_path: Path):
    terminal = Terminal(home, "chat", "--plain", *GREEDY, "-e", "high")
    terminal.wait_for(r"/help lists the commands.*\n> ")
    terminal.type(QUESTION + "\n")
    assert "42" in terminal.wait_for(r"thought for .*\n[^>]*\n> ")
    terminal.type("/effort low\n")
    terminal.wait_for(r"effort: low\r?\n> ")
    terminal.type("/effort much\n")
    terminal.wait_for(r"error: 'much' is no effort.*\n> ")
    terminal.type("and plus \\\n")
    terminal.wait_for(r"\. ")
    terminal.type("5?\n")
    terminal.wait_for(r"\n> ")
    terminal.type("/stats\n")
    terminal.wait_for(r"context +\d+ of \d+ tokens[^>]*\n> ")
    terminal.type(f"/save {tmp_path}/c.json\n")
    terminal.wait_for(r"saved to .*\n> ")
    terminal.type(f"/export {tmp_path}/c.md\n")
    terminal.wait_for(r"written to .*\n> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "42" in (tmp_path / "c.md").read_text()
    again = gptoss("chat", "--plain", "--resume", f"{tmp_path}/c.json", stdin="/nothing\n", home=home)
    assert again.returncode == 0


def test_a_saved_chat_is_resumed_without_reading_it_again(home: Path, tmp_path: Path):
    terminal = Terminal(home, "chat", "--plain", *GREEDY, "--kv-bits", "8")
    terminal.wait_for(r"\n> ")
    terminal.type(QUESTION + "\n")
    terminal.wait_for(r"thought for .*\n[^>]*\n> ")
    terminal.type(f"/save {tmp_path}/c.json\n")
    assert "need not be read again" in terminal.wait_for(r" [KM]iB in .*/kv\r?\n> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    resumed = Terminal(home, "chat", "--plain", *GREEDY, "--resume", f"{tmp_path}/c.json")
    resumed.wait_for(r"\n> ")
    resumed.type("And 3 more?\n")
    resumed.wait_for(r"thought for .*\n[^>]*\n> ")
    resumed.type("/stats\n")
    assert re.search(r"tokens, [1-9]\d+ of them read before", resumed.wait_for(r"context +\d+ of \d+ tokens[^>]*\n> "))
    resumed.type("\x04")
    assert resumed.end() == 0


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(home: Path):
    terminal = Terminal(home, "chat", "--plain", *GREEDY, "-e", "high")
    terminal.wait_for(r"\n> ")
    # On a busy machine the short answer may be over before the signal comes; then it is asked again.
    for _ in range(5):
        terminal.type("What is 123 plus 456?\n")
        # Past the echo of the question: the reasoning has begun.
        terminal.wait_for(r"456\?\r?\n +\S")
        terminal.interrupt_at_once()
        if "[stopped]" in terminal.wait_for(r"\r?\n> "):
            break
    else:
        pytest.fail("Ctrl-C never stopped an answer")
    terminal.type("/again\n")
    terminal.wait_for(r"579[^>]*\n> ")
    terminal.interrupt()
    terminal.wait_for(r"leaves\.\r?\n> ")
    terminal.interrupt()
    assert terminal.end() == 0
