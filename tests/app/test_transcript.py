"""The conversation on the screen."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.widgets.answer import Answer
from gptoss_mlx.app.widgets.answer_turn import AnswerTurn
from gptoss_mlx.app.widgets.plain_text import PlainText
from gptoss_mlx.app.widgets.reasoning import Reasoning
from gptoss_mlx.app.widgets.transcript import Transcript
from gptoss_mlx.app.widgets.turn_view import TurnView
from gptoss_mlx.app.widgets.turn_window import MOUNTED_TURNS, PAGE_TURNS
from gptoss_mlx.events import ChannelStart, TextDelta
from tests.app.style import STYLE
from tests.app.turns import answer_turn, conversation, user_turn


class TranscriptApp(App[None]):
    CSS_PATH = STYLE

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []

    def compose(self) -> ComposeResult:
        yield Transcript()

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    def action_copy_message(self) -> None:
        self.did.append("copy")

    def action_previous_branch(self) -> None:
        self.did.append("branch")


def drive(
    steps: Callable[[TranscriptApp, Pilot[None]], Awaitable[None]],
    turns: list[Turn],
    size: tuple[int, int] = (80, 24),
) -> None:
    async def run() -> None:
        app = TranscriptApp()
        async with app.run_test(size=size) as pilot:
            app.transcript.focus()
            await app.transcript.show(turns, {2: [2, 3]})
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(run())


async def settle(pilot: Pilot[None]) -> None:
    """Lets pages be mounted and the screen follow."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def top_row(app: TranscriptApp) -> tuple[TurnView, int]:
    """The turn at the top of the view, and where it begins on the screen."""
    top = app.transcript.region.y
    view = next(view for view in app.query(TurnView) if view.region.bottom > top)
    return view, view.region.y


def shown_ids(app: TranscriptApp) -> list[int]:
    return [view.turn.id for view in app.query(TurnView)]


def test_a_long_conversation_opens_at_its_end_and_mounts_only_that() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        assert app.transcript.is_vertical_scroll_end
        assert shown_ids(app)[-1] == 500
        assert len(shown_ids(app)) <= 3 * PAGE_TURNS
        assert app.transcript.selected == turns[-1]

    turns = conversation(500)
    drive(steps, turns)


@pytest.mark.slow
def test_scrolling_up_pages_through_all_turns_without_a_jump() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        transcript = app.transcript
        seen: list[int] = []
        for _ in range(100):
            if transcript.scroll_y == 0 and shown_ids(app)[0] == 1:
                break
            before, y = top_row(app)
            transcript.scroll_relative(y=-20, animate=False)
            await settle(pilot)
            assert len(shown_ids(app)) <= MOUNTED_TURNS
            if before.is_attached and transcript.scroll_y > 0:
                assert before.region.y - y == 20
            seen += shown_ids(app)
        assert set(seen) == set(range(1, 81))
        transcript.scroll_end(animate=False)
        for _ in range(100):
            await settle(pilot)
            if shown_ids(app)[-1] == 80 and transcript.is_vertical_scroll_end:
                break
            transcript.scroll_relative(y=15, animate=False)
        assert shown_ids(app)[-1] == 80

    drive(steps, conversation(80))


def test_home_and_end_go_to_the_first_turn_and_the_last() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        await pilot.press("home")
        await settle(pilot)
        assert shown_ids(app)[0] == 1
        assert app.transcript.scroll_y == 0
        assert app.transcript.selected == turns[0]
        await pilot.press("end")
        await settle(pilot)
        assert app.transcript.selected == turns[-1]
        assert app.transcript.is_vertical_scroll_end
        assert app.transcript.follows_end

    turns = conversation(200)
    drive(steps, turns)


def test_the_cursor_goes_from_turn_to_turn_and_says_so() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        await pilot.press("up")
        assert app.transcript.selected == turns[2]
        await pilot.press("k", "k")
        assert app.transcript.selected == turns[0]
        await pilot.press("k", "down")
        assert app.transcript.selected == turns[1]

    turns = [user_turn(1, "a"), answer_turn(2, "b"), user_turn(3, "c"), answer_turn(4, "d")]
    drive(steps, turns)


def test_the_cursor_walks_through_a_turn_that_is_taller_than_the_view() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        transcript = app.transcript
        places = []
        for _ in range(12):
            await pilot.press("up")
            await pilot.pause()
            places.append(round(transcript.scroll_y))
        assert all(0 <= before - after <= 14 for before, after in pairwise(places))
        assert transcript.selected == turns[0]
        assert places[-1] == 0

    turns = [user_turn(1, "a"), answer_turn(2, "Words.\n\n" * 40)]
    drive(steps, turns)


def test_keys_of_a_turn_are_actions_of_the_app() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        await pilot.press("y", "left_square_bracket")
        assert app.did == ["copy", "branch"]

    drive(steps, conversation(4))


def test_reasoning_of_an_old_chat_is_not_there_until_it_is_unfolded() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        reasoning = app.query_one(Reasoning)
        assert reasoning.folded
        assert not reasoning.query(PlainText)
        assert reasoning.title() == "Thought for 6.2 s · 341 tokens"
        await pilot.press("enter")
        assert not reasoning.folded
        assert reasoning.query_one(PlainText)
        await pilot.press("enter")
        await pilot.click(Reasoning, offset=(2, 0))
        assert not reasoning.folded

    drive(steps, [user_turn(1, "a"), answer_turn(2, "b", "Long [b]thought[/b].")])


def test_one_key_unfolds_all_reasoning_and_turns_that_are_mounted_later_follow() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        app.transcript.toggle_all_reasoning()
        await settle(pilot)
        assert not any(reasoning.folded for reasoning in app.query(Reasoning))
        await pilot.press("home")
        await settle(pilot)
        assert not any(reasoning.folded for reasoning in app.query(Reasoning))
        app.transcript.toggle_all_reasoning()
        await settle(pilot)
        assert all(reasoning.folded for reasoning in app.query(Reasoning))

    drive(steps, conversation(60))


def test_turns_are_added_and_taken_away_at_the_end() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        transcript = app.transcript
        await transcript.add(user_turn(5, "more"))
        view = await transcript.add(answer_turn(6, "yes"))
        assert view.turn.id == 6
        assert transcript.selected == view.turn
        await transcript.remove_after(3)
        assert shown_ids(app) == [1, 2, 3]
        assert transcript.selected is not None
        assert transcript.selected.id == 3
        await transcript.remove_after(None)
        assert shown_ids(app) == []
        assert transcript.selected is None

    drive(steps, conversation(4))


def test_taking_away_turns_below_one_that_is_not_mounted_shows_the_end_that_is_left() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        await app.transcript.remove_after(10)
        await pilot.pause()
        assert shown_ids(app)[-1] == 10

    drive(steps, conversation(100))


def test_the_view_follows_an_answer_at_the_end_but_leaves_a_reader_where_they_are() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        transcript = app.transcript
        view = await transcript.add(Turn(11, 10, "assistant", state="running"))
        assert isinstance(view, AnswerTurn)
        await view.feed(ChannelStart("final", None))
        await view.feed(TextDelta("final", "Line.\n\n" * 30, 60))
        await pilot.pause(0.4)
        assert transcript.is_vertical_scroll_end
        transcript.scroll_relative(y=-20, animate=False)
        await settle_view(pilot)
        place = transcript.scroll_y
        await view.feed(TextDelta("final", "Line.\n\n" * 30, 60))
        await pilot.pause(0.4)
        assert transcript.scroll_y == place
        assert not transcript.follows_end
        # Two rows from the end are near enough to follow it again.
        transcript.scroll_to(y=transcript.max_scroll_y - 2, animate=False)
        await settle_view(pilot)
        await view.feed(TextDelta("final", "Line.\n\n" * 30, 60))
        await pilot.pause(0.4)
        assert transcript.is_vertical_scroll_end

    drive(steps, conversation(10))


@pytest.mark.slow
def test_a_reader_above_stays_in_place_when_the_screen_is_resized() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        await pilot.press("home", "down", "down", "down", "down", "down")
        await settle(pilot)
        app.transcript.scroll_to_widget(app.transcript.view(5) or app.transcript, top=True, animate=False)
        await settle(pilot)
        before = top_row(app)
        await pilot.resize_terminal(50, 24)
        await settle(pilot)
        assert top_row(app) == before

    drive(steps, conversation(20))


def test_500_turns_open_in_a_second() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            await app.transcript.show(turns, {})
            await pilot.pause()
            times.append(time.perf_counter() - began)
        assert min(times) < 1

    turns = conversation(500)
    drive(steps, turns)


def test_marks_say_which_branch_it_is_and_how_an_answer_ended() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        foots = [view.remarks() for view in app.query(TurnView)]
        assert foots == [[], ["‹ 1/2 ›", "stopped · g goes on"], [], ["It [broke]."]]

    stopped = answer_turn(2, "So", state="stopped")
    failed = Turn(4, 3, "assistant", state="failed", error="It [broke].")
    drive(steps, [user_turn(1, "a"), stopped, user_turn(3, "c"), failed])


@pytest.mark.slow
def test_a_narrow_screen_and_a_huge_one_show_the_same_turns() -> None:
    async def steps(app: TranscriptApp, pilot: Pilot[None]) -> None:
        await settle(pilot)
        assert app.query(Answer)
        assert shown_ids(app)[-1] == 30

    for size in ((20, 5), (220, 60)):
        drive(steps, conversation(30), size)


async def settle_view(pilot: Pilot[None]) -> None:
    """Lets the screen follow, while an answer is under way."""
    await pilot.pause()
    await pilot.pause()
