"""The browser in the app: from the settings or the command line, in the list of tools, its pages and its citations."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.app.preferences import Preferences, load_preferences
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.toolbox import Browsing, Source, Toolbox
from gptoss_mlx.app.widgets.approval_prompt import shown_call
from gptoss_mlx.app.widgets.tool_call import ToolCallBlock
from gptoss_mlx.errors import UsageError
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import make_tool
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final
from tests.app.test_tools import asked

TRIP = "# Trip\n\nOur flight LH123 leaves at 9:40 from gate B7.\nHotel Sonne, two nights.\n"


def call(name: str, arguments: str) -> str:
    return (
        "<|channel|>analysis<|message|>Let me look.<|end|>"
        f"<|start|>assistant<|channel|>analysis to=browser.{name} code<|message|>{arguments}<|call|>"
    )


SEARCH = call("search", '{"query": "flight"}')
OPEN = call("open", '{"id": 0, "cursor": 0}')
ANSWER = final("You fly at **9:40**【1†L4】(from gate B7); two nights in Sonne【1†L5】, see【7†L1】.")
WEB = call("open", '{"id": "http://127.0.0.1:1/x"}')


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "my_trip_.md").write_text(TRIP)
    return folder


def play(
    home: Path, tokenizer: Tokenizer, work: Callable[[Desk], Awaitable[None]], *scripts: str, **arguments: Any
) -> str:
    """Plays it; gives the first prompt."""
    load = ScriptedLoad(tokenizer, *scripts)
    drive(home, load, work, size=(100, 40), **arguments)
    prompts = load.loaded[0].scripted.prompts
    return tokenizer.decode(prompts[0]) if prompts else ""


def test_folders_of_the_settings_are_searched_and_read_without_asking(
    home: Path, tokenizer: Tokenizer, notes: Path
) -> None:
    async def work(desk: Desk) -> None:
        turn = await desk.ask("When do I fly?")
        blocks = list(desk.app.chat.transcript.query(ToolCallBlock))
        assert [block.tool_name for block in blocks] == ["browser.search", "browser.open"]
        await desk.until_shown('browser.search {"query": "flight"} → 9 lines')
        await desk.until_shown("browser.open file://notes/my_trip_.md → 9 lines")
        # Citations are shown by name, the rest of the answer as ever; what is copied is what was said.
        await desk.until_shown("9:40[my_trip_.md:3](from gate B7); two nights in Sonne[my_trip_.md:4], see【7†L1】.")
        assert "【1†L4】" in turn.answer
        assert not desk.app.chat.question_prompt.display

    async def again(desk: Desk) -> None:
        await desk.until_shown("9:40[my_trip_.md:3](from gate B7)")
        await desk.until_shown("browser.open file://notes/my_trip_.md → 9 lines")
        await desk.ask("And?")
        # The page is read anew; cursors go on.
        await desk.until_shown("browser.open file://notes/my_trip_.md → 5 lines")
        results = [message.text for message in desk.path[-1].messages if message.role == "tool"]
        assert results[0].startswith("[2] my_trip_.md (file://notes/my_trip_.md)\n**viewing lines [4 - 5] of 5**")

    preferences = Preferences(browse=[str(notes)])
    prompt = play(home, tokenizer, work, SEARCH, OPEN, ANSWER, preferences=preferences)
    assert "## browser" in prompt
    assert "namespace functions" not in prompt
    play(home, tokenizer, again, call("open", '{"cursor": 1, "loc": 4}'), final("So."), preferences=preferences)


def test_without_a_folder_there_is_no_browser(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.ask("When do I fly?")
        await desk.until_shown("failed: there is no tool browser.search. No tools can be called")
        await desk.press("f6")
        await desk.until_shown("gptoss chat --browse ~/notes")

    async def one(desk: Desk) -> None:
        await desk.ask("Hi")

    assert "browser" not in play(home, tokenizer, one, final("Hi."))
    toolbox = Toolbox([Source(make_tool(lambda: "", name="nothing"), "here")])
    toolbox.choose("nothing", "never")
    assert toolbox.offered(["nothing"]) == []


def test_the_tools_screen_lists_the_browser_once_and_switches_it_off(
    home: Path, tokenizer: Tokenizer, notes: Path
) -> None:
    async def work(desk: Desk) -> None:
        await desk.press("f6")
        await desk.until_shown("● browser on runs at once")
        await desk.until_shown("Searches for information related to `query`")
        assert desk.screen.count("● ") == 1
        await desk.press("space")
        await desk.until_shown("○ browser off here")
        await desk.press("escape")
        await desk.ask("Hi")
        await desk.press("f6")
        await desk.press("space", "p", "escape")
        await desk.ask("When do I fly?")
        await desk.until_shown("failed: the call was refused: it is switched off")

    preferences = Preferences(browse=[str(notes)])
    prompt = play(home, tokenizer, work, final("Hi."), SEARCH, final("Not."), preferences=preferences)
    assert "browser" not in prompt
    assert load_preferences().tools == {"browser": "never"}
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert latest.settings.tools_off is None


def test_a_page_of_the_web_asks_and_shows_where_to_and_always_is_for_all_of_the_browser(
    home: Path, tokenizer: Tokenizer, notes: Path
) -> None:
    async def work(desk: Desk) -> None:
        await desk.press("f6")
        await desk.until_shown("asks for web")
        await desk.press("escape")
        await desk.say("Look.")
        await asked(desk)
        await desk.until_shown("May browser.open run?")
        await desk.until_shown("http://127.0.0.1:1/x")
        await desk.press("a")
        await desk.until_idle()
        # It ran: this machine's own addresses are refused all the same.
        results = [message.text for message in desk.path[-1].messages if message.role == "tool"]
        assert results[0].startswith("[0] flight")
        assert ["may not be opened" in result for result in results] == [False, True, True]

    toolbox = Toolbox(browsing=Browsing((str(notes),), web=True))
    play(home, tokenizer, work, SEARCH, WEB, WEB, final("Not."), toolbox=toolbox)


@pytest.mark.slow
def test_who_chose_ask_for_the_browser_is_asked_for_files_too(home: Path, tokenizer: Tokenizer, notes: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("When do I fly?")
        await asked(desk)
        await desk.press("n")
        await desk.until_idle()
        await desk.until_shown("failed: the call was refused")

    preferences = Preferences(browse=[str(notes)], tools={"browser": "ask"})
    play(home, tokenizer, work, SEARCH, final("Not."), preferences=preferences)


@pytest.mark.slow
def test_a_folder_that_is_gone_is_told_and_the_browser_can_be_switched_off(
    home: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("When do I fly?")
        await desk.until_shown("no such file or folder; correct `browse` in the settings, or switch the browser off")
        assert desk.path == []
        assert desk.draft == "When do I fly?"
        await desk.press("f6")
        await desk.until_shown("not usable")
        await desk.until_shown("It cannot be used")
        await desk.press("space", "escape")
        assert (await desk.ask("And now?")).state == "complete"
        await desk.press("f6")
        await desk.press("space", "escape")
        (tmp_path / "gone").mkdir()
        assert (await desk.ask("And now?")).state == "complete"

    preferences = Preferences(browse=[str(tmp_path / "gone")])
    play(home, tokenizer, work, final("Without."), final("With."), preferences=preferences)


def test_the_command_line_goes_over_the_settings_and_names_are_each_once(notes: Path, tmp_path: Path) -> None:
    toolbox = Toolbox(browsing=Browsing((str(notes),)))
    toolbox.preferred_browsing = lambda: Browsing((str(tmp_path),), web=True)
    (source,) = toolbox.sources
    assert (source.name, source.place, toolbox.policy("browser")) == ("browser", str(notes), "always")
    assert toolbox.sources[0] is source
    tool = make_tool(lambda: "", name="browser")
    with pytest.raises(UsageError, match="--browse and --tool x:browser are both called 'browser'"):
        Toolbox([Source(tool, "--tool x:browser")], browsing=Browsing((str(notes),)))
    with pytest.raises(UsageError):
        Toolbox(browsing=Browsing(("/no/such/folder",))).offered()


def test_settings_that_cannot_be_used_are_told(home: Path) -> None:
    file = home / "settings.toml"
    file.write_text('browse = "~/notes"\nsearch_provider = "ask"\nbrowse_web = 1\n')
    found = load_preferences()
    assert (found.browse, found.browse_web, found.search_provider) == ((), False, None)
    assert len(found.problems) == 3
    file.write_text('browse = ["~/notes"]\nsearch_provider = "brave"\nbrowse_web = true\n')
    found = load_preferences()
    assert (found.browse, found.browse_web, found.search_provider) == (["~/notes"], True, "brave")


def test_the_question_shows_what_a_link_leads_to() -> None:
    assert (
        shown_call('{"id": 3}', about="https://x.org/\u202eevil")
        == "│ https://x.org/\N{REPLACEMENT CHARACTER}evil\nid: 3"
    )
