"""What was sent is offered again in later runs: each once, newest last, whatever other apps and kills do."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.app import prompt_history
from gptoss_mlx.app.prompt_history import PromptHistory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "prompts.jsonl"


def test_prompts_are_kept_across_runs_newest_last_and_each_once(path: Path):
    history = PromptHistory(path)
    assert history.entries() == []
    for text in ("one", "two\nlines", "one", " ", "three"):
        history.add(text)
    assert history.entries() == PromptHistory(path).entries() == ["two\nlines", "one", "three"]
    assert history.trouble is None


def test_what_another_app_sent_is_there_too(path: Path):
    first, second = PromptHistory(path), PromptHistory(path)
    first.add("one")
    second.add("two")
    first.add("three")
    assert first.entries() == second.entries() == ["one", "two", "three"]


@settings(max_examples=25)
@given(st.lists(st.text(), max_size=10))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    path = tmp_path_factory.mktemp("home") / "prompts.jsonl"
    history = PromptHistory(path)
    for text in texts:
        history.add(text)
    wanted = list(dict.fromkeys(text for text in reversed(texts) if text.strip()))[::-1]
    assert PromptHistory(path).entries() == wanted


def test_a_line_that_was_cut_short_costs_only_itself(path: Path):
    history = PromptHistory(path)
    history.add("one")
    history.add("two")
    path.write_bytes(path.read_bytes()[:-4] + b"")
    assert history.entries() == ["one"]
    history.add("three")
    assert PromptHistory(path).entries() == ["one", "three"]


def test_foreign_bytes_are_passed_over(path: Path):
    path.parent.mkdir()
    path.write_bytes(b'\xff\xfe\n{"a": 1}\n"good"\n[[[\n\n3\n')
    assert PromptHistory(path).entries() == ["good"]


def test_only_the_newest_are_kept_and_the_file_does_not_grow_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompt_history, "KEPT", 10)
    history = PromptHistory(path)
    for number in range(45):
        history.add(f"prompt {number}")
        assert history.entries()[-1] == f"prompt {number}"
        assert len(path.read_text().splitlines()) <= 20
    assert history.entries() == [f"prompt {number}" for number in range(35, 45)]


def test_what_was_pasted_by_the_page_is_not_kept(path: Path):
    history = PromptHistory(path)
    history.add("x" * (prompt_history.LONGEST + 1))
    assert history.entries() == []


def test_apps_that_send_at_once_lose_nothing(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompt_history, "KEPT", 60)

    def send(name: int) -> None:
        history = PromptHistory(path)
        for number in range(15):
            history.add(f"{name} {number}")
            # Again and again, so that the file is written anew meanwhile.
            for _ in range(3):
                history.add("again")

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = PromptHistory(path).entries()
    assert len(kept) == 60
    assert "again" in kept
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_home_that_cannot_be_written_keeps_prompts_until_the_end(path: Path):
    path.parent.write_text("a file, no folder")
    history = PromptHistory(path)
    history.add("one")
    history.add("two")
    assert history.entries() == ["one", "two"]
    assert history.trouble is not None
    assert str(path) in history.trouble
