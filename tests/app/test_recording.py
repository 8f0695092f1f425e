"""Between the store's turns and a plain list of messages."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_mlx.app.recording import Recorder, import_chat
from gptoss_mlx.app.store import Store
from gptoss_mlx.chat_file import FILE_FORMAT, FILE_VERSION
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import ANALYSIS, FINAL, Message

FIRST = [
    Message.user("What is 1 plus 1?"),
    Message.assistant("One more than one.", channel=ANALYSIS),
    Message.assistant("2", channel=FINAL),
]
SECOND = [*FIRST, Message.user("And 2 plus 2?"), Message.assistant("4", channel=FINAL)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "chats.sqlite3") as store:
        yield store


@pytest.fixture
def recorder(store: Store) -> Recorder:
    return Recorder(store, store.create(date="2026-03-17").id)


def latest_messages(store: Store) -> list[Message]:
    latest = store.latest()
    assert latest is not None
    return [message for turn in store.path(latest.id, latest.leaf) for message in turn.messages]


def test_what_is_said_is_in_the_store(store: Store, recorder: Recorder) -> None:
    recorder.record(FIRST, model="pocket")
    recorder.record(SECOND, model="pocket", finish_reason="stop", stats={"answer_tokens": 3})
    latest = store.latest()
    assert latest is not None
    assert latest.title == "What is 1 plus 1?"
    path = store.path(latest.id, latest.leaf)
    assert [turn.role for turn in path] == ["user", "assistant", "user", "assistant"]
    assert path[1].reasoning == "One more than one."
    assert path[3].stats == {"answer_tokens": 3}
    assert path[3].model == "pocket"


def test_recording_the_same_again_adds_nothing(store: Store, recorder: Recorder) -> None:
    for _ in range(3):
        recorder.record(SECOND, model="pocket")
    assert store.list()[0].turns == 4


def test_a_message_that_is_changed_becomes_a_branch(store: Store, recorder: Recorder) -> None:
    recorder.record(SECOND, model="pocket")
    edited = [*FIRST, Message.user("And 3 plus 3?"), Message.assistant("6", channel=FINAL)]
    recorder.record(edited, model="pocket")
    assert latest_messages(store) == edited
    latest = store.latest()
    assert latest is not None
    path = store.path(latest.id, latest.leaf)
    assert len(store.siblings(path[2])) == 2


def test_what_is_taken_back_stays_as_a_branch(store: Store, recorder: Recorder) -> None:
    recorder.record(SECOND, model="pocket")
    recorder.record(FIRST, model="pocket")
    assert latest_messages(store) == FIRST
    assert store.list()[0].turns == 4


def test_after_all_is_taken_back_a_conversation_of_its_own_begins(store: Store, recorder: Recorder) -> None:
    recorder.record(FIRST, model="pocket")
    recorder.record([], model="pocket")
    recorder.record([Message.user("Hello")], model="pocket")
    assert [summary.title for summary in store.list()] == ["Hello", "What is 1 plus 1?"]


def test_a_recorder_goes_on_where_the_conversation_stands(store: Store, recorder: Recorder) -> None:
    recorder.record(FIRST, model="pocket")
    again = Recorder(store, store.list()[0].id)
    assert again.messages == FIRST
    again.record(SECOND, model="other")
    assert latest_messages(store) == SECOND


def test_a_stopped_answer_is_marked(store: Store, recorder: Recorder) -> None:
    recorder.record(FIRST, model="pocket", finish_reason="cancelled")
    latest = store.latest()
    assert latest is not None
    assert store.path(latest.id, latest.leaf)[-1].state == "stopped"


def saved(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "chat.json"
    data = {
        "format": FILE_FORMAT,
        "version": FILE_VERSION,
        "model": "gpt-oss-20b",
        "vocab_size": 201088,
        "instructions": "Be brief.",
        "options": {"effort": "high", "date": "2026-01-02", "top_k": 5},
        "tools": [],
        "messages": [message.to_dict() for message in SECOND],
    }
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return path


def test_a_saved_chat_becomes_a_conversation(store: Store, tmp_path: Path) -> None:
    conversation = import_chat(store, saved(tmp_path))
    assert conversation.settings.effort == "high"
    assert conversation.settings.instructions == "Be brief."
    assert conversation.date == "2026-01-02"
    assert conversation.model == "gpt-oss-20b"
    assert latest_messages(store) == SECOND


@pytest.mark.parametrize("changes", [{"format": "other"}, {"version": 99}, {"messages": 3}, {"options": None}])
def test_what_is_no_saved_chat_is_refused_and_leaves_nothing(
    store: Store, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match=r"chat\.json"):
        import_chat(store, saved(tmp_path, **changes))
    assert store.list() == []
