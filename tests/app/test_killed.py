"""kill -9 in the middle of an answer: what was on the screen a second before is there again."""

import re
import time
from pathlib import Path

import pytest

from gptoss_mlx.app.store import Store
from tests.app.at_terminal import AtTerminal
from tests.app.scripted_engine import final

WORDS = 3000
TOKENS_PER_SECOND = 100


@pytest.mark.slow
def test_a_kill_in_mid_answer_loses_at_most_the_last_second(home: Path):
    (home / "script.txt").write_text(final(" ".join(f"n{number}" for number in range(WORDS))))
    command = ("-m", "tests.app.scripted_app", str(home), str(TOKENS_PER_SECOND), str(home / "script.txt"))
    app = AtTerminal(home, *command)
    try:
        app.wait_for("Ask anything")
        app.type("count\r")
        app.wait_for("n20")
        time.sleep(1.5)
        app.type("a draft")
        app.wait_for("a draft")
        time.sleep(1.5)
        second_before = max(int(number) for number in re.findall(r"\bn(\d+)\b", app.tail()))
        time.sleep(1)
    finally:
        app.kill()
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        question, answer = store.path(latest.id, latest.leaf)
        assert question.text == "count"
        assert answer.state == "running"
        kept = len(answer.answer.split())
        # The last word may be cut.
        assert kept >= second_before
        assert answer.answer == " ".join(f"n{number}" for number in range(WORDS))[: len(answer.answer)]

    again = AtTerminal(home, *command)
    try:
        again.wait_for("stopped")
        again.wait_for("a draft")
        again.type("\x11")
        assert again.end() == 0
    finally:
        if again.process.poll() is None:
            again.kill()
    with Store(home / "chats.sqlite3") as store:
        assert store.turn(answer.id).state == "stopped"
        assert store.turn(answer.id).answer == answer.answer
