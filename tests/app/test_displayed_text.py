"""Text made safe to show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.app.displayed_text import count_of, displayable, duration


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = displayable(text)
    assert all(character in "\n\t" or character.isprintable() or ord(character) > 0x9F for character in shown)
    assert not any(0xD800 <= ord(character) < 0xE000 for character in shown)


def test_control_characters_become_signs_and_line_ends_one_kind() -> None:
    assert displayable("a\x1b[31mb\r\nc\x00\x7f\x9b\u2028d\u202e") == "a␛[31mb\nc␀␡\ufffd\nd\ufffd"


def test_ordinary_text_of_all_scripts_is_left_as_it_is() -> None:
    text = "naïve e\u0301 日本語 שלום 👩‍👧 \t tab\n"
    assert displayable(text) is text


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (6.2, "6.2 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (125, "2 min 5 s")]
)
def test_times_are_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_counts_have_their_noun() -> None:
    assert [count_of(n, "token") for n in (0, 1, 1204)] == ["0 tokens", "1 token", "1,204 tokens"]
