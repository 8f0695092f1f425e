"""What the pocket model has read of a conversation is there after a restart, exactly, and never in the way."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx import load
from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.kept_reading import LEAST_TOKENS
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.kv_store import KVStore
from tests.app.driving import Desk, drive

GREEDY = Preferences(temperature=0.0, max_tokens=24, effort="none")

FORGETFUL = Preferences(temperature=0.0, max_tokens=24, effort="none", keep_read=False)

LONG = "What is 17 plus 25? " + "The sky is blue today. " * 120


async def first(desk: Desk) -> None:
    turn = await desk.ask(LONG)
    assert turn.stats["prompt_tokens"] > LEAST_TOKENS
    assert turn.stats["cached_tokens"] == 0


def talk(home: Path, *, before: Any = first, preferences: Preferences = GREEDY, between: Any = lambda: None) -> Turn:
    """Says something long, restarts, and gives the next answer."""
    answers = []

    async def second(desk: Desk) -> None:
        answers.append(await desk.ask("What is 3 plus 4?"))

    drive(home, load, before, model="pocket", preferences=preferences)
    between()
    drive(home, load, second, model="pocket", preferences=preferences)
    return answers[0]


async def told(desk: Desk, words: str) -> None:
    # Toasts are not painted in tests.
    await desk.until(lambda: any(words in note.message for note in desk.app._notifications))


def file_of(home: Path) -> Path:
    (file,) = (home / "kv").glob("chat-*.kv")
    return file


def test_the_first_answer_after_a_restart_reads_little_and_is_the_same(home: Path, tmp_path: Path):
    kept = talk(home)
    assert kept.stats["cached_tokens"] > LEAST_TOKENS
    cold = talk(tmp_path / "other", preferences=FORGETFUL)
    assert cold.stats["cached_tokens"] == 0
    assert cold.stats["prompt_tokens"] == kept.stats["prompt_tokens"]
    assert [message.tokens for message in kept.messages] == [message.tokens for message in cold.messages]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_changes_nothing(home: Path, damage: str):
    def spoil() -> None:
        file = file_of(home)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes({"flipped": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}[damage])

    answer = talk(home, between=spoil)
    assert answer.state == "complete" or answer.finish_reason == "length"
    assert answer.stats["cached_tokens"] == 0


def test_the_second_turn_shows_what_came_from_the_cache_and_the_size_on_disk(home: Path):
    async def work(desk: Desk) -> None:
        await first(desk)
        await desk.press("f2")
        turn = await desk.ask("And 3 plus 4?")
        assert turn.stats["cached_tokens"] > turn.stats["prompt_tokens"] * 0.9
        await desk.until_shown(f"from the cache {turn.stats['cached_tokens']:,} tokens")
        here = desk.app.chat.chat.id
        assert here is not None
        await desk.press("ctrl+n")
        await desk.until(lambda: (home / "kv").is_dir() and list((home / "kv").glob("chat-*.kv")))
        desk.app.open_conversation(here)
        await desk.until_shown("kept on disk")
        assert desk.app.chat._status.status.memory_bytes

    drive(home, load, work, model="pocket", preferences=GREEDY, size=(120, 40))


def test_a_conversation_is_saved_before_another_model_comes(home: Path):
    async def work(desk: Desk) -> None:
        await first(desk)
        old = desk.app.session.model
        desk.app._model_chosen("pocket")
        await desk.until(lambda: desk.app.session.model not in (None, old), 30)
        assert file_of(home).stat().st_size > 0
        turn = await desk.ask("What is 3 plus 4?")
        assert turn.stats["cached_tokens"] > LEAST_TOKENS

    drive(home, load, work, model="pocket", preferences=GREEDY)


def test_a_short_conversation_gets_no_file(home: Path):
    async def work(desk: Desk) -> None:
        await desk.ask("What is 17 plus 25?")

    drive(home, load, work, model="pocket", preferences=GREEDY)
    assert not list(home.glob("kv/*"))


def test_a_conversation_that_is_gone_for_good_leaves_no_file(home: Path):
    drive(home, load, first, model="pocket", preferences=GREEDY)
    own = file_of(home)
    gone = own.with_name("chat-99.kv")
    foreign = own.with_name("file-abc.kv")
    for other in (gone, foreign):
        other.write_bytes(own.read_bytes())

    async def work(desk: Desk) -> None:
        await desk.until(lambda: not gone.exists())

    drive(home, load, work, model="pocket", preferences=GREEDY)
    assert own.exists()
    assert foreign.exists()

    async def without(desk: Desk) -> None:
        await desk.until(lambda: not own.exists())

    drive(home, load, without, model="pocket", preferences=FORGETFUL)
    assert foreign.exists()


def test_a_disk_that_takes_nothing_is_told_once_and_disturbs_nobody(home: Path):
    (home / "kv").write_text("this is no folder")

    async def work(desk: Desk) -> None:
        await first(desk)
        here = desk.app.chat.chat.id
        assert here is not None
        await desk.press("ctrl+n")
        await told(desk, "could not be kept")
        desk.app.open_conversation(here)
        await desk.until(lambda: len(desk.path) == 2)
        turn = await desk.ask("And 3 plus 4?")
        assert turn.stats["cached_tokens"] > LEAST_TOKENS

    drive(home, load, work, model="pocket", preferences=GREEDY)


def test_ctrl_c_leaves_without_waiting_for_what_was_read(home: Path, monkeypatch: pytest.MonkeyPatch):
    slow = threading.Event()

    def save(self: KVStore, *arguments: Any, **more: Any) -> None:
        slow.wait(20)

    monkeypatch.setattr(KVStore, "save", save)

    async def work(desk: Desk) -> None:
        await first(desk)
        await desk.press("ctrl+q")
        await told(desk, "Keeping what was read")
        assert not desk.app._exit
        await desk.press("ctrl+c")
        await desk.until(lambda: desk.app._exit, 3)
        slow.set()

    drive(home, load, work, model="pocket", preferences=GREEDY)


def test_a_stop_does_not_wait_for_what_is_being_loaded(home: Path, monkeypatch: pytest.MonkeyPatch):
    drive(home, load, first, model="pocket", preferences=GREEDY)
    slow = threading.Event()

    def read(self: KVStore, *arguments: Any) -> int:
        slow.wait(20)
        return 0

    monkeypatch.setattr(KVStore, "load", read)

    async def work(desk: Desk) -> None:
        await desk.until(lambda: desk.app.session.state == "ready")
        await desk.say("What is 3 plus 4?")
        await desk.until(lambda: desk.app.answers.running is not None)
        await asyncio.sleep(0.2)
        assert desk.path[-1].state == "running"
        await desk.press("escape")
        await desk.until(lambda: desk.idle, 3)
        assert desk.path[-1].state == "stopped"
        slow.set()

    drive(home, load, work, model="pocket", preferences=GREEDY)


def test_a_model_that_idles_leaves_memory_and_finds_what_it_had_read(home: Path, monkeypatch: pytest.MonkeyPatch):
    preferences = Preferences(temperature=0.0, max_tokens=24, effort="none", unload_after_minutes=2 / 60)

    async def work(desk: Desk) -> None:
        await first(desk)
        await desk.until_shown("unloaded (idle); it loads again with the next message", 20)
        assert file_of(home).exists()
        await desk.until_shown("pocket unloaded (idle)")
        turn = await desk.ask("What is 3 plus 4?")
        assert turn.stats["cached_tokens"] > LEAST_TOKENS
        await desk.until(lambda: "unloaded" not in desk.screen)

    drive(home, load, work, model="pocket", preferences=preferences)
