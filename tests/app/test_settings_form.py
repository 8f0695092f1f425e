"""The settings form: from text to settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.app.conversation import ChatSettings
from gptoss_mlx.app.preferences import SETTINGS, Preferences
from gptoss_mlx.app.settings_form import (
    APP_FIELDS,
    CHAT_FIELDS,
    TITLES,
    as_default,
    for_conversation,
    read_value,
    shown_value,
)
from gptoss_mlx.errors import UsageError

OLD = Preferences(effort="medium", temperature=0.7, instructions="Be brief.")
SAME = {name: getattr(OLD, name) for name in (*CHAT_FIELDS, *APP_FIELDS)}


def test_an_empty_field_leaves_it_to_the_model() -> None:
    assert read_value("temperature", "  ") is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.7", 0.7),
        ("temperature", "0,7", 0.7),
        ("temperature", "0", 0.0),
        ("max_tokens", "4,096", 4096),
        ("context", "8_192", 8192),
        ("instructions", "  Answer in German.\n", "Answer in German."),
    ],
)
def test_what_people_type_is_read(name: str, text: str, value: object) -> None:
    assert read_value(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temperature", "warm"),
        ("temperature", "-1"),
        ("temperature", "nan"),
        ("top_p", "0"),
        ("top_p", "1.1"),
        ("max_tokens", "0"),
        ("max_tokens", "1.5"),
        ("context", "1"),
        ("max_reasoning_tokens", "-1"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(name: str, text: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_value(name, text)
    sentence = str(raised.value)
    assert TITLES[name] in sentence
    assert SETTINGS[name].expected in sentence


@given(st.sampled_from(["temperature", "top_p"]), st.floats(1e-3, 1, allow_nan=False))
def test_a_number_that_is_shown_is_read_as_itself(name: str, value: float) -> None:
    value = float(f"{value:g}")
    assert read_value(name, shown_value(value)) == value


def test_nothing_changed_changes_nothing() -> None:
    change = for_conversation(SAME, OLD)
    assert change.chat == ChatSettings()
    assert change.preferences == {}


def test_what_is_changed_for_the_conversation_is_not_the_default() -> None:
    change = for_conversation({**SAME, "effort": "high", "theme": "nord"}, OLD)
    assert change.chat == ChatSettings(effort="high")
    assert change.preferences == {"theme": "nord"}


def test_what_is_changed_as_the_default_is_not_the_conversations_own() -> None:
    change = as_default({**SAME, "effort": "high", "temperature": None}, OLD)
    assert change.chat == ChatSettings()
    assert change.preferences == {"effort": "high", "temperature": None}
