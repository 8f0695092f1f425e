"""A conversation is exported whole, along the path that is shown, and JSON goes on with the command."""

import json
from pathlib import Path

import pytest

from gptoss_mlx import GptOss
from gptoss_mlx.app.conversation import ChatSettings, Conversation, Turn
from gptoss_mlx.app.export import export_chat, render_chat, suggested_name
from gptoss_mlx.chat import Chat
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import ANALYSIS, Message
from gptoss_mlx.whole_file import write_whole

CONVERSATION = Conversation(
    1, "What is 17 plus 25?", 0.0, 0.0, "2026-01-31", ChatSettings(instructions="Be brief.", effort="low"), "pocket"
)
TURNS = [
    Turn(1, None, "user", (Message.user("File: a\n\nWhat is 17 plus 25?"),), text="What is 17 plus 25?"),
    Turn(
        2,
        1,
        "assistant",
        (Message.assistant("17 + 25 <b>", channel=ANALYSIS), Message.assistant("It is **42**.")),
        model="pocket",
    ),
]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("chat.md", ["# Conversation with pocket", "## You", "What is 17 plus 25?", "<details>", "It is **42**."]),
        ("chat.HTML", ["<!doctype html>", "Be brief.", "17 + 25 &lt;b&gt;", "It is **42**."]),
    ],
)
def test_documents_hold_everything_that_was_said(tmp_path: Path, name: str, parts: list[str]):
    written = export_chat(CONVERSATION, TURNS, tmp_path / name)
    assert written == tmp_path / name
    text = written.read_text(encoding="utf-8")
    for part in parts:
        assert part in text


def test_a_chat_goes_on_from_its_json(tmp_path: Path, pocket: GptOss):
    chat = pocket.chat(system="Be brief.", effort="low", date="2026-01-31")
    chat.send("What is 17 plus 25?")
    asked, *said = chat.turns
    turns = [Turn(1, None, "user", (asked,)), Turn(2, 1, "assistant", tuple(said), model="pocket")]
    path = export_chat(CONVERSATION, turns, tmp_path / "chat.json", vocab_size=pocket.tokenizer.vocab_size)
    again = Chat.load(pocket, path)
    assert again.turns == chat.turns
    assert again.messages == chat.messages
    assert again.instructions == "Be brief."
    assert again.defaults == {"effort": "low", "date": "2026-01-31", "tools": ()}
    assert again.send("Thank you").text


def test_token_ids_of_another_model_are_left_out():
    sampled = Message.assistant("Hello", tokens=(1, 2, 3))
    turns = [
        Turn(1, None, "user", (Message.user("Hi"),)),
        Turn(2, 1, "assistant", (sampled,), model="20b"),
        Turn(3, 2, "assistant", (sampled,), model="pocket"),
    ]
    values = json.loads(render_chat(CONVERSATION, turns, "json", vocab_size=7))
    assert values["vocab_size"] == 7
    assert [message.get("tokens") for message in values["messages"]] == [None, None, [1, 2, 3]]


def test_json_without_a_model_can_be_read_by_any(pocket: GptOss):
    chat = Chat.from_dict(pocket, json.loads(render_chat(CONVERSATION, TURNS, "json")))
    assert [message.text for message in chat.turns] == [message.text for turn in TURNS for message in turn.messages]


def test_a_file_that_is_there_is_never_overwritten_in_silence(tmp_path: Path):
    path = tmp_path / "chat.md"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"chat\.md is there already; choose another name"):
        export_chat(CONVERSATION, TURNS, path)
    assert path.read_text() == "mine"
    export_chat(CONVERSATION, TURNS, path, overwrite=True)
    assert "It is **42**." in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["chat.md"]


def test_what_no_file_can_hold_is_replaced(tmp_path: Path):
    turn = Turn(1, None, "user", (Message.user("broken \ud800 text"),))
    assert "broken ? text" in export_chat(CONVERSATION, [turn], tmp_path / "chat.md").read_text()


def test_what_cannot_be_exported_is_told(tmp_path: Path):
    with pytest.raises(UsageError, match=r"'chat\.pdf' ends in no format that can be written; expected \.md"):
        export_chat(CONVERSATION, TURNS, tmp_path / "chat.pdf")
    with pytest.raises(UsageError, match="cannot be written: no such file or directory"):
        export_chat(CONVERSATION, TURNS, tmp_path / "absent" / "chat.md")
    with pytest.raises(UsageError, match="nothing was said yet"):
        export_chat(CONVERSATION, [], tmp_path / "chat.md")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_older_file_and_no_other(tmp_path: Path):
    path = tmp_path / "chat.md"
    path.write_text("older")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "text \ud800")
    assert path.read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["chat.md"]


def test_a_suggested_name_is_the_title_and_is_free(tmp_path: Path):
    assert suggested_name(CONVERSATION, "markdown", tmp_path) == "what-is-17-plus-25.md"
    (tmp_path / "what-is-17-plus-25.md").touch()
    assert suggested_name(CONVERSATION, "markdown", tmp_path) == "what-is-17-plus-25-2.md"
    odd = Conversation(1, "../..//Ünï 東 /etc/passwd\0", 0.0, 0.0, "2026-01-31")
    assert suggested_name(odd, "json", tmp_path) == "ünï-東-etc-passwd.json"
    assert suggested_name(Conversation(1, "?!", 0.0, 0.0, "2026-01-31"), "html", tmp_path) == "chat-2026-01-31.html"
