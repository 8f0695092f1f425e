"""Tools in several namespaces: how they are shown, and which of them a call means, however it is spelt."""

import openai_harmony
import pytest

from gptoss_mlx.harmony import DeveloperContent, Message, parse_tokens, render_conversation, render_text
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import Namespace, Tool, group_tools
from tests.harmony.conversations import oracle_json
from tests.harmony.test_malformed import CASES, Case, seen

NAMES = frozenset(f"{namespace}.{name}" for namespace in ("north", "south") for name in ("get_weather", "shell"))


def elsewhere(text: str | None, namespace: str) -> str | None:
    return None if text is None else text.replace("functions.", f"{namespace}.")


@pytest.mark.parametrize("namespace", ["north", "south"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_spelling_means_the_tool_of_its_namespace(case: Case, namespace: str, tokenizer: Tokenizer) -> None:
    stream = elsewhere(case.stream, namespace)
    assert stream is not None
    messages = parse_tokens(tokenizer.encode_with_special(stream), tokenizer, tool_names=NAMES)
    assert tuple(seen(message) for message in messages) == tuple(
        (channel, elsewhere(recipient, namespace), kind, elsewhere(text, namespace) or "")
        for channel, recipient, kind, text in case.messages
    )


@pytest.mark.parametrize(
    ("written", "names", "meant"),
    [
        ("add", {"calc.add"}, "calc.add"),
        ("functions.add", {"calc.add", "calc.sub"}, "calc.add"),
        ("functions.calc.add", {"calc.add", "sums.add"}, "calc.add"),
        ("add", {"calc.add", "functions.add"}, "functions.add"),
        ("functions.add", {"calc.add", "functions.add"}, "functions.add"),
        ("addjson", {"calc.add"}, "calc.add"),
        ("calc.addjson", {"calc.add", "sums.add"}, "calc.add"),
        ("calc.addjson", {"calc.add", "calc.addjson"}, "calc.addjson"),
        # What could mean two, or names another place, is left as it is: nothing runs.
        ("add", {"calc.add", "sums.add"}, "add"),
        ("functions.add", {"calc.add", "sums.add"}, "functions.add"),
        ("browser.add", {"calc.add"}, "browser.add"),
        ("sums.add", {"calc.add"}, "sums.add"),
        ("assistant", {"calc.assistant"}, "assistant"),
    ],
)
def test_a_short_name_means_the_only_tool_that_it_can(
    written: str, names: set[str], meant: str, tokenizer: Tokenizer
) -> None:
    stream = f"<|channel|>commentary to={written} <|constrain|>json<|message|>{{}}<|call|>"
    (message,) = parse_tokens(tokenizer.encode_with_special(stream), tokenizer, tool_names=names)
    assert message.recipient == meant


def tools() -> list[Tool]:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "description": "one"}}, "required": ["a"]}
    sums = Namespace("sums", "Sums.\nNo more <|end|> than that.")
    return [
        Tool("half", "Halves.", schema, function=int, namespace=sums),
        Tool("add", "Adds.", schema, function=int),
        Tool("add", "Adds, too.", None, function=int, namespace=sums),
    ]


def test_namespaces_get_the_tokens_of_openai_harmony(
    tokenizer: Tokenizer, oracle: openai_harmony.HarmonyEncoding
) -> None:
    messages = [
        Message.system(),
        Message.developer(DeveloperContent("Be brief.", group_tools(tools()))),
        Message.user("hi"),
    ]
    ours = render_conversation(messages, tokenizer)
    assert ours == oracle._inner.render_conversation(
        conversation_json=oracle_json(messages), config={"auto_drop_analysis": False}
    )
    # The description's markup is text.
    assert ours.count(tokenizer.special.end) == 3


def test_a_namespace_is_shown_with_what_is_said_of_it() -> None:
    text = render_text([Message.developer(DeveloperContent(None, group_tools(tools())))])
    assert text == (
        "<|start|>developer<|message|># Tools\n\n"
        "## functions\n\nnamespace functions {\n\n"
        "// Adds.\ntype add = (_: {\n// one\na: number,\n}) => any;\n\n} // namespace functions\n\n"
        "## sums\n\n// Sums.\n// No more <|end|> than that.\nnamespace sums {\n\n"
        "// Halves.\ntype half = (_: {\n// one\na: number,\n}) => any;\n\n"
        "// Adds, too.\ntype add = () => any;\n\n} // namespace sums<|end|>"
    )


def test_a_call_stays_with_its_result_when_old_reasoning_goes(tokenizer: Tokenizer) -> None:
    def call(name: str) -> Message:
        return Message.assistant("{}", channel="analysis", recipient=name)

    messages = [
        Message.user("hi"),
        Message.assistant("Hm.", channel="analysis"),
        call("sums.add"),
        Message.tool("sums.add", "3"),
        call("python"),
        Message.tool("python", "4", channel="analysis"),
        Message.assistant("Done."),
    ]
    text = render_text(messages)
    assert "to=sums.add" in text
    assert "<|start|>sums.add to=assistant" in text
    assert "python" not in text
    assert "Hm." not in text
