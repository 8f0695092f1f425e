"""The panel with the figures of the last answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Sparkline, Static

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.widgets.statistics_panel import StatisticsPanel, figures, lay_out
from gptoss_mlx.events import Stats

STATS = Stats(
    prompt_tokens=1200,
    cached_tokens=900,
    reasoning_tokens=341,
    answer_tokens=120,
    generated_tokens=470,
    ttft_seconds=0.45,
    prompt_seconds=0.3,
    generation_seconds=10.0,
    peak_memory_bytes=3 << 29,
)
TURN = Turn(7, 6, "assistant", model="pocket", reasoning_seconds=6.2, finish_reason="stop", stats=STATS.to_dict())


class Small(App[None]):
    def compose(self) -> ComposeResult:
        yield StatisticsPanel()


def run(work: Callable[[StatisticsPanel], Awaitable[None]]) -> None:
    async def held() -> None:
        app = Small()
        async with app.run_test(size=(40, 20)):
            panel = app.query_one(StatisticsPanel)
            await panel.furnish()
            await work(panel)

    asyncio.run(held())


def test_the_figures_are_those_of_the_answer() -> None:
    rows = dict(figures(TURN))
    assert rows["from the cache"] == "900 tokens, 75 %"
    assert rows["prompt read in"] == "0.30 s, 1,000 tok/s"
    assert rows["reasoning"] == "341 tokens, 6.2 s"
    assert rows["answer"] == "120 tokens"
    assert rows["speed"] == "46.9 tok/s"
    assert rows["memory at most"] == "1.5 GiB"
    assert rows["ended by"] == "the model"


def test_an_empty_answer_has_figures_too() -> None:
    assert dict(figures(replace(TURN, stats=Stats().to_dict())))["from the cache"] == "none"


@pytest.mark.parametrize("width", [48, 60, 80, 219])
def test_in_lines_nothing_is_cut(width: int) -> None:
    text = lay_out(figures(TURN), width)
    assert all(line.cell_length <= width for line in text.split("\n"))
    assert "46.9 tok/s" in text.plain


def test_the_curve_is_there_while_an_answer_comes_and_stays_when_it_is_over() -> None:
    async def work(panel: StatisticsPanel) -> None:
        panel.begin(replace(TURN, stats={}, state="running"))
        assert not panel.query_one(Sparkline).display
        for number in range(5):
            panel.add_speed(number * 10, 40.0 + number)
        assert panel.query_one(Sparkline).display
        assert "40 tokens" in str(panel.query_one("#figures", Static).content)
        panel.show(TURN)
        assert panel.speeds == (40.0, 41.0, 42.0, 43.0, 44.0)
        panel.show(replace(TURN, id=9))
        assert panel.speeds == ()

    run(work)


def test_a_long_answer_takes_no_more_memory_than_a_short_one() -> None:
    async def work(panel: StatisticsPanel) -> None:
        panel.begin(TURN)
        for number in range(2000):
            panel.add_speed(number, 1.0)
        assert len(panel.speeds) == 600

    run(work)


def test_before_the_first_answer_it_says_so() -> None:
    async def work(panel: StatisticsPanel) -> None:
        assert "no answer yet" in str(panel.query_one("#figures", Static).content)

    run(work)
