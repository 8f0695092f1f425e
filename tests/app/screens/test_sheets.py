"""Help, questions, one-line entries, settings."""

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Select, TextArea

from gptoss_mlx.app.commands import COMMANDS, keys_label
from gptoss_mlx.app.conversation import ChatSettings
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.screens.help import HelpScreen
from gptoss_mlx.app.screens.question import Question
from gptoss_mlx.app.screens.settings import SettingsScreen
from gptoss_mlx.app.screens.text_entry import TextEntry
from gptoss_mlx.app.settings_form import SettingsChange
from tests.app.screens.around import Work, note, run_screen, said, until


async def look(_: Pilot[None]) -> None:
    """Does nothing."""


def pressing(*keys: str) -> Work:
    async def work(pilot: Pilot[None]) -> None:
        await pilot.press(*keys)

    return work


def test_the_help_has_every_key_and_every_word() -> None:
    async def work(pilot: Pilot[None]) -> None:
        text = said(pilot)
        for command in COMMANDS:
            assert command.title in text
            assert keys_label(command) in text
            assert command.word is None or f"/{command.word}" in text

    run_screen(HelpScreen, work, (120, 70))


@pytest.mark.parametrize("key", ["escape", "f1", "q"])
def test_the_help_closes(key: str) -> None:
    assert run_screen(HelpScreen, pressing(key)) == [None]


@pytest.mark.parametrize(
    ("default", "keys", "answer"),
    [
        (False, ["enter"], False),
        (True, ["enter"], True),
        (True, ["escape"], False),
        (False, ["y"], True),
        (True, ["n"], False),
        (False, ["left", "enter"], True),
        (False, ["tab", "enter"], True),
    ],
)
def test_a_question_has_a_clear_default(default: bool, keys: list[str], answer: bool) -> None:
    assert run_screen(lambda: Question("[b]Remove it?", default=default), pressing(*keys)) == [answer]


def test_a_question_shows_markup_as_text() -> None:
    async def work(pilot: Pilot[None]) -> None:
        assert "Remove [b]x[/b]?" in said(pilot)

    run_screen(lambda: Question("Remove [b]x[/b]?"), work)


@pytest.mark.parametrize(
    ("keys", "text"),
    [(["enter"], "old"), (["end", "!", "enter"], "old!"), (["escape"], None), (["ctrl+u", "enter"], None)],
)
def test_one_line_is_asked_for(keys: list[str], text: str | None) -> None:
    assert run_screen(lambda: TextEntry("Name", "old"), pressing("end", *keys)) == [text]


def settings(work: Work, own: ChatSettings | None = None) -> list[SettingsChange | None]:
    preferences = Preferences(temperature=0.7)
    return run_screen(lambda: SettingsScreen(own or ChatSettings(), preferences), work, (80, 40))


def test_settings_show_what_holds() -> None:
    async def work(pilot: Pilot[None]) -> None:
        screen = pilot.app.screen
        assert screen.query_one("#effort", Select).value == "high"
        assert screen.query_one("#temperature", Input).value == "0.7"

    settings(work, ChatSettings(effort="high"))


def test_settings_are_kept_for_the_conversation_or_as_the_default() -> None:
    async def typed(pilot: Pilot[None], key: str) -> None:
        pilot.app.screen.query_one("#max_tokens", Input).value = "100"
        pilot.app.screen.query_one("#instructions", TextArea).text = "Be brief."
        await pilot.press(key)

    async def own(pilot: Pilot[None]) -> None:
        await typed(pilot, "ctrl+s")

    async def default(pilot: Pilot[None]) -> None:
        await typed(pilot, "ctrl+d")

    assert settings(own) == [SettingsChange(ChatSettings(instructions="Be brief.", max_tokens=100), {})]
    assert settings(default) == [SettingsChange(ChatSettings(), {"instructions": "Be brief.", "max_tokens": 100})]


def test_a_wrong_value_is_said_and_nothing_is_kept() -> None:
    async def work(pilot: Pilot[None]) -> None:
        pilot.app.screen.query_one("#top_p", Input).value = "7"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "Top p is '7'; expected" in note(pilot))
        assert pilot.app.screen.focused is pilot.app.screen.query_one("#top_p")

    assert settings(work) == []


def test_leaving_unchanged_settings_asks_nothing() -> None:
    assert settings(pressing("escape")) == [None]


def test_leaving_changed_settings_asks_and_the_default_is_to_stay() -> None:
    async def work(pilot: Pilot[None]) -> None:
        pilot.app.screen.query_one("#context", Input).value = "4096"
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, SettingsScreen))
        assert pilot.app.screen.query_one("#context", Input).value == "4096"
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("y")

    assert settings(work) == [None]


def test_a_theme_is_seen_at_once_and_gone_when_it_is_not_kept() -> None:
    async def work(pilot: Pilot[None]) -> None:
        before = pilot.app.theme
        pilot.app.screen.query_one("#theme", Select).value = "nord"
        await until(pilot, lambda: pilot.app.theme == "nord")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: pilot.app.theme == before)

    assert settings(work) == [None]
