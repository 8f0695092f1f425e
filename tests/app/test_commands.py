"""The table of commands: what the keys, the palette, the help and the words are made from."""

from collections import Counter

import pytest

from gptoss_mlx.app.commands import BY_NAME, COMMANDS, HINTS, find_word, key_label, keys_label


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


def test_a_slash_and_a_word_is_a_command() -> None:
    found = find_word("/export ")
    assert found is not None
    assert found.name == "export"


@pytest.mark.parametrize("text", ["", "/", "export", "/etc/hosts is what?", "/no-such-word", " /export"])
def test_anything_else_is_a_message(text: str) -> None:
    assert find_word(text) is None
