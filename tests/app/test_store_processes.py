"""Several apps at one file, and apps that are killed: what was said is there, and the file is sound."""

import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.store import Store
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message

ANSWERING = """
import dataclasses, sys, time
from pathlib import Path
from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.store import Store
from gptoss_mlx.harmony import Message

pause, rounds = float(sys.argv[2]), int(sys.argv[3])
store = Store(Path(sys.argv[1]))
conversation = store.create(date="2026-01-31").id
leaf = None
for round in range(rounds):
    asked = store.add_turn(conversation, Turn(0, leaf, "user", (Message.user("q"),), text=f"question {round}"))
    turn = store.add_turn(conversation, Turn(0, asked.id, "assistant", state="running"))
    for words in range(1, 6):
        turn = dataclasses.replace(turn, messages=(Message.assistant("word " * words * 40, tokens=(1,) * words),))
        store.save_turn(turn)
        # Said once it is kept, as the app shows it.
        print(conversation, turn.id, words, "running", flush=True)
        time.sleep(pause)
    store.save_turn(dataclasses.replace(turn, state="complete"))
    print(conversation, turn.id, words, "complete", flush=True)
    leaf = turn.id
store.close()
"""


def answering(path: Path, pause: float = 0.0, rounds: int = 1000) -> "subprocess.Popen[str]":
    """An app that answers and answers."""
    command = [sys.executable, "-c", ANSWERING, str(path), str(pause), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        db.execute("INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")
        return found and not db.execute("PRAGMA foreign_key_check").fetchall()


def kill_and_check(path: Path, wait: float) -> None:
    """Kills an app that answers after `wait` seconds of answering; all that it had said is there."""
    process = answering(path)
    assert process.stdout is not None
    said = [process.stdout.readline()]
    end = time.monotonic() + wait
    while time.monotonic() < end:
        said.append(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait()
    last = [line for line in said if line.endswith("\n")][-1].split()
    conversation, turn, words = (int(word) for word in last[:3])
    assert is_sound(path)
    with Store(path) as store:
        assert store.mark_interrupted() <= 1
        assert store.mark_interrupted() == 0
        kept = store.turn(turn)
        # One save may have been done and not told.
        assert kept.answer.count("word") in (words * 40, min(words + 1, 5) * 40)
        assert kept.state == "complete" if last[3] == "complete" else kept.state in ("stopped", "complete")
        path_there = store.path(conversation, store.get(conversation).leaf)
        assert [t.state for t in path_there[:-1]].count("complete") == len(path_there) - 1
        assert not any(summary.running for summary in store.list())
        assert conversation in [summary.id for summary in store.list("word", limit=None)]


def test_an_app_that_is_killed_in_mid_answer_loses_nothing_that_was_kept(tmp_path: Path):
    for wait in (0.0, 0.05, 0.2):
        kill_and_check(tmp_path / "chats.sqlite3", wait)


@pytest.mark.slow
def test_random_kills_never_lose_or_damage_anything(tmp_path: Path):
    draw = random.Random(1)
    for _ in range(60):
        kill_and_check(tmp_path / "chats.sqlite3", draw.random() * 0.8)


def test_a_turn_that_another_app_writes_is_read_only_until_that_app_ends(tmp_path: Path):
    path = tmp_path / "chats.sqlite3"
    process = answering(path, pause=60)
    assert process.stdout is not None
    identifier = int(process.stdout.readline().split()[1])
    try:
        with Store(path) as store:
            assert store.mark_interrupted() == 0
            turn = store.turn(identifier)
            assert turn.state == "running"
            assert turn.answer
            assert store.written_elsewhere(identifier)
            with pytest.raises(UsageError, match="another window"):
                store.save_turn(dataclasses.replace(turn, state="complete"))
            process.kill()
            process.wait()
            assert not store.written_elsewhere(identifier)
            assert store.mark_interrupted() == 1
            assert store.turn(identifier) == dataclasses.replace(turn, state="stopped")
            # And may be gone on with here.
            store.save_turn(dataclasses.replace(turn, state="running"))
            assert not store.written_elsewhere(identifier)
            assert store.mark_interrupted() == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert list((path.parent / "chats.sqlite3-writers").iterdir()) == []


def test_two_stores_in_one_process_are_two_writers(tmp_path: Path):
    path = tmp_path / "chats.sqlite3"
    with Store(path) as first, Store(path) as second:
        conversation = first.create(date="2026-01-31").id
        turn = first.add_turn(conversation, Turn(0, None, "assistant", state="running"))
        assert second.written_elsewhere(turn.id)
        assert second.mark_interrupted() == 0
        first.close()
        assert second.mark_interrupted() == 1


def test_apps_that_write_at_once_lose_nothing(tmp_path: Path):
    path = tmp_path / "chats.sqlite3"
    # They also make the file at the same time.
    processes = [answering(path, rounds=15) for _ in range(3)]
    lines = []
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        lines += [line.split() for line in out.splitlines()]
    assert is_sound(path)
    with Store(path) as store:
        conversations = {int(line[0]) for line in lines}
        assert len(conversations) == 3
        assert {summary.id: summary.turns for summary in store.list()} == dict.fromkeys(conversations, 30)
        for conversation in conversations:
            turns = store.path(conversation, store.get(conversation).leaf)
            assert [turn.text for turn in turns[::2]] == [f"question {round}" for round in range(15)]
            assert {turn.answer for turn in turns[1::2]} == {"word " * 200}
            assert {turn.state for turn in turns} == {"complete"}
        assert len(store.list("word")) == 3


def test_a_long_answer_is_saved_cheaply(tmp_path: Path):
    with Store(tmp_path / "chats.sqlite3") as store:
        conversation = store.create(date="2026-01-31").id
        turn = store.add_turn(conversation, Turn(0, None, "assistant", state="running"))
        turn = dataclasses.replace(turn, messages=(Message.assistant("word " * 5000, tokens=tuple(range(5000))),))
        times = []
        for _ in range(10):
            start = time.thread_time()
            store.save_turn(turn)
            times.append(time.thread_time() - start)
    assert min(times) < 0.02
    assert os.path.getsize(tmp_path / "chats.sqlite3") < 1_000_000
