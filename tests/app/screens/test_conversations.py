"""The list of conversations, over a real store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.screens.conversations import ConversationsScreen
from gptoss_mlx.app.store import Store
from tests.app.screens.around import Work, note, run_screen, said, until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "chats.sqlite3") as store:
        for number, text in enumerate(["What is a sink?", "Plan a walk in the Engadin", "[b]Bold[/b] claims"]):
            conversation = store.create(date="2026-03-17")
            store.add_turn(conversation.id, Turn(0, None, "user", text=text, created=float(number)))
        yield store


def opened(
    store: Store, work: Work, size: tuple[int, int] = (80, 24), exported: list[int] | None = None
) -> list[object]:
    def make() -> ConversationsScreen:
        return ConversationsScreen(store, export=[].append if exported is None else exported.append)

    async def when_listed(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: rows(pilot))
        await work(pilot)

    return run_screen(make, when_listed, size)


def rows(pilot: Pilot[None]) -> int:
    return pilot.app.screen.query_one(OptionList).option_count


async def press_and_see(pilot: Pilot[None], key: str, sentence: str) -> None:
    await pilot.press(key)
    await until(pilot, lambda: sentence in note(pilot))


def test_the_newest_is_first_and_enter_opens_it(store: Store) -> None:
    newest = store.list()[0].id

    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("enter")

    assert opened(store, work) == [newest]


def test_arrows_move_while_the_search_field_has_the_focus(store: Store) -> None:
    oldest = store.list()[-1].id

    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("down", "down", "down", "down", "up", "down", "enter")

    assert opened(store, work) == [oldest]


def test_titles_are_text_and_no_markup(store: Store) -> None:
    async def work(pilot: Pilot[None]) -> None:
        assert "[b]Bold[/b] claims" in said(pilot)

    opened(store, work)


def test_typing_searches_and_shows_what_matched(store: Store) -> None:
    async def work(pilot: Pilot[None]) -> None:
        await pilot.press(*"engad")
        await until(pilot, lambda: rows(pilot) == 1)
        assert "Plan a walk in the Engadin" in said(pilot)
        await pilot.press(*"xyz")
        await until(pilot, lambda: "nothing is found for 'engadxyz'" in note(pilot))
        assert rows(pilot) == 0
        # There is nothing to open.
        await pilot.press("enter")

    assert opened(store, work) == []


def test_escape_opens_nothing(store: Store) -> None:
    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("escape")

    assert opened(store, work) == [None]


def test_a_deleted_one_comes_back_with_undo(store: Store) -> None:
    async def work(pilot: Pilot[None]) -> None:
        await press_and_see(pilot, "ctrl+x", "Deleted '[b]Bold[/b] claims'")
        assert len(store.list()) == 2
        await press_and_see(pilot, "ctrl+x", "Deleted 'Plan a walk")
        await press_and_see(pilot, "ctrl+z", "'Plan a walk in the Engadin' is back")
        await press_and_see(pilot, "ctrl+z", "claims' is back")
        assert len(store.list()) == 3
        await press_and_see(pilot, "ctrl+z", "nothing was deleted")

    opened(store, work)


def test_deleting_all_leaves_an_empty_list_that_says_so(store: Store) -> None:
    async def work(pilot: Pilot[None]) -> None:
        for left in (2, 1, 0):
            await pilot.press("ctrl+x")
            await until(pilot, lambda left=left: rows(pilot) == left)
        await pilot.press("ctrl+x", "ctrl+r", "ctrl+e", "enter")

    assert opened(store, work) == []
    assert store.list() == []


def test_a_new_name_is_kept(store: Store) -> None:
    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("down", "ctrl+r")
        await pilot.pause()
        pilot.app.screen.query_one(Input).value = "  Walks  "
        await pilot.press("enter")
        await until(pilot, lambda: "Walks" in said(pilot))

    opened(store, work)
    assert [summary.title for summary in store.list("walks")] == ["Walks"]


def test_renaming_can_be_left(store: Store) -> None:
    before = [summary.title for summary in store.list()]

    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+r")
        await pilot.pause()
        await pilot.press("x", "escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConversationsScreen))

    opened(store, work)
    assert [summary.title for summary in store.list()] == before


def test_export_is_of_the_one_under_the_cursor(store: Store) -> None:
    exported: list[int] = []

    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("down", "ctrl+e")

    opened(store, work, exported=exported)
    assert exported == [store.list()[1].id]


@pytest.mark.parametrize("size", [(60, 15), (220, 60)])
def test_the_keys_are_on_the_screen_at_every_size(store: Store, size: tuple[int, int]) -> None:
    async def work(pilot: Pilot[None]) -> None:
        for word in ("Enter open", "Ctrl+X delete"):
            assert word in said(pilot)

    opened(store, work, size)
