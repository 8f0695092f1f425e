"""What the app says by itself of what cannot be kept, and what it asks before it leaves."""

from pathlib import Path

import pytest

from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.screens.question import Question
from gptoss_mlx.app.store import Store
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final


@pytest.fixture
def load(pocket_tokenizer: Tokenizer) -> ScriptedLoad:
    return ScriptedLoad(pocket_tokenizer, final("said"))


def test_who_leaves_with_chats_in_memory_only_is_asked_and_may_stay(home: Path, load: ScriptedLoad):
    blocked = home / "blocked"
    blocked.write_text("this is no folder")
    store = Store(blocked / "chats.sqlite3")

    async def work(desk: Desk) -> None:
        await desk.ask("hello")
        await desk.until_shown("kept in memory")
        assert store.unsaved == 2
        await desk.press("ctrl+q")
        await desk.until_shown("2 messages are in memory only, and lost when you leave")
        await desk.press("n")
        await desk.until(lambda: desk.app.screen is desk.app.chat)
        assert desk.app.is_running
        await desk.press("ctrl+q")
        await desk.until(lambda: isinstance(desk.app.screen, Question))
        await desk.press("y")
        await desk.until(lambda: desk.app._exit)

    drive(home, load, work, store=store)


@pytest.mark.slow
def test_chats_in_memory_are_saved_by_themselves_once_they_can_be(home: Path, load: ScriptedLoad):
    blocked = home / "blocked"
    blocked.write_text("this is no folder")
    store = Store(blocked / "chats.sqlite3")

    async def work(desk: Desk) -> None:
        await desk.ask("hello")
        await desk.until_shown("kept in memory")
        blocked.unlink()
        await desk.until(lambda: store.trouble is None)
        await desk.until(lambda: "kept in memory" not in " ".join(desk.screen.split()))
        assert store.unsaved == 0

    drive(home, load, work, store=store)
    with Store(blocked / "chats.sqlite3") as again:
        assert again.latest() is not None


def test_a_prompt_that_cannot_be_kept_is_told(home: Path, load: ScriptedLoad):
    (home / "prompts.jsonl").mkdir()

    async def work(desk: Desk) -> None:
        await desk.ask("hello")
        await desk.until_shown("what you send is not kept")

    drive(home, load, work)


def test_a_cut_answer_keeps_the_warnings_of_what_the_model_broke(home: Path, pocket_tokenizer: Tokenizer):
    script = "<|channel|>analysis<|message|>x<|channel|>final<|message|>" + "on " * 200
    load = ScriptedLoad(pocket_tokenizer, script)

    async def work(desk: Desk) -> None:
        turn = await desk.ask("hello")
        assert turn.state == "stopped"
        assert turn.stats["warnings"]
        await desk.until_shown("irregular format")

    drive(home, load, work, preferences=Preferences(max_tokens=40))
