"""An answer under way, and as it stands when it is over."""

import asyncio
from collections.abc import Awaitable, Callable

from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Static

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.widgets.answer import Answer
from gptoss_mlx.app.widgets.answer_turn import AnswerTurn
from gptoss_mlx.app.widgets.markdown_text import MarkdownText
from gptoss_mlx.app.widgets.plain_text import PlainText
from gptoss_mlx.app.widgets.reasoning import Reasoning
from gptoss_mlx.app.widgets.tool_call import ToolCallBlock
from gptoss_mlx.events import ChannelStart, Event, PromptProgress, TextDelta, ToolCall, ToolResult
from gptoss_mlx.harmony import ANALYSIS, COMMENTARY, FINAL, Message
from tests.app.style import STYLE
from tests.app.turns import answer_turn

RUNNING = Turn(2, 1, "assistant", state="running")


class AnswerApp(App[None]):
    CSS_PATH = STYLE

    def __init__(self, turn: Turn, *, keep_open: bool = False, may_fold: bool = True) -> None:
        super().__init__()
        self.view = AnswerTurn(turn, keep_reasoning_open=keep_open, may_fold=lambda: may_fold)

    def compose(self) -> ComposeResult:
        yield self.view


def drive(
    steps: Callable[[AnswerTurn, Pilot[None]], Awaitable[None]],
    turn: Turn = RUNNING,
    *,
    keep_open: bool = False,
    may_fold: bool = True,
) -> None:
    async def run() -> None:
        app = AnswerApp(turn, keep_open=keep_open, may_fold=may_fold)
        async with app.run_test(size=(60, 40)) as pilot:
            await pilot.pause()
            await steps(app.view, pilot)

    asyncio.run(run())


async def feed(view: AnswerTurn, *events: Event) -> None:
    """Feeds the events and waits until they are shown."""
    for event in events:
        await view.feed(event)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if not view._pending and not view._showing.locked():
            return


def think(text: str, tokens: int = 1) -> TextDelta:
    return TextDelta(ANALYSIS, text, tokens)


def say(text: str, tokens: int = 1) -> TextDelta:
    return TextDelta(FINAL, text, tokens)


def rows(view: AnswerTurn) -> list[str]:
    """The rendered answer, without blank rows."""
    texts = view.query(MarkdownText)
    return [row.content.plain.strip() for text in texts for row in text.rows(50) if row.content.plain.strip()]


def test_reasoning_streams_open_and_folds_when_the_answer_begins() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(ANALYSIS, None), think("Let me", 2), think(" see.", 3))
        reasoning = view.query_one(Reasoning)
        assert not reasoning.folded
        assert reasoning.title().startswith("Thinking … ")
        assert reasoning.title().endswith(" · 5 tokens")
        await feed(view, ChannelStart(FINAL, None), say("**Yes**."))
        assert reasoning.folded
        assert reasoning.title().startswith("Thought for ")
        assert rows(view) == ["Yes."]

    drive(steps)


def test_reasoning_stays_open_where_the_user_wants_it_so() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(ANALYSIS, None), think("Hm."), ChannelStart(FINAL, None), say("Yes."))
        assert not view.query_one(Reasoning).folded

    drive(steps, keep_open=True)
    drive(steps, may_fold=False)


def test_reasoning_that_the_reader_unfolded_again_is_left_to_them() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(ANALYSIS, None), think("Hm."))
        await view.toggle()
        await view.toggle()
        await feed(view, think(" More."), ChannelStart(FINAL, None), say("Yes."))
        reasoning = view.query_one(Reasoning)
        assert not reasoning.folded
        assert [str(static.content) for static in reasoning.query_one(PlainText).query(Static)] == ["Hm. More."]

    drive(steps)


def test_folded_reasoning_takes_text_without_showing_it() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(ANALYSIS, None), think("One"))
        await view.toggle()
        await feed(view, think(" two"))
        reasoning = view.query_one(Reasoning)
        assert not reasoning.query(PlainText)
        assert reasoning.source == "One two"
        assert reasoning.title().startswith("Thinking … ")

    drive(steps)


def test_at_the_end_the_exact_text_stands() -> None:
    answer = "# T\n\n```python\nx = 1\n```\n\nSee [it][1] and \x1b[31m[b]this[/b].\n\n[1]: https://a.org\n"
    reasoning = "Hm. " * 50

    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(ANALYSIS, None), think(reasoning), ChannelStart(FINAL, None))
        await feed(view, *(say(letter) for letter in answer))
        await view.finish(answer_turn(2, answer, reasoning))
        await pilot.pause()
        assert view.query_one(Answer).source == answer
        assert rows(view) == ["T", "x = 1", "See it (https://a.org) and ␛[31m[b]this[/b]."]
        assert view.query_one(Reasoning).title() == "Thought for 6.2 s · 341 tokens"

    drive(steps)


def test_what_the_events_did_not_say_is_shown_from_the_turn() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(FINAL, None), say("Half of"))
        await view.finish(answer_turn(2, "All of it.", "Hm."))
        await pilot.pause()
        assert rows(view) == ["All of it."]
        assert view.query_one(Reasoning).folded

    drive(steps)


def test_a_tool_call_stands_in_one_line_and_unfolds() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(
            view,
            ChannelStart(COMMENTARY, "functions.weather"),
            TextDelta(COMMENTARY, '{"city": ', 2),
            TextDelta(COMMENTARY, '"Oslo"}', 2),
            ToolCall("call_1", "functions.weather", {"city": "Oslo"}, '{"city": "Oslo"}'),
        )
        block = view.query_one(ToolCallBlock)
        assert block.title() == 'weather {"city": "Oslo"} → …'
        await feed(
            view, ToolResult("call_1", "functions.weather", "rain\nwind"), ChannelStart(FINAL, None), say("Wet.")
        )
        assert block.title() == 'weather {"city": "Oslo"} → 2 lines'
        await view.toggle()
        shown = "".join(str(static.content) for static in block.query_one(PlainText).query(Static))
        assert shown == '{\n  "city": "Oslo"\n}\n→\nrain\nwind'
        call = Message.assistant('{"city": "Oslo"}', channel=COMMENTARY, recipient="functions.weather")
        result = Message.tool("functions.weather", "rain\nwind")
        await view.finish(Turn(2, 1, "assistant", (call, result, Message.assistant("Wet."))))
        assert view.query_one(ToolCallBlock) is block

    drive(steps)


def test_text_in_commentary_is_for_the_reader_too() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(COMMENTARY, None), TextDelta(COMMENTARY, "I look it up.", 4))
        await feed(view, ChannelStart("finale", None), TextDelta("finale", "Odd.", 1))
        assert rows(view) == ["I look it up.", "Odd."]

    drive(steps)


def test_text_without_a_channel_start_is_shown() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, say("Yes."))
        assert rows(view) == ["Yes."]

    drive(steps)


def test_the_foot_says_how_far_the_prompt_is_and_how_the_answer_ended() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, PromptProgress(370, 1000))
        assert view.remarks() == ["Reading prompt 37 %"]
        await feed(view, ChannelStart(FINAL, None), say("Ye"))
        assert view.remarks() == []
        await view.finish(answer_turn(2, "Ye", state="stopped"))
        assert view.remarks() == ["stopped · g goes on"]
        assert rows(view) == ["Ye"]

    drive(steps)


def test_a_failed_answer_says_why_and_keeps_what_came() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(FINAL, None), say("Ye"))
        await view.finish(Turn(2, 1, "assistant", (Message.assistant("Ye"),), state="failed", error="It broke."))
        assert view.remarks() == ["It broke."]
        assert rows(view) == ["Ye"]

    drive(steps)


def test_an_answer_goes_on_in_a_new_view_of_its_turn() -> None:
    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, say(" and on."))
        assert rows(view) == ["On and on."]
        await view.finish(answer_turn(2, "On and on.", "Hm."))
        assert view.query_one(Answer).source == "On and on."

    drive(steps, answer_turn(2, "On", "Hm.", state="running"))


def test_a_long_answer_at_full_speed_arrives_whole() -> None:
    source = "".join(f"- item {n} of **many**\n" for n in range(300)) + "```\n" + "x = 1\n" * 900 + "```\nEnd.\n"

    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await view.feed(ChannelStart(FINAL, None))
        for begin in range(0, len(source), 5):
            await view.feed(say(source[begin : begin + 5]))
            if begin % 500 == 0:
                await asyncio.sleep(0.01)
        await view.finish(answer_turn(2, source))
        await pilot.pause()
        assert view.query_one(Answer).source == source
        assert rows(view) == [f"• item {n} of many" for n in range(300)] + ["x = 1"] * 900 + ["End."]

    drive(steps)


def test_an_odd_message_does_not_break_the_view() -> None:
    odd = "[bold]\x1b]0;t\x07 שלום e\u0301 日本語 " + "x" * 10_000 + "\n```\nopen code [/]\n> | a |\n|--|\n\ud800"

    async def steps(view: AnswerTurn, pilot: Pilot[None]) -> None:
        await feed(view, ChannelStart(ANALYSIS, None), think(odd), ChannelStart(FINAL, None), say(odd))
        await view.finish(answer_turn(2, odd, odd))
        await view.toggle()
        await pilot.pause()
        assert view.query_one(Answer).source == odd
        assert "[bold]␛]0;t␇" in rows(view)[0]

    drive(steps)
