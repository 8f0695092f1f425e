"""What the pocket model has read of a conversation is there after a restart, exactly, and never in the way."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from textual.message import Message as Note

from gptoss_mlx import load
from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.kept_reading import LEAST_TOKENS
from gptoss_mlx.app.messages import TurnSpeed
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


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which something long was said, and the app left."""
    home = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("GPTOSS_HOME", str(home))
        drive(home, load, first, model="pocket", preferences=GREEDY)
    return home


@pytest.fixture
def again(home: Path, left: Path) -> Path:
    """A copy of it, where the app is started again."""
    return Path(shutil.copytree(left, home, dirs_exist_ok=True))


def next_answer(home: Path, preferences: Preferences = GREEDY) -> Turn:
    """Restarts, and gives the next answer."""
    answers = []

    async def second(desk: Desk) -> None:
        answers.append(await desk.ask("What is 3 plus 4?"))

    drive(home, load, second, model="pocket", preferences=preferences)
    return answers[0]


async def told(desk: Desk, words: str) -> None:
    # Toasts are not painted in tests.
    await desk.until(lambda: any(words in note.message for note in desk.app._notifications))


def file_of(home: Path) -> Path:
    (file,) = (home / "kv").glob("chat-*.kv")
    return file


@pytest.mark.slow
def test_the_first_answer_after_a_restart_reads_little_and_is_the_same(again: Path, left: Path, tmp_path: Path):
    kept = next_answer(again)
    assert kept.stats["cached_tokens"] > LEAST_TOKENS
    other = Path(shutil.copytree(left, tmp_path / "other"))
    cold = next_answer(other, FORGETFUL)
    assert cold.stats["cached_tokens"] == 0
    assert cold.stats["prompt_tokens"] == kept.stats["prompt_tokens"]
    assert [message.tokens for message in kept.messages] == [message.tokens for message in cold.messages]


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_file_changes_nothing(again: Path, damage: str):
    file = file_of(again)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    answer = next_answer(again)
    assert answer.error is None
    assert answer.answer
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_answer_under_way_is_stopped_and_kept_when_another_model_comes(home: Path, monkeypatch: pytest.MonkeyPatch):
    async def work(desk: Desk) -> None:
        await desk.until(lambda: desk.app.session.state == "ready")
        old = desk.app.session.model
        heard = desk.app.answer_note

        def switch(conversation: int, note: Note) -> None:
            if isinstance(note, TurnSpeed) and desk.app.session.model is old:
                desk.app._model_chosen("pocket")
            heard(conversation, note)

        monkeypatch.setattr(desk.app, "answer_note", switch)
        await desk.say(LONG)
        await desk.until(lambda: desk.app.session.model not in (None, old), 30)
        assert desk.idle
        assert desk.path[-1].state in ("stopped", "complete")
        assert desk.path[-1].error is None
        assert file_of(home).stat().st_size > 0

    drive(home, load, work, model="pocket", preferences=Preferences(temperature=0.0, max_tokens=200))


def test_a_short_conversation_gets_no_file(home: Path):
    async def work(desk: Desk) -> None:
        await desk.ask("What is 17 plus 25?")

    drive(home, load, work, model="pocket", preferences=GREEDY)
    assert not list(home.glob("kv/*"))


def test_a_conversation_that_is_gone_for_good_leaves_no_file(again: Path):
    own = file_of(again)
    gone = own.with_name("chat-99.kv")
    foreign = own.with_name("file-abc.kv")
    for other in (gone, foreign):
        other.write_bytes(own.read_bytes())

    async def work(desk: Desk) -> None:
        await desk.until(lambda: not gone.exists())

    drive(again, load, work, model="pocket", preferences=GREEDY)
    assert own.exists()
    assert foreign.exists()

    async def without(desk: Desk) -> None:
        await desk.until(lambda: not own.exists())

    drive(again, load, without, model="pocket", preferences=FORGETFUL)
    assert foreign.exists()


@pytest.mark.slow
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


def test_a_stop_does_not_wait_for_what_is_being_loaded(again: Path, monkeypatch: pytest.MonkeyPatch):
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

    drive(again, load, work, model="pocket", preferences=GREEDY)


@pytest.mark.slow
def test_a_model_that_idles_leaves_memory_and_finds_what_it_had_read(home: Path):
    preferences = Preferences(temperature=0.0, max_tokens=24, effort="none", unload_after_minutes=4 / 60)

    async def work(desk: Desk) -> None:
        await first(desk)
        await desk.until_shown("unloaded (idle); it loads again with the next message", 20)
        assert file_of(home).exists()
        await desk.until_shown("pocket unloaded (idle)")
        turn = await desk.ask("What is 3 plus 4?")
        assert turn.stats["cached_tokens"] > LEAST_TOKENS
        await desk.until(lambda: "unloaded" not in desk.screen)

    drive(home, load, work, model="pocket", preferences=preferences)
