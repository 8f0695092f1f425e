"""Long conversations and long reasoning: opened at once, scrolled, kept whole."""

import asyncio
import time
from pathlib import Path

import pytest

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.store import Store
from gptoss_mlx.harmony import ANALYSIS, Message
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final, thought

TURNS = 500


def fill(store: Store, turns: int) -> int:
    """A conversation of that many turns."""
    conversation = store.create(date="2026-01-31")
    leaf: int | None = None
    for number in range(turns // 2):
        text = f"question {number}"
        leaf = store.add_turn(conversation.id, Turn(0, leaf, "user", (Message.user(text),), text=text)).id
        said = (
            Message.assistant("I think. " * 20, channel=ANALYSIS),
            Message.assistant(f"# Answer {number}\n\nSome **text**.\n\n```python\nprint({number})\n```\n"),
        )
        leaf = store.add_turn(conversation.id, Turn(0, leaf, "assistant", said, model="scripted")).id
    return conversation.id


def test_a_conversation_of_500_turns_opens_within_a_second_and_scrolls(home: Path, pocket_tokenizer: Tokenizer):
    with Store(home / "chats.sqlite3") as store:
        long = fill(store, TURNS)
    load = ScriptedLoad(pocket_tokenizer, final("and one more"), context_limit=100_000)

    async def work(desk: Desk) -> None:
        await desk.until(lambda: desk.app.chat.arrived and desk.app.session.state == "ready")
        began, used = time.perf_counter(), time.process_time()
        desk.app.open_conversation(long)
        while "Answer 249" not in desk.screen:
            assert time.perf_counter() - began < 20
            await asyncio.sleep(0.005)
        # Time that other processes took from this one does not count.
        assert min(time.perf_counter() - began, time.process_time() - used) < 1
        assert len(desk.path) == TURNS
        desk.app.chat.transcript.focus()
        for _ in range(12):
            await desk.press("pageup")
        await desk.until(lambda: "Answer 249" not in desk.screen)
        await desk.press("home")
        await desk.until_shown("question 0")
        await desk.press("end")
        await desk.until_shown("Answer 249")
        await desk.ask("more")
        assert desk.path[-1].answer == "and one more"

    drive(home, load, work)


@pytest.mark.slow
def test_a_reasoning_of_5000_tokens_folds_and_is_kept_whole(home: Path, pocket_tokenizer: Tokenizer):
    reasoning = "".join(f"Step {number}: look at [b]it[/b] again.\n" for number in range(250))
    load = ScriptedLoad(pocket_tokenizer, thought(reasoning, "Done."), context_limit=32_000, tokens_per_second=4000)
    assert len(pocket_tokenizer.encode(reasoning)) >= 5000

    async def work(desk: Desk) -> None:
        await desk.say("think hard")
        await desk.until(lambda: desk.idle and desk.path and desk.path[-1].role == "assistant", 30)
        assert desk.path[-1].reasoning == reasoning
        assert desk.path[-1].answer == "Done."
        await desk.until(lambda: "Thought for" in desk.screen and "Done." in desk.screen)
        assert "Step" not in desk.screen
        await desk.press("ctrl+o")
        await desk.until_shown("[b]it[/b]")
        await desk.press("ctrl+o")
        await desk.until(lambda: "Step" not in desk.screen)

    drive(home, load, work)
