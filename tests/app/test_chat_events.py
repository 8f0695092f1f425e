"""What happens to a conversation: models that load, fail and change, long prompts, leaving, coming back."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.place import Place, Spot
from gptoss_mlx.app.store import Store
from gptoss_mlx.errors import ModelNotFound
from gptoss_mlx.harmony import Message
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.driving import Desk, drive, said
from tests.app.scripted_engine import ScriptedLoad, final, thought

LONG = "word " * 3000


def test_a_message_sent_while_the_model_loads_waits_and_is_answered(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("answered"))
    load.allowed.clear()

    async def work(desk: Desk) -> None:
        await desk.type("early")
        await desk.press("enter")
        await desk.until_shown("Your message waits: scripted is being loaded (50 %)")
        await desk.type("next")
        assert desk.draft == "next"
        assert said(desk) == ["early"]
        load.allowed.set()
        await desk.until(lambda: desk.idle and said(desk) == ["early", "answered"])
        await desk.until(lambda: "waits" not in desk.screen)
        assert desk.draft == "next"

    drive(home, load, work)


def test_escape_lets_a_waiting_message_go_unanswered(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("answered"))
    load.allowed.clear()

    async def work(desk: Desk) -> None:
        await desk.say("early")
        await desk.until_shown("Your message waits")
        await desk.press("escape")
        await desk.until_shown("no answer yet")
        load.allowed.set()
        await desk.until(lambda: desk.app.session.state == "ready")
        await desk.pilot.pause(0.1)
        assert said(desk) == ["early"]
        desk.app.action_regenerate()
        await desk.until(lambda: desk.idle and said(desk) == ["early", "answered"])

    drive(home, load, work)


def test_messages_sent_during_an_answer_are_answered_after_it(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("one " * 60), final("two"), pause_after=20)

    async def work(desk: Desk) -> None:
        await desk.say("first")
        await desk.until_shown("one one")
        await desk.say("second")
        await desk.until_shown("another answer comes first")
        load.go.set()
        await desk.until(lambda: desk.idle and len(desk.path) == 4)
        assert said(desk) == ["first", "one " * 60, "second", "two"]

    drive(home, load, work)


def test_a_model_that_cannot_be_loaded_is_told_and_another_answers(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("answered"))
    load.error = ModelNotFound("there is no model 'scripted' here")

    async def work(desk: Desk) -> None:
        await desk.until_shown("there is no model")
        await desk.say("hello")
        await desk.until_shown("could not be loaded")
        desk.app.session.open("other")
        await desk.until(lambda: desk.idle and said(desk) == ["hello", "answered"])
        assert desk.path[-1].model == "other"

    drive(home, load, work)


@pytest.mark.slow
def test_switching_models_in_mid_answer_keeps_the_conversation(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final(LONG), final("second"), tokens_per_second=200)

    async def work(desk: Desk) -> None:
        await desk.say("hello")
        await desk.until_shown("word word")
        load.scripts = [final("from the other")]
        desk.app.session.open("other")
        await desk.until_idle()
        assert desk.path[-1].state == "stopped"
        assert desk.path[-1].answer.startswith("word word")
        await desk.ask("again")
        assert said(desk)[2:] == ["again", "from the other"]
        prompt = tokenizer.decode(load.loaded[1].scripted.prompts[0])
        assert "word word" in prompt

    drive(home, load, work)


def test_an_engine_that_fails_shows_its_error_and_the_chat_goes_on(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("before it fails " * 20), tokens_per_second=500, fail_at=30)

    async def work(desk: Desk) -> None:
        await desk.until(lambda: desk.app.session.state == "ready")
        load.scripts = [final("sound again")]
        await desk.say("hello")
        await desk.until_idle()
        failed = desk.path[-1]
        assert failed.state == "failed"
        assert failed.error is not None
        assert "the device is gone" in failed.error
        assert failed.answer.startswith("before it fails")
        await desk.until_shown("the device is gone")
        await desk.until(lambda: len(load.loaded) == 2 and desk.app.session.state == "ready")
        desk.app.action_regenerate()
        await desk.until(lambda: desk.idle and said(desk) == ["hello", "sound again"])

    drive(home, load, work)


def test_a_message_that_does_not_fit_comes_back_with_the_numbers(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("short"), context_limit=200)
    text = "many words and more " * 60

    async def work(desk: Desk) -> None:
        await desk.until(lambda: desk.app.session.state == "ready")
        await desk.say(text)
        await desk.until_shown("was loaded for 200")
        assert desk.draft == text
        assert desk.path == []
        desk.app.chat.set_draft("")
        await desk.ask("few words")
        assert said(desk) == ["few words", "short"]
        await desk.until(lambda: "was loaded" not in desk.screen)

    drive(home, load, work)
    with Store(home / "chats.sqlite3") as store:
        assert len(store.list()) == 1


def test_a_file_that_is_not_there_brings_the_message_back(home: Path, tokenizer: Tokenizer):
    async def work(desk: Desk) -> None:
        await desk.say("read @./missing.txt please")
        await desk.until_shown("there is no file ./missing.txt")
        assert desk.draft == "read @./missing.txt please"

    drive(home, ScriptedLoad(tokenizer), work)


def test_an_attached_file_is_read_by_the_model_and_its_cost_is_shown(
    home: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("the secret is 4711\n")
    load = ScriptedLoad(tokenizer, final("read"))

    async def work(desk: Desk) -> None:
        await desk.until(lambda: desk.app.session.state == "ready")
        await desk.ask("see @notes.txt")
        (attachment,) = desk.path[0].attachments
        assert attachment.path == "notes.txt"
        assert attachment.tokens is not None
        assert "the secret is 4711" in tokenizer.decode(load.loaded[0].scripted.prompts[0])
        await desk.until_shown(f"{attachment.tokens} tokens")

    drive(home, load, work)


def test_a_malformed_answer_keeps_its_text_and_says_so_quietly(home: Path, tokenizer: Tokenizer):
    # No channel, a header that is cut off, and an end that never comes.
    load = ScriptedLoad(
        tokenizer, "<|message|>bare<|end|><|start|>assistant<|channel|>final<|channel|>final<|message|>x<|return|>"
    )

    async def work(desk: Desk) -> None:
        await desk.ask("hello")
        assert "bare" in "".join(message.text for message in desk.path[-1].messages)
        assert desk.path[-1].stats["warnings"]
        await desk.until_shown("irregular")

    drive(home, load, work)


def test_an_answer_goes_on_behind_another_conversation(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, thought("hm " * 40, "one " * 150), final("two"), pause_after=120)

    async def work(desk: Desk) -> None:
        await desk.say("first")
        await desk.until_shown("one one")
        first = desk.app.chat.chat.id
        assert first is not None
        await desk.press("ctrl+n")
        await desk.until(lambda: desk.path == [])
        assert "one one" not in desk.screen
        await desk.say("elsewhere")
        await desk.until_shown("another answer comes first")
        desk.app.open_conversation(first)
        await desk.until_shown("one one")
        load.go.set()
        await desk.until_idle()
        assert desk.path[-1].answer == "one " * 150
        assert desk.path[-1].reasoning == "hm " * 40
        shown = desk.app.chat.transcript.view(desk.path[-1].id)
        assert shown is not None
        assert shown.turn == desk.path[-1]
        await desk.until(lambda: desk.app.answers.running is None)
        desk.app.open_conversation(first + 1)
        await desk.until(lambda: said(desk) == ["elsewhere", "two"])

    drive(home, load, work)


@pytest.mark.slow
def test_drafts_stay_with_their_conversations_and_the_last_one_comes_back(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("one"), final("two"))

    async def before(desk: Desk) -> None:
        await desk.ask("first")
        first = desk.app.chat.chat.id
        assert first is not None
        await desk.type("draft of the first")
        desk.app.action_new_chat()
        await desk.until(lambda: desk.path == [] and desk.draft == "")
        await desk.type("draft of the new")
        desk.app.open_conversation(first)
        await desk.until(lambda: desk.draft == "draft of the first")

    async def after(desk: Desk) -> None:
        await desk.until(lambda: said(desk) == ["first", "one"])
        assert desk.draft == "draft of the first"
        desk.app.action_new_chat()
        await desk.until(lambda: desk.draft == "draft of the new")

    drive(home, load, before)
    drive(home, load, after)


def test_leaving_stops_the_answer_and_saves_it(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final(LONG), tokens_per_second=200)

    async def work(desk: Desk) -> None:
        await desk.say("talk")
        await desk.until_shown("word word")
        await desk.press("ctrl+q")

    drive(home, load, work)
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        turn = store.path(latest.id, latest.leaf)[-1]
        assert turn.state == "stopped"
        assert turn.answer.startswith("word word")


def test_ctrl_c_stops_then_leaves_when_pressed_twice_with_nothing_typed(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final(LONG), tokens_per_second=200)

    async def work(desk: Desk) -> None:
        await desk.say("talk")
        await desk.until_shown("word word")
        await desk.press("ctrl+c")
        await desk.until_idle()
        await desk.type("x")
        await desk.press("ctrl+c", "ctrl+c")
        await desk.until_shown("Ctrl+Q leaves")
        assert desk.draft == "x"
        desk.app.chat.set_draft("")
        await desk.press("ctrl+c")
        await desk.until_shown("Ctrl+C again leaves")
        assert desk.app.is_running
        await desk.press("ctrl+c")
        for _ in range(100):
            if desk.app._exit:
                break
            await asyncio.sleep(0.02)
        assert desk.app._exit

    drive(home, load, work)


def test_the_place_survives_damage_and_other_apps(home: Path):
    path = home / "place.json"
    for damage in (
        b"",
        b"{",
        b"[]",
        b'{"spots": 3, "conversation": "x"}',
        b"\xff\xfe",
        b'{"spots": {"1": {"odd": 1}}}',
    ):
        path.write_bytes(damage)
        assert Place(path).spot(1) == Spot()
    one, other = Place(path), Place(path)
    one.leave(1, Spot("a draft \ud800", lines_below=3))
    one.save()
    other.leave(2, Spot("another"))
    other.save()
    again = Place(path)
    assert again.spot(1) == Spot("a draft \ud800", lines_below=3)
    assert again.spot(2).draft == "another"
    assert again.conversation == 2
    assert [file.name for file in home.iterdir()] == ["place.json"]


@pytest.mark.slow
def test_an_answer_of_another_window_is_followed_and_not_disturbed(home: Path, tokenizer: Tokenizer):
    with Store(home / "chats.sqlite3") as other:
        conversation = other.create(date="2026-01-31")
        question = other.add_turn(conversation.id, Turn(0, None, "user", (Message.user("hi"),), text="hi"))
        running = other.add_turn(
            conversation.id, Turn(0, question.id, "assistant", (Message.assistant("so far"),), state="running")
        )

        async def work(desk: Desk) -> None:
            desk.app.open_conversation(conversation.id)
            await desk.until_shown("so far")
            await desk.say("me too")
            await desk.until_shown("another window of gptoss answers")
            assert desk.draft == "me too"
            other.save_turn(replace(running, messages=(Message.assistant("so far and further"),)))
            await desk.until_shown("so far and further")
            other.save_turn(replace(running, messages=(Message.assistant("all of it"),), state="complete"))
            await desk.until_shown("all of it")
            await desk.press("enter")
            await desk.until(lambda: desk.idle and said(desk) == ["hi", "all of it", "me too", "mine"])

        drive(home, ScriptedLoad(tokenizer, final("mine")), work)


def test_a_conversation_deleted_while_its_message_waits_is_let_go(home: Path, tokenizer: Tokenizer):
    load = ScriptedLoad(tokenizer, final("answered"))
    load.allowed.clear()

    async def work(desk: Desk) -> None:
        await desk.say("early")
        await desk.until_shown("Your message waits")
        waiting = desk.app.chat.chat.id
        assert waiting is not None
        desk.app.action_new_chat()
        await desk.until(lambda: desk.path == [])
        desk.app.store.delete(waiting)
        load.allowed.set()
        await desk.until(lambda: desk.app.session.state == "ready")
        assert (await desk.ask("another")).answer == "answered"

    drive(home, load, work)
