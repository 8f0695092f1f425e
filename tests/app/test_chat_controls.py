"""What a person can do in a conversation, over a scripted engine: send, stop, again, go on, edit, branch, take back."""

from pathlib import Path

import pytest

from gptoss_mlx.app.store import Store
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.driving import Desk, drive, said
from tests.app.scripted_engine import ScriptedLoad, final, thought

LONG = "word " * 3000


def test_a_message_is_answered_shown_and_saved(home: Path, tokenizer: Tokenizer):
    answer = "An **answer**\n\n```python\nprint(1)\n```\n\nwith all its bytes: é 漢字 \u200b x.  \n"
    load = ScriptedLoad(tokenizer, thought("Let me think.", answer))

    async def work(desk: Desk) -> None:
        await desk.type("hi there")
        await desk.press("enter")
        await desk.until_idle()
        await desk.until_shown("with all its bytes")
        assert "Thought for" in desk.screen
        assert "hi there" in desk.screen
        assert desk.draft == ""

    drive(home, load, work)
    with Store(home / "chats.sqlite3") as store:
        conversation = store.latest()
        assert conversation is not None
        assert conversation.title == "hi there"
        question, reply = store.path(conversation.id, conversation.leaf)
        assert question.text == "hi there"
        assert reply.answer == answer
        assert reply.reasoning == "Let me think."
        assert reply.state == "complete"
        assert reply.stats["reasoning_tokens"] > 0
        assert reply.reasoning_seconds is not None


def test_escape_stops_an_answer_and_keeps_what_came(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final(LONG), tokens_per_second=200)

    async def work(desk: Desk) -> None:
        await desk.say("talk")
        await desk.until_shown("word word")
        await desk.press("escape")
        await desk.until_idle()
        came = desk.path[-1]
        assert came.state == "stopped"
        assert came.answer.startswith("word word")
        assert came.answer != LONG
        await desk.until_shown("stopped")
        for _ in range(3):
            await desk.press("escape")
        assert desk.path[-1] == came
        assert desk.app.is_running

    drive(home, load, work)


def test_escape_stops_while_the_prompt_is_read(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("never said"), prefill_seconds=0.15, prefill_chunk=64)

    async def work(desk: Desk) -> None:
        await desk.say("read this " * 600)
        await desk.until_shown("Reading prompt")
        await desk.press("escape")
        await desk.until_idle()
        assert desk.path[-1].state == "stopped"
        assert desk.path[-1].answer == ""

    drive(home, load, work)


def test_answering_again_makes_a_branch_and_both_stay_reachable(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("first"), final("second"))

    async def work(desk: Desk) -> None:
        await desk.ask("one")
        await desk.press("tab", "r")
        await desk.until(lambda: desk.idle and said(desk) == ["one", "second"])
        await desk.until_shown("2/2")
        await desk.press("left_square_bracket")
        await desk.until(lambda: said(desk) == ["one", "first"])
        await desk.until_shown("1/2")
        assert "second" not in desk.screen
        await desk.press("right_square_bracket")
        await desk.until_shown("second")

    drive(home, load, work)


def test_a_stopped_answer_goes_on_where_it_was(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final(LONG), "and the rest.<|return|>", tokens_per_second=300)

    async def work(desk: Desk) -> None:
        await desk.say("talk")
        await desk.until_shown("word word")
        await desk.press("escape")
        await desk.until_idle()
        stopped = desk.path[-1]
        desk.app.action_continue_answer()
        await desk.until(lambda: desk.idle and desk.path[-1].state == "complete")
        assert desk.path[-1].id == stopped.id
        assert desk.path[-1].answer == stopped.answer + "and the rest."
        await desk.until_shown("and the rest.")
        assert "stopped" not in desk.screen
        desk.app.action_continue_answer()
        await desk.until_shown("the last answer is complete")

    drive(home, load, work)


def test_editing_an_earlier_message_begins_a_branch(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("to one"), final("to two"), final("to three"))

    async def work(desk: Desk) -> None:
        await desk.ask("one")
        await desk.ask("two")
        await desk.type("unsent")
        desk.app.chat.transcript.focus()
        await desk.press("home", "e")
        await desk.until(lambda: desk.draft == "one")
        await desk.until_shown("Editing an earlier message")
        await desk.say("three")
        await desk.until(lambda: desk.idle and said(desk) == ["three", "to three"])
        assert desk.draft == "unsent"
        desk.app.action_previous_branch()
        await desk.until(lambda: said(desk) == ["one", "to one", "two", "to two"])
        await desk.until_shown("to two")

    drive(home, load, work)


def test_escape_leaves_an_edit_and_brings_the_draft_back(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("to one"))

    async def work(desk: Desk) -> None:
        await desk.ask("one")
        await desk.type("draft")
        desk.app.action_edit_turn()
        await desk.until(lambda: desk.draft == "one")
        await desk.press("escape")
        await desk.until(lambda: desk.draft == "draft")
        assert said(desk) == ["one", "to one"]

    drive(home, load, work)


def test_undo_puts_the_message_back_into_the_composer(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("to one"), final("to two"), final("again"))

    async def work(desk: Desk) -> None:
        await desk.ask("one")
        await desk.ask("two")
        await desk.type("draft")
        desk.app.action_undo()
        await desk.until(lambda: desk.draft == "two\ndraft")
        assert said(desk) == ["one", "to one"]
        await desk.until(lambda: "to two" not in desk.screen)
        await desk.ask("three")
        desk.app.action_previous_branch()
        await desk.until(lambda: said(desk) == ["one", "to one", "two", "to two"])

    drive(home, load, work)


def test_undo_of_an_answer_under_way_stops_it_first(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final(LONG), tokens_per_second=200)

    async def work(desk: Desk) -> None:
        await desk.say("talk")
        await desk.until_shown("word word")
        desk.app.action_undo()
        await desk.until(lambda: desk.draft == "talk" and desk.path == [])
        assert desk.app.answers.running is None
        await desk.until(lambda: "word" not in desk.screen)

    drive(home, load, work)


@pytest.mark.slow
def test_answer_now_cuts_the_thinking_short(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, f"<|channel|>analysis<|message|>{'hm ' * 3000}", tokens_per_second=300)

    async def work(desk: Desk) -> None:
        await desk.say("think")
        await desk.until_shown("hm hm hm")
        await desk.press("ctrl+g")
        # The scripted model goes on with its text, now in the final channel.
        await desk.until(lambda: "Thought for" in desk.screen)
        await desk.press("escape")
        await desk.until_idle()
        assert desk.path[-1].reasoning.startswith("hm hm")
        # Cut between two tokens of a word, perhaps.
        assert desk.path[-1].answer.strip()
        assert set(desk.path[-1].answer) == set("hm ")

    drive(home, load, work)


def test_the_effort_is_a_key_away_and_kept_with_the_conversation(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("one"))

    async def work(desk: Desk) -> None:
        assert desk.app.chat_settings.effort == "medium"
        await desk.press("ctrl+t")
        assert desk.app.chat_settings.effort == "high"
        await desk.ask("hello")
        prompt = tokenizer.decode(load.loaded[0].scripted.prompts[0])
        assert "Reasoning: high" in prompt
        desk.app.action_new_chat()
        await desk.until(lambda: desk.path == [])
        assert desk.app.chat_settings.effort == "medium"

    drive(home, load, work)
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert latest.settings.effort == "high"


def test_nothing_said_yet_is_told_and_not_a_crash(home: Path, tokenizer: Tokenizer):
    async def work(desk: Desk) -> None:
        for deed in (
            "regenerate",
            "edit_turn",
            "undo",
            "continue_answer",
            "previous_branch",
            "next_branch",
            "copy_message",
        ):
            getattr(desk.app, f"action_{deed}")()
            await desk.until(lambda: "problem" in desk.app.chat.query_one("Notice").classes)
            await desk.press("escape")
        for deed in ("stop", "answer_now", "copy_code", "copy_chat", "toggle_reasoning"):
            getattr(desk.app, f"action_{deed}")()
        await desk.pilot.pause()
        assert desk.app.is_running

    drive(home, ScriptedLoad(tokenizer), work)
