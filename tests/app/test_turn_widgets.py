"""A user's message, plain text, and what is copied from rendered Markdown."""

import asyncio
from collections.abc import Awaitable, Callable

from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import Selection
from textual.widget import Widget
from textual.widgets import Static

from gptoss_mlx.app.conversation import Attachment, Turn
from gptoss_mlx.app.widgets.answer import Answer
from gptoss_mlx.app.widgets.markdown_text import MarkdownText
from gptoss_mlx.app.widgets.plain_text import RUN_CHARACTERS, PlainText
from gptoss_mlx.app.widgets.user_message import SHOWN_LINES, AttachedFile, RestOfMessage, UserMessage
from gptoss_mlx.harmony import Message
from tests.app.style import STYLE


class OneWidget(App[None]):
    CSS_PATH = STYLE

    def __init__(self, widget: Widget) -> None:
        super().__init__()
        self.widget = widget
        self.opened: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.widget

    def open_url(self, url: str, *, new_tab: bool = True) -> None:
        self.opened.append(url)


def drive(
    widget: Widget, steps: Callable[[OneWidget, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (40, 20)
) -> None:
    async def run() -> None:
        app = OneWidget(widget)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(run())


def texts(widget: Widget) -> list[str]:
    """What stands in the widget's statics, fold lines left out."""
    return [str(static.content) for static in widget.query(Static) if type(static) is Static and static.display]


def said(text: str, *attachments: Attachment) -> Turn:
    return Turn(1, None, "user", (Message.user(text),), text, attachments)


def test_a_message_stands_as_it_was_typed() -> None:
    async def steps(app: OneWidget, pilot: Pilot[None]) -> None:
        assert texts(app.widget) == ["# no [b]heading[/b]\n  <i> ␛[0m"]

    drive(UserMessage(said("# no [b]heading[/b]\n  <i> \x1b[0m")), steps)


def test_a_long_message_shows_its_beginning_and_unfolds() -> None:
    lines = [f"line {number}" for number in range(500)]

    async def steps(app: OneWidget, pilot: Pilot[None]) -> None:
        rest = app.query_one(RestOfMessage)
        assert texts(app.widget) == ["\n".join(lines[:SHOWN_LINES])]
        assert rest.title() == f"{500 - SHOWN_LINES} more lines"
        assert isinstance(app.widget, UserMessage)
        await app.widget.toggle()
        assert "\n".join(texts(app.widget)) == "\n".join(lines)

    drive(UserMessage(said("\n".join(lines))), steps)


def test_attachments_show_their_cost_when_it_is_known() -> None:
    async def steps(app: OneWidget, pilot: Pilot[None]) -> None:
        assert app.query_one(AttachedFile).title() == "@a.txt · 3 characters"
        assert isinstance(app.widget, UserMessage)
        await app.widget.update(said("see @a.txt", Attachment("a.txt", "abc", 1)))
        assert app.query_one(AttachedFile).title() == "@a.txt · 1 token"

    drive(UserMessage(said("see @a.txt", Attachment("a.txt", "abc"))), steps)


def test_plain_text_that_grows_stays_the_text_and_is_laid_out_in_runs() -> None:
    pieces = [f"Paragraph {number} " + "word " * 40 + "\n\n" for number in range(60)]

    async def steps(app: OneWidget, pilot: Pilot[None]) -> None:
        assert isinstance(app.widget, PlainText)
        for piece in pieces:
            await app.widget.append(piece)
        shown = texts(app.widget)
        assert "\n".join(shown) == "".join(pieces)
        assert all(len(run) <= 2 * RUN_CHARACTERS for run in shown)
        assert len(shown) > 3

    drive(PlainText(), steps)


def test_selected_text_is_copied_without_the_line_ends_of_the_screen() -> None:
    source = "one two three four five six seven eight\n\n- nine ten eleven twelve thirteen\n\n```\nx = 1\ny\n```\n"

    async def steps(app: OneWidget, pilot: Pilot[None]) -> None:
        text = app.widget.get_selection(Selection(None, None))
        assert text is not None
        assert [line.strip() for line in text[0].split("\n")] == [
            "one two three four five six seven eight",
            "",
            "• nine ten eleven twelve thirteen",
            "",
            "x = 1",
            "y",
        ]
        part = app.widget.get_selection(Selection(Offset(4, 0), Offset(4, 1)))
        assert part is not None
        assert part[0].split() == ["two", "three", "four", "five"]

    drive(MarkdownText(source), steps, (20, 20))


def test_only_links_to_the_web_are_opened() -> None:
    async def steps(app: OneWidget, pilot: Pilot[None]) -> None:
        await pilot.click(offset=(1, 0))
        await pilot.click(offset=(1, 2))
        await pilot.pause()
        assert app.opened == ["https://a.org/?x='y'"]

    drive(MarkdownText("[web](https://a.org/?x='y')\n\n[file](file:///etc/passwd)"), steps, (60, 10))


def test_a_streamed_answer_keeps_only_what_is_in_sight_rendered_and_shows_the_rest_again() -> None:
    paragraphs = [f"## Part {n}\n\n" + f"word{n} " * 150 for n in range(16)]

    async def steps(app: OneWidget, pilot: Pilot[None]) -> None:
        answer = app.query_one(Answer)
        for paragraph in paragraphs:
            await answer.append(paragraph + "\n\n")
            await pilot.pause()
            app.query_one(VerticalScroll).scroll_end(animate=False)
            await pilot.pause()
        sections = list(answer.query(MarkdownText))
        height = answer.size.height
        assert len(sections) >= 6
        assert [section.resting for section in sections[:4]] == [True] * 4
        assert not sections[-1].resting
        app.query_one(VerticalScroll).scroll_home(animate=False)
        await pilot.pause()
        assert "Part 0" in str(sections[0].render())
        shown = "\n".join(strip.text for strip in sections[0].render_lines(sections[0].size.region))
        assert "Part 0" in shown
        assert "word0" in shown
        assert not sections[0].resting
        # Nothing moved meanwhile.
        assert answer.size.height == height

    drive(VerticalScroll(Answer(live=True)), steps, (60, 20))
