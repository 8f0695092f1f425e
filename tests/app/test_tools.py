"""Tools in the app: what they may call, the question before one runs, and what the chat shows and keeps of it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.partial_answer import PartialAnswer
from gptoss_mlx.app.preferences import Preferences, load_preferences
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.toolbox import Source, Toolbox
from gptoss_mlx.app.widgets.approval_prompt import PAUSE_SECONDS, exactly, shown_call
from gptoss_mlx.app.widgets.tool_call import ToolCallBlock
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import ChannelStart, PromptProgress, TextDelta, ToolResult
from gptoss_mlx.harmony import Message
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import current_call, make_tool
from tests.app.driving import Desk, drive
from tests.app.scripted_engine import ScriptedLoad, final

SUM = '{"a": 17, "b": 25}'


def call(name: str, arguments: str) -> str:
    """The script of a call after some thought."""
    return (
        "<|channel|>analysis<|message|>I need a tool.<|end|>"
        f"<|start|>assistant to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>{arguments}<|call|>"
    )


class Workshop:
    """Tools that note what became of them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def add(self, a: int, b: int) -> int:
        """Adds."""
        self.done.append(f"{a}+{b}")
        return a + b

    def fail(self) -> None:
        """Fails."""
        raise RuntimeError("no \x1b[31msuch\x1b[0m thing")

    def wait(self) -> str:
        """Takes its time."""
        running = current_call()
        assert running is not None
        running.on_cancel(self.go.set)
        self.begun.set()
        self.go.wait(20)
        self.done.append("stopped" if running.cancelled else "waited")
        return "waited"

    def toolbox(self, *, run_all: bool = False) -> Toolbox:
        tools = (self.add, self.fail, self.wait)
        return Toolbox([Source(make_tool(tool), f"--tool shop:{tool.__name__}") for tool in tools], run_all=run_all)


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


def block(desk: Desk) -> ToolCallBlock:
    return list(desk.app.chat.transcript.query(ToolCallBlock))[-1]


async def asked(desk: Desk) -> None:
    """Waits until a question has the keys, and it is sure that they are meant for it."""
    prompt = desk.app.chat.question_prompt
    await desk.until(lambda: prompt.display and prompt.has_keys)
    await asyncio.sleep(PAUSE_SECONDS + 0.05)


def play(
    home: Path,
    tokenizer: Tokenizer,
    shop: Workshop,
    work: Callable[[Desk], Awaitable[None]],
    *scripts: str,
    run_all: bool = False,
    **arguments: Any,
) -> ScriptedLoad:
    load = ScriptedLoad(tokenizer, *scripts)
    drive(home, load, work, **{"toolbox": shop.toolbox(run_all=run_all), **arguments})
    return load


def roles(turn: Turn) -> list[str]:
    return [message.role if message.tool_name is None else "call" for message in turn.messages]


def test_a_call_that_was_allowed_runs_and_the_chat_keeps_call_and_result(
    home: Path, tokenizer: Tokenizer, shop: Workshop
) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await asked(desk)
        await desk.until_shown("May add run?")
        assert "a: 17" in desk.screen
        assert "b: 25" in desk.screen
        assert shop.done == []
        await desk.press("y")
        await desk.until_idle()
        assert shop.done == ["17+25"]
        await desk.until_shown("→ 42")
        assert not desk.app.chat.question_prompt.display
        assert desk.app.chat.composer.has_focus_within
        assert roles(desk.path[-1]) == ["assistant", "call", "tool", "assistant"]
        assert desk.path[-1].stats["tool_seconds"]

    async def again(desk: Desk) -> None:
        await desk.until_shown("→ 42")
        await desk.ask("And?")

    load = play(home, tokenizer, shop, work, call("add", SUM), final("It is 42."))
    assert "namespace functions" in tokenizer.decode(load.loaded[0].scripted.prompts[0])
    load = play(home, tokenizer, shop, again, final("Yes."))
    prompt = tokenizer.decode(load.loaded[0].scripted.prompts[-1])
    assert "functions.add to=assistant" in prompt.replace("<|start|>", "")
    assert ">42<" in prompt


@pytest.mark.slow
def test_a_refusal_and_its_reason_reach_the_model(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await asked(desk)
        await desk.press("n")
        await asked(desk)
        await desk.press("r")
        await desk.type("yes but later")
        await desk.press("escape")
        assert desk.app.chat.question_prompt.display
        await desk.press("t")
        await desk.type("oo dear")
        await desk.press("enter")
        await desk.until_idle()
        results = [message.text for message in desk.path[-1].messages if message.role == "tool"]
        assert results == [
            "Error: the call was refused. The tool did not run.",
            "Error: the call was refused: too dear. The tool did not run.",
        ]
        await desk.until_shown("failed: the call was refused: too dear")
        assert block(desk).has_class("-failed")
        assert desk.draft == ""

    play(home, tokenizer, shop, work, call("add", SUM), call("add", SUM), final("Then not."))
    assert shop.done == []


def test_always_asks_no_more_for_that_tool_while_the_app_runs(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await asked(desk)
        await desk.press("a")
        await desk.until_idle()
        assert shop.done == ["17+25", "17+25"]
        desk.app.action_new_chat()
        await desk.until(lambda: not desk.path)
        await desk.ask("Again?")
        assert shop.done == ["17+25"] * 3
        await desk.say("Another tool?")
        await asked(desk)
        await desk.press("n")
        await desk.until_idle()

    scripts = (call("add", SUM), call("add", SUM), final("42."), call("add", SUM), final("42."), call("fail", "{}"))
    play(home, tokenizer, shop, work, *scripts)
    assert load_preferences().tools == {}


def test_escape_at_the_question_stops_the_answer_and_no_tool_runs(
    home: Path, tokenizer: Tokenizer, shop: Workshop
) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await asked(desk)
        await desk.press("escape")
        await desk.until(lambda: desk.idle and len(desk.path) == 2)
        assert desk.path[-1].state == "stopped"
        assert not desk.app.chat.question_prompt.display
        assert shop.done == []
        desk.app.action_continue_answer()
        await desk.until(lambda: desk.idle and desk.path[-1].state == "complete")
        assert roles(desk.path[-1]) == ["assistant", "call", "tool", "assistant"]
        assert desk.path[-1].answer == "Without it, then."

    play(home, tokenizer, shop, work, call("add", SUM), final("Without it, then."))


def test_escape_in_a_tool_stops_the_tool_and_the_answer(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("Wait.")
        await desk.until(shop.begun.is_set)
        await desk.press("escape")
        await desk.until(lambda: desk.idle and len(desk.path) == 2)
        assert desk.path[-1].state == "stopped"
        assert shop.done == ["stopped"]
        await desk.until_shown("failed: the user stopped this call")

    play(home, tokenizer, shop, work, call("wait", "{}"), run_all=True)


def test_what_a_tool_raises_is_shown_harmlessly_and_the_model_goes_on(
    home: Path, tokenizer: Tokenizer, shop: Workshop
) -> None:
    async def work(desk: Desk) -> None:
        turn = await desk.ask("Try.")
        assert turn.answer == "It failed."
        await desk.until_shown("failed: RuntimeError: no ␛[31msuch")

    play(home, tokenizer, shop, work, call("fail", "{}"), final("It failed."), run_all=True)


@pytest.mark.slow
def test_a_question_waits_behind_another_conversation_and_is_found_again(
    home: Path, tokenizer: Tokenizer, shop: Workshop
) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await asked(desk)
        desk.app.action_new_chat()
        await desk.until(lambda: not desk.path)
        await desk.until_shown("Another conversation waits for your word: may add run? F7 opens it.")
        await desk.until_shown("may add run? F7")
        assert not desk.app.chat.question_prompt.display
        await desk.press("f4")
        await desk.press("escape")
        await desk.type("ya")
        assert shop.done == []
        assert desk.draft == "ya"
        await desk.press("f7")
        await asked(desk)
        await desk.press("y")
        await desk.until_idle()
        assert shop.done == ["17+25"]
        await desk.until_shown("→ 42")

    play(home, tokenizer, shop, work, call("add", SUM), final("It is 42."))


def test_keys_of_somebody_who_writes_decide_nothing(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    load = ScriptedLoad(tokenizer, call("add", SUM), final("42."), pause_after=3)

    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await desk.until(lambda: len(desk.path) == 2)
        await desk.type("yan")
        load.go.set()
        prompt = desk.app.chat.question_prompt
        await desk.until(lambda: prompt.display)
        await desk.type("y")
        assert not prompt.has_keys
        assert desk.draft == "yany"
        desk.app.chat.set_draft("")
        await desk.press("tab")
        await desk.press("a")
        # Too soon after the question got the keys: it goes to the message.
        await desk.until(lambda: desk.draft == "a")
        assert shop.done == []
        await desk.press("tab")
        await asked(desk)
        await desk.press("y")
        await desk.until_idle()
        assert shop.done == ["17+25"]

    drive(home, load, work, toolbox=shop.toolbox())


def test_a_view_made_while_a_tool_runs_shows_its_result(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("Wait.")
        await desk.until(shop.begun.is_set)
        asking = desk.app.chat.chat.id
        assert asking is not None
        desk.app.action_new_chat()
        await desk.until(lambda: not desk.path)
        desk.app.open_conversation(asking)
        await desk.until_shown("wait {} → …")
        shop.go.set()
        await desk.until_shown("wait {} → waited")
        await desk.until_idle()

    play(home, tokenizer, shop, work, call("wait", "{}"), call("add", SUM), final("Done."), run_all=True)
    assert shop.done == ["waited", "17+25"]


def test_the_tools_screen_shows_switches_and_keeps_policies(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    async def work(desk: Desk) -> None:
        await desk.press("f6")
        await desk.until_shown("--tool shop:add")
        await desk.until_shown("asks first")
        await desk.until_shown('"integer"')
        await desk.press("p")
        await desk.until_shown("runs at once")
        await desk.press("down", "enter")
        await desk.until_shown("off here")
        await desk.press("escape")
        await desk.ask("17 plus 25?")
        assert shop.done == ["17+25"]

    load = play(home, tokenizer, shop, work, call("add", SUM), final("42."), size=(100, 30))
    prompt = tokenizer.decode(load.loaded[0].scripted.prompts[0])
    assert "type add" in prompt
    assert "type fail" not in prompt
    assert load_preferences().tools == {"add": "always"}
    with Store(home / "chats.sqlite3") as store:
        latest = store.latest()
        assert latest is not None
        assert latest.settings.tools_off == ("fail",)


def test_never_refuses_even_where_all_run(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    async def work(desk: Desk) -> None:
        await desk.ask("17 plus 25?")
        await desk.until_shown("failed: the call was refused: it is switched off")

    preferences = Preferences(tools={"add": "never"})
    play(
        home,
        tokenizer,
        shop,
        work,
        call("add", SUM),
        final("Not."),
        run_all=True,
        preferences=preferences,
        size=(100, 24),
    )
    assert shop.done == []


def test_without_tools_the_screen_says_how_to_give_some(home: Path, tokenizer: Tokenizer) -> None:
    async def work(desk: Desk) -> None:
        await desk.press("f6")
        await desk.until_shown("gptoss chat --tool calc.py:multiply")
        await desk.press("p", "space", "escape")

    drive(home, ScriptedLoad(tokenizer), work)


@pytest.mark.slow
def test_a_question_of_a_model_that_was_left_holds_nothing_up(home: Path, tokenizer: Tokenizer, shop: Workshop) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await asked(desk)
        desk.app.session.open("another")
        await desk.until(lambda: desk.idle and desk.app.session.state == "ready")
        assert not desk.app.chat.question_prompt.display
        assert desk.path[-1].state == "stopped"
        assert shop.done == []

    play(home, tokenizer, shop, work, call("add", SUM), final("42."))


def test_a_question_of_a_deleted_conversation_holds_nothing_up(
    home: Path, tokenizer: Tokenizer, shop: Workshop
) -> None:
    async def work(desk: Desk) -> None:
        await desk.say("17 plus 25?")
        await asked(desk)
        await desk.press("f3")
        await desk.until_shown("Esc closes")
        await desk.until_shown("Enter open")
        await desk.press("ctrl+x")
        await desk.until_shown("Ctrl+Z brings it back")
        await desk.press("escape")
        await desk.until(lambda: desk.app.answers.running is None and not desk.path)
        assert not desk.app.chat.question_prompt.display
        turn = await desk.ask("17 plus 25?")
        assert turn.answer == "42."

    play(home, tokenizer, shop, work, call("add", SUM), final("42."))
    assert shop.done == []


def test_an_answer_that_goes_on_after_a_result_keeps_its_rounds_all_the_while() -> None:
    partial = PartialAnswer()
    partial.before = (Message.assistant("{}", channel="commentary", recipient="functions.f"), Message.tool("f", "1"))
    partial.take(PromptProgress(10, 10))
    partial.take(ToolResult("call_2", "functions.g", "2"))
    partial.take(ChannelStart("final", None))
    partial.take(TextDelta("final", "So", 1))
    assert [message.text for message in partial.messages()] == ["{}", "1", "2", "So"]


def test_what_a_round_added_is_counted_once_in_the_context() -> None:
    partial = PartialAnswer()
    for event in (
        PromptProgress(100, 100),
        ChannelStart("analysis", None),
        TextDelta("analysis", "Hm", 20),
        PromptProgress(130, 130),
        ChannelStart("final", None),
        TextDelta("final", "So", 5),
    ):
        partial.take(event)
    assert (partial.tokens, partial.context_tokens) == (25, 135)


def test_two_tools_of_one_name_are_one_clear_sentence(shop: Workshop) -> None:
    add = make_tool(shop.add)
    with pytest.raises(UsageError, match="--tool a:add and --tool b:add are both called 'add'"):
        Toolbox([Source(add, "--tool a:add"), Source(add, "--tool b:add")])


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("", "without arguments"),
        ('{"a": 1, "b": [2]}', "a: 1\nb: [\n│   2\n│ ]"),
        ('{"code": "import os\\nos.remove(\\"x\\")"}', 'code:\n│ import os\n│ os.remove("x")'),
        ('"{\\"a\\": 1}"', "a: 1"),
        ("print(1)\ny run it", "│ print(1)\n│ y run it"),
        ('{"a": "\\u001b[2J\\u202eevil\\u200b"}', 'a: "\\u001b[2J\N{REPLACEMENT CHARACTER}evil\\u200b"'),
        ("rm\x1b[2K -rf\u200b", "│ rm␛[2K -rf\\u200b"),
    ],
)
def test_the_question_shows_exactly_what_would_run(raw: str, shown: str) -> None:
    assert shown_call(raw) == shown
    assert exactly(shown_call(raw)) == shown_call(raw)
