"""The screens, the lines and the palette in the running app, over a scripted engine."""

import asyncio
from pathlib import Path

import pytest
from rich.style import Style
from textual.events import Key
from textual.widgets import Input, OptionList

from gptoss_mlx.app import model_entries
from gptoss_mlx.app.app import GptossApp
from gptoss_mlx.app.model_entries import ModelEntry
from gptoss_mlx.app.preferences import Preferences, load_preferences
from gptoss_mlx.app.screens.conversations import ConversationsScreen
from gptoss_mlx.app.screens.help import HelpScreen
from gptoss_mlx.app.screens.models import ModelsScreen
from gptoss_mlx.app.screens.settings import SettingsScreen
from gptoss_mlx.app.screens.text_entry import TextEntry
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.themes import DARK, LIGHT
from gptoss_mlx.app.widgets.key_line import KeyLine
from gptoss_mlx.app.widgets.statistics_panel import StatisticsPanel
from gptoss_mlx.app.widgets.status_line import StatusLine
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final, thought


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "screen"),
    [
        (["f1"], HelpScreen),
        (["f3"], ConversationsScreen),
        (["f4"], ModelsScreen),
        (["f5"], SettingsScreen),
        ([*"/help", "enter"], HelpScreen),
        ([*"/models", "enter"], ModelsScreen),
    ],
)
def test_keys_and_words_open_the_screens(
    home: Path, tokenizer: Tokenizer, keys: list[str], screen: type[HelpScreen]
) -> None:
    async def work(desk: Desk) -> None:
        await desk.press(*keys)
        await desk.until(lambda: isinstance(desk.app.screen, screen))
        await desk.press("escape")
        await desk.until(lambda: desk.app.screen is desk.app.chat)

    drive(home, ScriptedLoad(tokenizer), work)


def test_an_unknown_word_goes_back_into_the_composer_with_a_sentence(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("/modles")
        await desk.until_shown("there is no command /modles")
        assert desk.draft == "/modles"
        assert desk.path == []

    drive(home, ScriptedLoad(tokenizer), work)


def test_the_status_line_follows_the_model_and_its_answer(home: Path, tokenizer: Tokenizer) -> None:
    load = ScriptedLoad(tokenizer, thought("Hm, " * 20, "So it is."), tokens_per_second=100, prefill_seconds=0.3)
    load.allowed.clear()

    async def work(desk: Desk) -> None:
        line = desk.app.chat.query_one(StatusLine)
        await desk.until_shown("scripted loading")
        load.allowed.set()
        await desk.until(lambda: line.status.session == "ready")
        await desk.until(lambda: line.status.limit == 8192)
        await desk.say("Why?")
        await desk.until(lambda: line.status.reading is not None)
        assert "Reading prompt" in desk.screen
        await desk.until(lambda: line.status.tokens_per_second is not None)
        await desk.until_shown("tok/s")
        await desk.until_idle()
        await desk.until(lambda: not line.status.answering)
        assert line.status.reading is None
        assert line.status.tokens_per_second == desk.path[-1].stats["generation_tps"]
        assert line.status.used > 0

    drive(home, load, work)


def test_the_keys_that_are_shown_are_those_of_the_moment(home: Path, tokenizer: Tokenizer) -> None:
    load = ScriptedLoad(tokenizer, final("word " * 3000), tokens_per_second=100)

    async def work(desk: Desk) -> None:
        line = desk.app.chat.query_one(KeyLine)
        assert line.moment == "writing"
        await desk.say("Talk")
        await desk.until(lambda: line.moment == "answering")
        await desk.press("escape")
        await desk.until_idle()
        await desk.until(lambda: line.moment == "writing")
        await desk.press("tab")
        await desk.until(lambda: line.moment == "reading")
        await desk.press("tab")
        await desk.until(lambda: line.moment == "writing")

    drive(home, load, work)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "beside"), [((60, 20), False), ((80, 24), False), ((120, 40), True)])
def test_the_statistics_are_beside_the_conversation_or_below_it(
    home: Path, tokenizer: Tokenizer, size: tuple[int, int], beside: bool
) -> None:
    async def work(desk: Desk) -> None:
        await desk.ask("Why?")
        await desk.press("f2")
        panel = desk.app.chat.query_one(StatisticsPanel)
        await desk.until_shown("from the cache")
        assert (panel.region.x > 0) is beside
        assert load_preferences().show_statistics
        await desk.press("f2")
        await desk.until(lambda: "from the cache" not in desk.screen)

    drive(home, ScriptedLoad(tokenizer, thought("Hm.", "So it is.")), work, size=size)


@pytest.mark.slow
def test_settings_of_the_conversation_and_the_defaults(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.press("f5")
        await desk.until(lambda: isinstance(desk.app.screen, SettingsScreen))
        desk.app.screen.query_one("#max_tokens", Input).value = "50"
        await desk.press("ctrl+s")
        await desk.until(lambda: desk.app.screen is desk.app.chat)
        assert desk.app.chat_settings.max_tokens == 50
        assert load_preferences().max_tokens is None
        await desk.press("f5")
        await desk.until(lambda: isinstance(desk.app.screen, SettingsScreen))
        await desk.press("ctrl+d")
        await desk.until(lambda: load_preferences().max_tokens == 50)
        assert desk.app.preferences.max_tokens == 50

    drive(home, ScriptedLoad(tokenizer), work)


def test_effort_by_key_and_by_word(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.until_shown("medium")
        await desk.press("ctrl+t")
        await desk.until_shown("effort high")
        await desk.say("/effort low")
        await desk.until_shown("effort low")
        await desk.say("/effort much")
        await desk.until_shown("'much' is no effort")

    drive(home, ScriptedLoad(tokenizer), work)


async def choose(desk: Desk, words: str) -> None:
    """Opens the palette, types, takes the best."""
    await desk.press("ctrl+p")
    await desk.until(lambda: desk.app.screen is not desk.app.chat)
    desk.app.screen.query_one(Input).value = words
    await desk.until(lambda: desk.app.screen.query_one(OptionList).option_count > 0)
    await desk.until_shown(words)
    await asyncio.sleep(0.2)
    await desk.press("enter")


def test_a_theme_from_the_palette_is_remembered(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        assert desk.app.theme == DARK.name
        await choose(desk, "Theme: nord")
        await desk.until(lambda: desk.app.theme == "nord")
        assert load_preferences().theme == "nord"

    drive(home, ScriptedLoad(tokenizer), work)


def test_the_palette_runs_commands(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await choose(desk, "Conversations")
        await desk.until(lambda: isinstance(desk.app.screen, ConversationsScreen))
        await desk.press("escape")
        await desk.until(lambda: desk.app.screen is desk.app.chat)
        await choose(desk, "Effort: low")
        await desk.until(lambda: desk.app.chat_settings.effort == "low")

    drive(home, ScriptedLoad(tokenizer), work)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("colours", "preference", "theme"),
    [
        ("0;15", "auto", LIGHT.name),
        ("15;0", "auto", DARK.name),
        ("", "auto", DARK.name),
        ("15;default", "auto", DARK.name),
        ("0;15", "nord", "nord"),
        ("15;0", "ansi-light", "ansi-light"),
        ("15;0", "no-such-theme", DARK.name),
    ],
)
def test_the_theme_is_the_preferred_one_or_goes_with_the_terminal(
    home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, colours: str, preference: str, theme: str
) -> None:
    monkeypatch.setenv("COLORFGBG", colours)

    async def work(desk: Desk) -> None:
        assert desk.app.theme == theme
        assert desk.app.current_theme.dark is not theme.endswith("light")
        assert desk.app.has_class("-dark-mode") is not theme.endswith("light")

    drive(home, ScriptedLoad(tokenizer), work, preferences=Preferences(theme=preference))


def test_a_conversation_is_exported_and_not_over_another_file_unasked(
    home: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "why.md").write_text("mine")

    async def work(desk: Desk) -> None:
        await desk.ask("Why?")
        await desk.say("/export why.md")
        await desk.until(lambda: isinstance(desk.app.screen, TextEntry))
        await desk.press("enter")
        await desk.until_shown("Write over it?")
        await desk.press("n")
        await desk.until(lambda: isinstance(desk.app.screen, TextEntry))
        desk.app.screen.query_one(Input).value = "why.txt"
        await desk.press("enter")
        await desk.until_shown("ends in no format")
        desk.app.screen.query_one(Input).value = "because.md"
        await desk.press("enter")
        await desk.until(lambda: (tmp_path / "because.md").exists())

    drive(home, ScriptedLoad(tokenizer, final("So it is.")), work)
    assert "So it is." in (tmp_path / "because.md").read_text()
    assert (tmp_path / "why.md").read_text() == "mine"


def test_deleting_the_open_conversation_leaves_an_empty_one(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.ask("Why?")
        await desk.press("f3")
        await desk.until(lambda: isinstance(desk.app.screen, ConversationsScreen))
        await desk.until_shown("▸")
        await desk.press("ctrl+x")
        await desk.until_shown("Deleted")
        await desk.press("escape")
        await desk.until(lambda: desk.path == [] and desk.app.chat.chat.id is None)

    drive(home, ScriptedLoad(tokenizer, final("So it is.")), work)


@pytest.mark.slow
def test_another_model_answers_in_the_same_conversation(home: Path, tokenizer: Tokenizer) -> None:
    load = ScriptedLoad(tokenizer, final("first"), final("second"))

    async def work(desk: Desk) -> None:
        await desk.ask("one")
        await desk.press("f4")
        await desk.until(lambda: isinstance(desk.app.screen, ModelsScreen))
        await desk.until(lambda: desk.app.screen.query_one(OptionList).option_count > 0)
        await desk.press("home", "enter")
        await desk.until(lambda: desk.app.session.name == "pocket" and desk.app.session.state == "ready")
        assert load_preferences().model == "pocket"
        await desk.ask("two")
        assert [turn.model for turn in desk.path if turn.role == "assistant"] == ["scripted", "pocket"]

    drive(home, load, work)


def test_what_is_typed_before_there_is_a_composer_is_not_lost(home: Path, tokenizer: Tokenizer) -> None:
    async def held() -> None:
        app = GptossApp(model="scripted", session=ModelSession(ScriptedLoad(tokenizer)))
        async with app.run_test() as pilot:
            for letter in "early":
                app.post_message(Key(letter, letter))
            desk = Desk(app, pilot)
            await desk.until(lambda: desk.draft == "early")
            await desk.leave()
        app.session.close()
        app.store.close()

    asyncio.run(held())


@pytest.mark.parametrize(("here", "offered"), [([], True), (["gpt-oss-120b"], False)])
def test_at_first_the_pocket_model_is_on_and_openais_is_offered(
    home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, here: list[str], offered: bool
) -> None:
    entries = [
        *(ModelEntry("here", name, name, ()) for name in ("pocket", *here)),
        ModelEntry("published", "20b", "gpt-oss-20b", ("13.8 GB to get", "fits this Mac")),
    ]
    looked = []

    def list_entries() -> list[ModelEntry]:
        looked.append(True)
        return entries

    said: list[str] = []
    monkeypatch.setattr(model_entries, "list_entries", list_entries)
    monkeypatch.setattr(GptossApp, "notify", lambda _, message, **__: said.append(message))

    async def work(desk: Desk) -> None:
        assert desk.app.session.name == "pocket"
        await desk.until(lambda: looked)
        await desk.until(lambda: bool(said) is offered)
        await desk.pilot.pause(0.1)
        expected = "The pocket model is on, a toy. F4 gets gpt-oss-20b: 13.8 GB to get, fits this Mac"
        assert said == ([expected] if offered else [])

    drive(home, ScriptedLoad(tokenizer), work, model=None)


@pytest.mark.slow
def test_where_no_colour_is_wanted_none_is_sent_and_cursors_are_underlined(
    home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    def styles(desk: Desk) -> list[Style]:
        strips = desk.app.screen._compositor.render_strips()
        return [segment.style for strip in strips for segment in strip if segment.style is not None]

    async def work(desk: Desk) -> None:
        await desk.type("hello")
        await desk.until_shown("hello")
        for key in ("f4", "f5"):
            await desk.until(lambda: any(style.underline for style in styles(desk)))
            for style in styles(desk):
                assert all(colour is None or colour.is_default for colour in (style.color, style.bgcolor))
            await desk.press("escape", key)
            await desk.until(lambda: desk.app.screen is not desk.app.chat)

    drive(home, ScriptedLoad(tokenizer), work)


def test_an_empty_no_color_is_no_wish(home: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")

    async def work(desk: Desk) -> None:
        assert desk.app.theme == DARK.name
        assert not desk.app.no_color

    drive(home, ScriptedLoad(tokenizer), work)
