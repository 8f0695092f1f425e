"""A conversation that no longer fits the context: it goes on without its oldest turns and says so, or stops."""

from pathlib import Path

import pytest

from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.store import Store
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final

LIMIT = 400

MESSAGE = "word " * 60


@pytest.fixture
def load(pocket_tokenizer: Tokenizer) -> ScriptedLoad:
    return ScriptedLoad(pocket_tokenizer, *[final("noted")] * 8, context_limit=LIMIT)


async def fill(desk: Desk, turns: int) -> None:
    await desk.until(lambda: desk.app.session.state == "ready")
    for number in range(turns):
        turn = await desk.ask(f"{number} {MESSAGE}")
        assert turn.state == "complete", turn.error


def test_a_conversation_whose_context_is_full_goes_on_and_says_what_it_left_out(home: Path, load: ScriptedLoad):
    async def work(desk: Desk) -> None:
        await fill(desk, 6)
        assert len(desk.path) == 12
        prompt = load.loaded[0].tokenizer.decode(load.loaded[0].scripted.prompts[-1])
        assert f"5 {MESSAGE}" in prompt
        assert f"0 {MESSAGE}" not in prompt
        dropped = desk.path[-1].stats["dropped"]
        assert dropped["turns"] >= 1
        await desk.until_shown(f"({dropped['tokens']:,} tokens) were left out of what the model read")
        used = desk.app.chat._status.status
        assert used.limit == LIMIT
        assert 0 < used.used < LIMIT

    drive(home, load, work)


@pytest.mark.slow
def test_an_old_chat_still_says_what_was_left_out(home: Path, load: ScriptedLoad):
    async def first(desk: Desk) -> None:
        await fill(desk, 5)

    async def again(desk: Desk) -> None:
        await desk.until_shown("left out of what the model read")

    drive(home, load, first)
    drive(home, load, again)
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert "dropped" in store.path(latest.id, latest.leaf)[-1].stats


def test_who_wants_an_error_at_a_full_context_gets_the_message_back_with_the_numbers(home: Path, load: ScriptedLoad):
    async def work(desk: Desk) -> None:
        await fill(desk, 3)
        await desk.say(MESSAGE * 2)
        await desk.until_shown("was loaded for 400: shorten it, take messages back")
        assert desk.draft == MESSAGE * 2
        assert len(desk.path) == 6

    drive(home, load, work, preferences=Preferences(overflow="error"))


def test_a_message_that_does_not_fit_by_itself_stands_in_the_composer_again(home: Path, load: ScriptedLoad):
    async def work(desk: Desk) -> None:
        await fill(desk, 2)
        await desk.say(MESSAGE * 9)
        await desk.until_shown("this message and the instructions alone are")
        assert desk.draft == MESSAGE * 9
        assert len(desk.path) == 4

    drive(home, load, work)
