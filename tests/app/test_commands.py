"""The table of commands: what the keys, the palette, the help and the words are made from."""

from collections import Counter

import pytest
from textual.widget import Widget

from gptoss_mlx.app.app import GptossApp
from gptoss_mlx.app.commands import BY_NAME, COMMANDS, HINTS, Command, find_word, key_label, keys_label
from gptoss_mlx.app.widgets.approval_prompt import ApprovalPrompt
from gptoss_mlx.app.widgets.prompt_area import PromptArea
from gptoss_mlx.app.widgets.transcript import Transcript
from gptoss_mlx.errors import UsageError


def test_no_two_commands_share_a_name_or_a_word() -> None:
    names = Counter(command.name for command in COMMANDS)
    words = Counter(command.word for command in COMMANDS if command.word)
    assert [name for name, count in (*names.items(), *words.items()) if count > 1] == []


def test_no_two_commands_of_a_scope_share_a_key() -> None:
    keys = Counter((command.scope, key) for command in COMMANDS for key in command.keys)
    # The arrows recall messages in the composer; Enter sends there and folds in the transcript.
    assert [key for key, count in keys.items() if count > 1] == []


def test_every_hint_is_a_command_that_has_a_key_and_a_word_for_the_line() -> None:
    for names in HINTS.values():
        for name in names:
            assert BY_NAME[name].hint, name
            assert BY_NAME[name].keys, name


@pytest.mark.parametrize(
    ("key", "label"),
    [("ctrl+t", "Ctrl+T"), ("f1", "F1"), ("f12", "F12"), ("escape", "Esc"), ("y", "y"), ("alt+enter", "Alt+Enter")],
)
def test_keys_are_shown_as_people_read_them(key: str, label: str) -> None:
    assert key_label(key) == label


def test_all_keys_of_a_command_are_shown() -> None:
    assert keys_label(BY_NAME["new_line"]) == "Ctrl+J Alt+Enter"


@pytest.mark.parametrize(
    ("text", "name", "rest"),
    [("/export", "export", ""), ("/export a b.md ", "export", "a b.md"), ("/copy-all", "copy_chat", "")],
)
def test_a_slash_and_a_word_is_a_command(text: str, name: str, rest: str) -> None:
    found = find_word(text)
    assert found is not None
    assert (found[0].name, found[1]) == (name, rest)


@pytest.mark.parametrize(
    "text", ["", "/", "export", "/etc/hosts is what?", "//", "/1", " /export", "/export\nand more"]
)
def test_anything_else_is_a_message(text: str) -> None:
    assert find_word(text) is None


def test_a_word_that_is_no_command_is_not_sent_to_the_model() -> None:
    with pytest.raises(UsageError, match="there is no command /exprot"):
        find_word("/exprot x.md")


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.action], ids=lambda command: command.name
)
def test_every_command_is_an_action_of_the_app(command: Command) -> None:
    assert callable(getattr(GptossApp, f"action_{command.name}", None))


@pytest.mark.parametrize(
    ("scope", "widget"), [("composer", PromptArea), ("transcript", Transcript), ("question", ApprovalPrompt)]
)
def test_the_keys_of_widgets_are_those_of_the_table(scope: str, widget: type[Widget]) -> None:
    assert widget._merged_bindings is not None
    by_key = widget._merged_bindings.key_to_bindings
    bound = {(key, binding.action) for key, bindings in by_key.items() for binding in bindings}
    keys = {key for key, _ in bound}
    for command in COMMANDS:
        if command.scope == scope and command.name not in ELSEWHERE:
            assert set(command.keys) <= keys, command.name
        if command.scope == scope and command.action:
            assert (command.keys[0], f"app.{command.name}") in bound


ELSEWHERE = {"attach", "recall", "to_transcript", "to_composer"}
"""What is typed, what the text area does at its edges, and what the screen does with Tab."""
