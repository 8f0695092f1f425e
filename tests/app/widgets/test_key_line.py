"""The line of keys: what matters now, as much as fits."""

import asyncio

import pytest
from textual.app import App, ComposeResult

from gptoss_mlx.app.commands import HINTS, Moment
from gptoss_mlx.app.widgets.key_line import KeyLine, render_keys


@pytest.mark.parametrize("moment", list(HINTS))
@pytest.mark.parametrize("width", [1, 10, 38, 60, 80, 220])
def test_it_shows_whole_hints_only_and_never_more_than_fit(moment: Moment, width: int) -> None:
    line = render_keys(moment, width)
    assert line.cell_length <= width
    assert render_keys(moment, 1000).plain.startswith(line.plain)


def test_while_an_answer_comes_the_first_key_is_the_one_that_stops_it() -> None:
    assert render_keys("answering", 60).plain.startswith("Esc stop")


def test_a_click_on_a_hint_does_what_its_key_does() -> None:
    stopped: list[str] = []

    class Small(App[None]):
        def compose(self) -> ComposeResult:
            yield KeyLine()

        def action_stop(self) -> None:
            stopped.append("stop")

    async def click() -> None:
        app = Small()
        async with app.run_test(size=(60, 3)) as pilot:
            app.query_one(KeyLine).moment = "answering"
            await pilot.pause()
            await pilot.click(KeyLine, offset=(5, 0))
            await pilot.pause()

    asyncio.run(click())
    assert stopped == ["stop"]
