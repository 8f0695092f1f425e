"""Conversations are kept, found, changed and deleted; what several apps and threads do at once is kept, too."""

import dataclasses
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_mlx.app.conversation import Attachment, ChatSettings, Turn
from gptoss_mlx.app.store import Store
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import ANALYSIS, COMMENTARY, Message


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "chats.sqlite3") as store:
        yield store


def user(text: str, parent: int | None = None, **more) -> Turn:
    return Turn(0, parent, "user", (Message.user(text),), text=text, **more)


def answer(text: str, parent: int, **more) -> Turn:
    return Turn(0, parent, "assistant", (Message.assistant(text),), **more)


def say(store: Store, question: str, reply: str) -> int:
    """A conversation with one question and its answer."""
    conversation = store.create(date="2026-01-31").id
    asked = store.add_turn(conversation, user(question))
    store.add_turn(conversation, answer(reply, asked.id))
    return conversation


def found(store: Store, words: str) -> list[int]:
    return [summary.id for summary in store.list(words)]


def test_everything_about_a_turn_comes_back(store: Store):
    conversation = store.create(date="2026-01-31", settings=ChatSettings(effort="high", temperature=0.5), model="20b")
    messages = (
        Message.assistant("thinking \x00 \ud800 é", channel=ANALYSIS, tokens=(200000, 0, 4294967295)),
        Message.assistant('{"a": 1}', channel=COMMENTARY, recipient="functions.f", content_type="json", tokens=()),
        Message.tool("functions.f", "result"),
        Message.assistant("The answer.", tokens=(1, 2, 3)),
    )
    asked = store.add_turn(
        conversation.id, user("See @a.txt", attachments=(Attachment("a.txt", "text\r\n", 3), Attachment("b", "", None)))
    )
    turn = Turn(
        0,
        asked.id,
        "assistant",
        messages,
        state="failed",
        created=12.5,
        model="20b",
        reasoning_seconds=6.25,
        finish_reason="cancelled",
        stats={"prompt_tokens": 7, "ttft_seconds": 0.5},
        error="The engine stopped.",
    )
    kept = store.add_turn(conversation.id, turn)
    assert kept == dataclasses.replace(turn, id=kept.id)
    assert store.path(conversation.id, kept.id) == [asked, kept]
    found = store.get(conversation.id)
    assert (found.date, found.model, found.leaf) == ("2026-01-31", "20b", kept.id)
    assert found.settings == ChatSettings(effort="high", temperature=0.5)


def test_a_first_message_gives_the_title_and_a_title_of_the_users_stays(store: Store):
    conversation = store.create(date="2026-01-31").id
    asked = store.add_turn(
        conversation, user("\n# What is   a sink, and why is it there at all, in every single layer?\nMore")
    )
    assert store.get(conversation).title == "What is a sink, and why is it there at all, in every single…"
    store.rename(conversation, " Sinks\n today ")
    store.add_turn(conversation, user("Another", asked.id))
    assert store.get(conversation).title == "Sinks today"
    store.rename(conversation, "")
    assert store.get(conversation).title.startswith("What is a sink")


def test_a_message_that_is_only_a_file_gives_its_name_as_title(store: Store):
    conversation = store.create(date="2026-01-31").id
    store.add_turn(conversation, user(" ", attachments=(Attachment("notes.txt", "n"),)))
    assert store.get(conversation).title == "notes.txt"


def test_the_list_is_newest_first_and_leaves_out_what_was_never_used(store: Store):
    first, second = say(store, "one", "1"), say(store, "two", "2")
    store.create(date="2026-01-31")
    assert found(store, "") == [second, first]
    leaf = store.get(first).leaf
    store.add_turn(first, user("once more", leaf))
    assert found(store, "") == [first, second]
    assert [summary.turns for summary in store.list()] == [3, 2]
    latest = store.latest()
    assert latest is not None
    assert latest.id == first
    assert [summary.id for summary in store.list(limit=1)] == [first]


def test_an_empty_store_has_no_latest_conversation(store: Store):
    assert store.latest() is None
    assert store.list() == store.list("word") == []


@pytest.mark.parametrize(
    ("words", "matches"),
    [
        ("café", True),
        ("CAFE", True),
        ("caf", True),
        ("afé", False),
        ("sunday café", True),
        ("sunday absent", False),
        ('"in the old"', True),
        ('"the in old"', False),
        ("snake_ca", True),
        ("-> x", True),
        ("<- x", False),
        ("タワ", True),
        ("東京タワー", True),
        ("京東", False),
        ('"', True),
        ("* AND (", False),
        ("sunday*", True),
        ("NEAR(sunday)", False),
        ("secret", False),
        ("notes.txt", True),
        ("content", False),
    ],
)
def test_words_are_found_by_their_beginnings_whatever_case_and_accents(store: Store, words: str, matches: bool):
    conversation = store.create(date="2026-01-31").id
    asked = store.add_turn(
        conversation, user("Meet in the old café? 東京タワー", attachments=(Attachment("notes.txt", "content"),))
    )
    messages = (Message.assistant("secret", channel=ANALYSIS), Message.assistant("On Sunday: snake_case -> x"))
    store.add_turn(conversation, Turn(0, asked.id, "assistant", messages))
    say(store, "Something else", "Quite")
    assert (conversation in found(store, words)) == matches


def test_a_snippet_shows_the_words_where_they_were_said(store: Store):
    say(store, "question", f"{'before ' * 100}the cafe\u0301 and\nthe Café {'after ' * 100}")
    summary = store.list("cafe")[0]
    marked = [summary.snippet[start:end] for start, end in summary.matches]
    assert marked == ["café", "Café"]
    assert len(summary.snippet) <= 120
    assert summary.snippet[0] == summary.snippet[-1] == "…"
    assert "\n" not in summary.snippet


def test_a_title_is_found_and_its_old_form_is_not(store: Store):
    conversation = say(store, "question", "answer")
    store.rename(conversation, "Elephants")
    assert found(store, "eleph") == [conversation]
    assert store.list("eleph")[0].snippet == ""
    store.rename(conversation, "Giraffes")
    assert found(store, "eleph") == []


def test_an_answer_is_found_when_it_is_done_and_by_its_last_text(store: Store):
    conversation = store.create(date="2026-01-31").id
    asked = store.add_turn(conversation, user("question"))
    turn = store.add_turn(conversation, answer("early", asked.id, state="running"))
    assert store.list()[0].running
    store.save_turn(dataclasses.replace(turn, messages=(Message.assistant("early and late"),), state="complete"))
    assert found(store, "late") == [conversation]
    store.save_turn(dataclasses.replace(turn, messages=(Message.assistant("other"),), state="complete"))
    assert found(store, "late") == []
    assert not store.list()[0].running


def test_a_deleted_conversation_is_gone_and_comes_back_whole(store: Store):
    conversation = say(store, "zebra", "stripes")
    path = store.path(conversation, store.get(conversation).leaf)
    store.delete(conversation)
    assert store.list() == store.list("zebra") == []
    assert [summary.id for summary in store.list("zebra", deleted=True)] == [conversation]
    with pytest.raises(UsageError, match="was deleted; restore it first"):
        store.get(conversation)
    store.restore(conversation)
    assert found(store, "zebra") == [conversation]
    assert store.path(conversation, store.get(conversation).leaf) == path


def test_what_was_deleted_is_purged_after_thirty_days_with_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "chats.sqlite3"
    with Store(path) as store:
        kept, gone = say(store, "lion", "mane"), say(store, "zebra", "stripes")
        store.delete(gone)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 29 * 86400)
    with Store(path) as store:
        assert len(store.list(deleted=True)) == 1
    monkeypatch.setattr(time, "time", lambda: now + 31 * 86400)
    with Store(path) as store:
        assert store.list(deleted=True) == []
        assert found(store, "") == [kept]
        with pytest.raises(UsageError, match="no conversation"):
            store.restore(gone)
        # Its number is never given again.
        assert store.create(date="2026-01-31").id > gone
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM search WHERE search MATCH 'zebra'").fetchone()[0] == 0
        assert db.execute("SELECT count(*) FROM turns").fetchone()[0] == 2
    db.close()


def test_unknown_ids_are_told_in_a_sentence(store: Store):
    conversation, other = say(store, "a", "b"), say(store, "c", "d")
    foreign = store.get(other).leaf
    assert foreign is not None
    for wrong in (
        lambda: store.get(99),
        lambda: store.delete(99),
        lambda: store.rename(99, "x"),
        lambda: store.change(99, model="x"),
        lambda: store.turn(99),
        lambda: store.deepest(99),
        lambda: store.path(conversation, foreign),
        lambda: store.set_leaf(conversation, foreign),
        lambda: store.add_turn(conversation, user("x", foreign)),
        lambda: store.save_turn(dataclasses.replace(user("x"), id=99)),
    ):
        with pytest.raises(UsageError, match=r"there is no (conversation|turn) \d+"):
            wrong()


def test_settings_and_model_are_changed_each_alone(store: Store):
    conversation = say(store, "a", "b")
    store.change(conversation, settings=ChatSettings(instructions="Be brief."))
    store.change(conversation, model="120b")
    assert store.get(conversation).settings == ChatSettings(instructions="Be brief.")
    assert store.get(conversation).model == "120b"


def test_settings_that_a_later_program_wrote_are_passed_over(store: Store):
    conversation = say(store, "a", "b")
    with sqlite3.connect(store.file) as db:
        db.execute("""UPDATE conversations SET settings = '{"effort": "low", "unheard_of": 1}'""")
    db.close()
    assert store.get(conversation).settings == ChatSettings(effort="low")


def test_a_turn_that_cannot_be_read_says_so_and_the_others_are_there(store: Store):
    conversation = say(store, "question", "answer")
    leaf = store.get(conversation).leaf
    with sqlite3.connect(store.file) as db:
        db.execute('UPDATE turns SET messages = \'[{"role": "nobody"}]\' WHERE id = ?', (leaf,))
    db.close()
    first, second = store.path(conversation, leaf)
    assert first.text == "question"
    assert second.state == "failed"
    assert second.error is not None
    assert "cannot be read" in second.error


def test_nobody_else_may_read_the_file(store: Store):
    say(store, "private", "indeed")
    files = [file for file in store.file.parent.iterdir() if file.is_file()]
    assert len(files) == 3
    for file in files:
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


def test_threads_that_write_and_read_at_once_lose_nothing(store: Store):
    conversation = store.create(date="2026-01-31").id
    root = store.add_turn(conversation, user("root")).id
    errors: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(25):
                turn = store.add_turn(conversation, answer(f"{name} {number}", root, state="running"))
                store.save_turn(dataclasses.replace(turn, state="complete"))
                assert turn in [dataclasses.replace(t, state="running") for t in store.path(conversation, turn.id)]
                store.list(f"{name}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store.siblings(store.turn(store.deepest(root)))) == 100
