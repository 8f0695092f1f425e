"""The app over the real pocket model: loaded by itself, asked, stopped, asked again, reopened."""

from pathlib import Path

from gptoss_mlx import load
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.store import Store
from tests.app.driving import Desk, drive

GREEDY = Preferences(temperature=0.0)


def test_the_pocket_model_answers_in_a_conversation(home: Path):
    async def work(desk: Desk) -> None:
        await desk.say("What is 17 plus 25?")
        await desk.until(lambda: desk.idle and len(desk.path) == 2, 60)
        assert "42" in desk.path[-1].answer
        await desk.until_shown("42")
        assert desk.path[-1].model == "pocket"
        assert desk.path[-1].stats["generated_tokens"] > 0
        first = desk.path[-1].answer
        desk.app.action_regenerate()
        await desk.until(lambda: desk.idle and len(desk.path) == 2 and desk.path[-1].id != 0, 60)
        await desk.until_shown("2/2", 60)
        await desk.until(lambda: desk.idle, 60)
        assert desk.path[-1].answer == first
        desk.app.chat.set_draft("What is the capital of France?")
        await desk.press("enter")
        await desk.until(lambda: len(desk.path) == 4, 60)
        await desk.press("escape")
        await desk.until(lambda: desk.idle, 60)
        assert desk.path[-1].state in ("stopped", "complete")
        if desk.path[-1].state == "stopped" and desk.path[-1].messages:
            desk.app.action_continue_answer()
            await desk.until(lambda: desk.idle and desk.path[-1].state == "complete", 60)

    drive(home, load, work, model="pocket", preferences=GREEDY)
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert latest.title == "What is 17 plus 25?"
        assert latest.model == "pocket"


def test_a_message_sent_before_the_pocket_model_is_there_is_answered(home: Path):
    async def work(desk: Desk) -> None:
        await desk.say("What is 3 plus 4?")
        await desk.until(lambda: desk.idle and len(desk.path) == 2, 60)
        assert "7" in desk.path[-1].answer

    drive(home, load, work, model="pocket", preferences=GREEDY)
