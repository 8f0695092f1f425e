"""The conversation: what it remembers, how it goes back, and how it is kept."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from gptoss_mlx import GptOss
from gptoss_mlx.chat import Chat
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import TextDelta
from gptoss_mlx.harmony import Message
from gptoss_mlx.tokenizer import Tokenizer
from tests.scripted import ScriptedHost, scripted_chat

FIRST = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>One.<|return|>"
SECOND = "<|channel|>analysis<|message|>Hm hm.<|end|><|start|>assistant<|channel|>final<|message|>Two.<|return|>"
THIRD = "<|channel|>final<|message|>Three.<|return|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
TOOL = {"name": "f", "description": "Does f."}


def spoken(chat: Chat) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in chat.messages if message.role in ("user", "assistant", "tool")]


@pytest.fixture
def chat(pocket_tokenizer: Tokenizer) -> Chat:
    return scripted_chat(pocket_tokenizer, FIRST, SECOND, THIRD, date="2026-01-31")


def test_a_finished_turn_is_in_the_next_prompt_without_its_reasoning(chat: Chat):
    chat.send("a")
    assert spoken(chat) == [("user", "a"), ("assistant", "Hm."), ("assistant", "One.")]
    prompt = chat.export("harmony")
    assert "Hm." not in prompt
    assert prompt.endswith("<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>One.<|end|>")
    assert chat.send("b").text == "Two."


def test_sampled_tokens_are_kept_and_rendered_again(chat: Chat, pocket_tokenizer: Tokenizer):
    chat.send("a")
    sampled = chat.messages[-1].tokens
    assert sampled is not None
    assert pocket_tokenizer.decode(sampled) == "<|start|>assistant<|channel|>final<|message|>One.<|return|>"


def test_context_used_counts_the_next_prompt(chat: Chat, pocket_tokenizer: Tokenizer):
    empty = chat.context_used
    chat.send("a")
    turn = "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>One.<|end|>"
    assert chat.context_used == empty + len(pocket_tokenizer.encode_with_special(turn))
    assert chat.context_limit == 4096


def test_regenerate_replaces_the_last_answer(chat: Chat):
    chat.send("a")
    assert chat.regenerate().text == "Two."
    assert spoken(chat) == [("user", "a"), ("assistant", "Hm hm."), ("assistant", "Two.")]


def test_edit_replaces_a_question_and_what_followed(chat: Chat):
    chat.send("a")
    chat.send("b")
    assert chat.edit(0, "c").text == "Three."
    assert spoken(chat) == [("user", "c"), ("assistant", "Three.")]
    with pytest.raises(UsageError, match="no user message 1; the chat has 1"):
        chat.edit(1, "d")


def test_undo_takes_the_last_turn_back(chat: Chat):
    chat.send("a")
    chat.send("b")
    assert chat.undo() == "b"
    assert spoken(chat)[-1] == ("assistant", "One.")
    chat.clear()
    with pytest.raises(UsageError, match="no turn yet"):
        chat.undo()


def test_a_fork_goes_its_own_way(chat: Chat):
    chat.send("a")
    other = chat.fork()
    other.send("b")
    assert len(spoken(chat)) == 3
    assert len(spoken(other)) == 6


def test_a_new_turn_stops_the_running_one_and_keeps_what_it_said(pocket_tokenizer: Tokenizer):
    chat = scripted_chat(pocket_tokenizer, "<|channel|>final<|message|>" + "la " * 3000, THIRD)
    stream = chat.stream("sing")
    pieces = iter(stream)
    first = next(pieces)
    assert chat.send("stop that").text == "Three."
    sung = chat.messages[2].text
    assert sung.startswith(first)
    assert stream.reply.finish_reason == "cancelled"


def test_results_of_tool_calls_go_back_to_the_model(pocket_tokenizer: Tokenizer):
    chat = scripted_chat(pocket_tokenizer, CALL, THIRD, CALL, tools=[TOOL])
    reply = chat.send("a")
    assert [call.id for call in chat.pending_calls] == [reply.tool_calls[0].id] == ["call_1"]
    with pytest.raises(UsageError, match="'call_9' is no pending tool call"):
        chat.answer_calls({"call_9": "x"})
    with pytest.raises(UsageError, match="no result for the tool call 'call_1'"):
        chat.answer_calls({})
    assert chat.answer_calls({"call_1": "sunny"}).reply.text == "Three."
    assert spoken(chat) == [("user", "a"), ("assistant", "{}"), ("tool", "sunny"), ("assistant", "Three.")]
    assert chat.pending_calls == []
    # Ids are unique in the conversation.
    assert chat.send("b").tool_calls[0].id == "call_2"


def test_a_saved_chat_goes_on_where_it_was(chat: Chat, tmp_path: Path):
    chat.instructions = "Be brief."
    chat.defaults = {**chat.defaults, "tools": [cast(Any, TOOL)]}
    chat.send("a")
    chat.save(tmp_path / "chat.json")
    again = Chat.load(chat._host, tmp_path / "chat.json")
    assert again.messages == chat.messages
    assert again.export("harmony") == chat.export("harmony")
    assert again.send("b").text == "Two."
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_a_chat_of_another_vocabulary_keeps_its_text_and_drops_its_ids(chat: Chat, pocket_tokenizer: Tokenizer):
    chat.send("a")
    data = {**chat.to_dict(), "vocab_size": 201088}
    again = Chat.from_dict(chat._host, data)
    assert [message.text for message in again.messages] == [message.text for message in chat.messages]
    assert all(message.tokens is None for message in again.messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no JSON"),
        ("[1, 2]", "no chat of gptoss-mlx"),
        ('{"format": "gptoss-mlx chat", "version": 99}', "version 99"),
        ('{"format": "gptoss-mlx chat", "version": 1}', "damaged"),
        ('{"format": "gptoss-mlx chat", "version": 1, "instructions": null, "options": 5}', "damaged"),
    ],
)
def test_a_file_that_is_no_chat_is_refused_by_name(chat: Chat, tmp_path: Path, content: str, message: str):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        Chat.load(chat._host, path)
    assert "wrong.json" in str(caught.value)


def test_a_missing_file_is_an_error_that_names_it(chat: Chat, tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.json"):
        Chat.load(chat._host, tmp_path / "none.json")


def test_saving_over_an_older_file_is_all_or_nothing(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "chat.json"
    chat.save(path)
    before = path.read_bytes()
    chat.send("a")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        chat.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat.json"]


def test_exports_for_people_fold_the_reasoning_and_escape_markup(pocket_tokenizer: Tokenizer):
    script = (
        "<|channel|>analysis<|message|>a ```` b<|end|><|start|>assistant<|channel|>final<|message|><b>1</b><|return|>"
    )
    chat = scripted_chat(pocket_tokenizer, script)
    chat.send("x < y")
    page = chat.export("html")
    assert "&lt;b&gt;1&lt;/b&gt;" in page
    assert "<details><summary>Reasoning</summary>" in page
    markdown = chat.export("markdown")
    assert "`````\na ```` b\n`````" in markdown
    assert "## You\n\nx < y" in markdown
    assert json.loads(chat.export("json"))["messages"][0]["role"] == "user"
    with pytest.raises(UsageError, match="'pdf'"):
        chat.export(cast(Any, "pdf"))


def test_system_and_developer_are_one_thing(pocket_tokenizer: Tokenizer, chat: Chat):
    host = cast(ScriptedHost, chat._host)
    assert Chat(host, system="s").messages == Chat(host, developer="s").messages
    with pytest.raises(UsageError, match="both"):
        Chat(host, system="s", developer="d")


def test_a_stopped_answer_goes_on_after_its_last_token(pocket: GptOss):
    whole = pocket.chat(temperature=0.0, effort="high")
    expected = whole.send("What is 348 plus 275?")
    for limit in (5, len(expected.tokens) // 2, len(expected.tokens) - 3):
        chat = pocket.chat(temperature=0.0, effort="high")
        cut = chat.send("What is 348 plus 275?", max_tokens=limit)
        assert cut.finish_reason == "length"
        stream = chat.stream_continue()
        deltas = [event for event in stream.events() if isinstance(event, TextDelta)]
        assert "".join(delta.text for delta in deltas if delta.channel == "final") == expected.text
        assert stream.reply.text == expected.text
        assert stream.reply.reasoning == expected.reasoning
        assert stream.reply.tokens == expected.tokens
        assert chat.turns == whole.turns


def test_an_answer_cut_between_two_messages_goes_on_with_the_next(pocket_tokenizer: Tokenizer):
    chat = scripted_chat(pocket_tokenizer, FIRST, "<|channel|>final<|message|>Two.<|return|>")
    cut_after = len(pocket_tokenizer.encode_with_special("<|channel|>analysis<|message|>Hm.<|end|>"))
    chat.send("a", max_tokens=cut_after)
    assert [message.channel for message in chat.turns[1:]] == ["analysis"]
    # The scripted model begins its script anew after a prompt; what it read before is what the reply begins with.
    raw = chat.continue_answer().raw
    assert raw.startswith("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>")


def test_an_edited_answer_goes_on_from_its_new_text(pocket: GptOss):
    chat = pocket.chat(temperature=0.0, effort="high")
    chat.send("What is 348 plus 275?")
    edited = [*chat.turns[:-1], Message.assistant("348 + 275 =")]
    reply = pocket.chat(temperature=0.0, effort="high", turns=edited).continue_answer()
    assert reply.text.startswith("348 + 275 = 623")
    assert reply.reasoning == chat.turns[1].text


def test_only_what_was_cut_short_goes_on(chat: Chat):
    with pytest.raises(UsageError, match="no answer to go on with"):
        chat.continue_answer()
    chat.send("a")
    with pytest.raises(UsageError, match="complete"):
        chat.continue_answer()


def test_settings_are_no_turns(pocket: GptOss):
    with pytest.raises(UsageError, match="role developer is among the turns"):
        pocket.chat(turns=[Message.developer("Be brief.")])
