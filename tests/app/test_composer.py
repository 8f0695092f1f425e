"""Writing a message."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from textual import events, on
from textual._xterm_parser import XTermParser
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input

from gptoss_mlx.app.widgets.choices import Choices
from gptoss_mlx.app.widgets.composer import Composer
from gptoss_mlx.app.widgets.history_search import HistorySearch, matching_messages
from gptoss_mlx.app.widgets.path_completion import PathCompletion, matching_paths, mention, mentioned_path
from gptoss_mlx.app.widgets.prompt_area import PromptArea
from tests.app.style import STYLE


class ComposerApp(App[None]):
    CSS_PATH = STYLE

    def __init__(self, history: Sequence[str] = ()) -> None:
        super().__init__()
        self.history = history
        self.sent: list[str] = []

    def compose(self) -> ComposeResult:
        yield Composer(lambda: self.history)

    def on_mount(self) -> None:
        self.query_one(Composer).focus()

    @on(Composer.Submitted)
    def note(self, event: Composer.Submitted) -> None:
        self.sent.append(event.text)

    @property
    def composer(self) -> Composer:
        return self.query_one(Composer)


def drive(
    steps: Callable[[ComposerApp, Pilot[None]], Awaitable[None]],
    history: Sequence[str] = (),
    size: tuple[int, int] = (80, 24),
) -> None:
    async def run() -> None:
        app = ComposerApp(history)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(run())


def test_enter_sends_and_empties_the_composer() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press(*"hi", "enter")
        await pilot.pause()
        assert app.sent == ["hi"]
        assert app.composer.text == ""

    drive(steps)


@pytest.mark.parametrize("key", ["ctrl+j", "alt+enter", "shift+enter"])
def test_these_keys_make_a_new_line(key: str) -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press("a", key, "b")
        assert app.composer.text == "a\nb"
        assert app.sent == []

    drive(steps)


@pytest.mark.parametrize("sequence", ["\x1b\r", "\x1b[13;2u", "\x1b[13;3u", "\x1b[27;2;13~", "\x1b[27;3;13~", "\n"])
def test_what_terminals_send_for_enter_with_a_modifier_makes_a_new_line(sequence: str) -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press("a")
        for event in XTermParser().feed(sequence):
            app.post_message(event)
        await pilot.pause()
        await pilot.pause()
        assert app.composer.text == "a\n"
        assert app.sent == []

    drive(steps)


def test_a_backslash_before_enter_makes_a_new_line() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press("a", "\\", "enter", "b", "enter")
        await pilot.pause()
        assert app.sent == ["a\nb"]

    drive(steps)


def test_nothing_is_sent_that_is_only_blanks() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press("space", "enter")
        await pilot.pause()
        assert app.sent == []
        assert app.composer.text == " "

    drive(steps)


def test_pasted_lines_do_not_send() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        app.query_one(PromptArea).post_message(events.Paste("one\r\ntwo\rthree\n"))
        await pilot.pause()
        assert app.composer.text == "one\ntwo\nthree\n"
        assert app.sent == []

    drive(steps)


def test_a_sent_message_comes_back_by_undo() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press(*"hi", "enter")
        await pilot.pause()
        await pilot.press("ctrl+z")
        assert app.composer.text == "hi"

    drive(steps)


def test_up_recalls_earlier_messages_and_down_comes_back_to_the_draft() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press(*"draft", "up")
        assert app.composer.text == "new\nest"
        await pilot.press("up")
        assert app.composer.text == "old"
        await pilot.press("up")
        assert app.composer.text == "old"
        await pilot.press("down", "down", "down")
        assert app.composer.text == "draft"

    drive(steps, ["old", "new\nest"])


def test_a_change_to_a_recalled_message_is_kept_while_going_through_them() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press("up", "x", "up", "down")
        assert app.composer.text == "xtwo"

    drive(steps, ["one", "two"])


def test_up_in_the_middle_of_the_text_moves_the_cursor() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press("a", "ctrl+j", "b", "up", "c")
        assert app.composer.text == "ac\nb"

    drive(steps, ["earlier"])


def test_up_goes_through_the_rows_of_a_wrapped_line_first() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        app.composer.text = "word " * 30
        await pilot.pause()
        await pilot.press("up", "up", "up")
        assert app.composer.text == "word " * 30
        await pilot.press("up", "up", "up")
        assert app.composer.text == "earlier"

    drive(steps, ["earlier"], size=(40, 12))


def test_the_area_grows_with_the_text_to_a_third_of_the_screen() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        area = app.query_one(PromptArea)
        assert area.size.height == 1
        app.composer.text = "a\nb\nc"
        await pilot.pause()
        assert area.size.height == 3
        app.composer.text = "line\n" * 100
        await pilot.pause()
        assert area.size.height == 7

    drive(steps)


def test_a_search_takes_an_earlier_message() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+r", *"apple")
        await pilot.pause()
        assert app.query_one(HistorySearch).display
        await pilot.press("ctrl+r", "enter")
        await pilot.pause()
        assert app.composer.text == "apple pie"
        assert not app.query_one(HistorySearch).display
        assert isinstance(app.focused, PromptArea)

    drive(steps, ["apple pie", "pear", "apple tart"])


def test_escape_leaves_the_search_and_the_draft_as_it_was() -> None:
    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press(*"dr", "ctrl+r", "escape")
        await pilot.pause()
        assert app.composer.text == "dr"
        assert isinstance(app.focused, PromptArea)
        assert not app.query(Input).first().has_focus

    drive(steps, ["apple"])


def test_a_search_wants_every_word_and_gives_the_newest_first() -> None:
    assert matching_messages(["red fox", "fox", "A Fox in red", "red fox"], "fox RED") == ["red fox", "A Fox in red"]


def test_paths_are_completed_after_an_at_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "my plan.txt").write_text("x")
    monkeypatch.chdir(tmp_path)

    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        completion = app.query_one(PathCompletion)
        await pilot.press(*"see @no")
        await settle(pilot)
        assert completion.open
        await pilot.press("down", "tab")
        assert app.composer.text == "see @nothing/"
        await settle(pilot)
        await pilot.press("enter")
        assert app.composer.text == 'see @"nothing/my plan.txt" '
        assert app.sent == []
        await settle(pilot)
        assert not completion.open

    drive(steps)


def test_escape_closes_the_list_of_paths_and_enter_then_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.md").write_text("x")
    monkeypatch.chdir(tmp_path)

    async def steps(app: ComposerApp, pilot: Pilot[None]) -> None:
        await pilot.press(*"@no")
        await settle(pilot)
        assert app.query_one(Choices).open
        await pilot.press("escape", "enter")
        await pilot.pause()
        assert app.sent == ["@no"]

    drive(steps)


def test_offered_are_text_files_then_folders_and_hidden_ones_only_when_asked(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "Beta.txt").write_text("b")
    (here / "alpha.txt").write_text("a")
    (here / "data.bin").write_bytes(b"\0\1")
    (here / "latin.txt").write_bytes("é!".encode("latin-1"))
    (here / ".secret").write_text("s")
    (here / "folder").mkdir()
    assert matching_paths("", here) == ["alpha.txt", "Beta.txt", "folder/"]
    assert matching_paths("b", here) == ["Beta.txt"]
    assert matching_paths(".", here) == [".secret"]
    assert matching_paths(f"{here}/al") == [f"{here}/alpha.txt"]
    assert matching_paths("nowhere/x", here) == []


@pytest.mark.parametrize(
    ("before", "path"),
    [
        ("@", ""),
        ("see @src/a", "src/a"),
        ('@"my no', "my no"),
        ("@'my \"no", 'my "no'),
        ("me@home", None),
        ("@a b", None),
        ('@"a b" ', None),
    ],
)
def test_an_at_sign_begins_a_path_at_the_start_of_a_word(before: str, path: str | None) -> None:
    assert mentioned_path(before) == path


def test_a_path_with_blanks_is_mentioned_in_quotes() -> None:
    assert mention("a b.txt") == '@"a b.txt"'
    assert mention("a b/", done=False) == '@"a b/'
    assert mention("ab.txt") == "@ab.txt"
    assert mention('a "b".txt') == "@'a \"b\".txt'"
    assert mention("notes.") == '@"notes."'


async def settle(pilot: Pilot[None]) -> None:
    """Lets workers end and the screen follow."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
