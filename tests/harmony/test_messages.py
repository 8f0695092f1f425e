"""Messages and their JSON form."""

import json
from random import Random
from typing import Any

import pytest

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import (
    BROWSER,
    ChannelConfig,
    DeveloperContent,
    Message,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
    is_tool,
)
from tests.harmony.conversations import conversation

FUNCTIONS = ToolNamespace.functions([ToolDescription("f", "Does f.", {"type": "object", "properties": {}})])


def test_messages_survive_json() -> None:
    random = Random("json")
    for _ in range(100):
        for message in conversation(random):
            assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message


def test_sampled_tokens_survive_json() -> None:
    message = Message.assistant("hi", tokens=(200006, 1, 200007))
    assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message


def test_the_json_form_names_only_what_is_there() -> None:
    assert Message.user("hi").to_dict() == {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    assert Message.tool("functions.f", "1").to_dict() == {
        "role": "tool",
        "name": "functions.f",
        "recipient": "assistant",
        "channel": "commentary",
        "content": [{"type": "text", "text": "1"}],
    }


def test_content_may_be_one_string_in_json() -> None:
    assert Message.from_dict({"role": "user", "content": "hi"}) == Message.user("hi")


def test_openai_harmonys_spelling_of_the_effort_is_read() -> None:
    data = {"role": "system", "content": [{"type": "system_content", "reasoning_effort": "High"}]}
    (content,) = Message.from_dict(data).content
    assert content == SystemContent(None, "high", None, None, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "'3' cannot be a message; expected a JSON object"),
        ({"role": "user"}, "cannot be a message's content; expected a JSON list"),
        ({"role": "judge", "content": "x"}, "'judge' is no role"),
        ({"content": "x"}, "a message has the role 'None'; expected text"),
        ({"role": "user", "content": [3]}, "cannot be a message's content; expected a JSON object"),
        ({"role": "user", "content": [{"type": "image"}]}, "'image' is no kind of content"),
        ({"role": "user", "content": [{"type": "text"}]}, "has the text 'None'; expected text"),
        ({"role": "user", "content": "x", "channel": 3}, "has the channel '3'; expected text"),
        ({"role": "user", "content": "x", "tokens": "123"}, "cannot be a message's tokens"),
        ({"role": "user", "content": "x", "tokens": [1.5]}, "expected token ids"),
        ({"role": "user", "content": "x", "tokens": [True]}, "expected token ids"),
        ({"role": "system", "content": [{"type": "system_content", "reasoning_effort": "extreme"}]}, "'extreme' is no"),
        ({"role": "system", "content": [{"type": "system_content", "channel_config": 1}]}, "cannot be channel_config"),
        ({"role": "system", "content": [{"type": "system_content", "tools": [1]}]}, "cannot be a message's content's"),
        ({"role": "developer", "content": [{"type": "developer_content", "tools": {"a": 1}}]}, "a tool namespace"),
        (
            {
                "role": "developer",
                "content": [{"type": "developer_content", "tools": {"a": {"name": "a", "tools": [1]}}}],
            },
            "'1' cannot be a tool",
        ),
    ],
)
def test_damaged_json_is_an_error_that_says_what_was_expected(data: Any, message: str) -> None:
    with pytest.raises(HarmonyError, match=message):
        Message.from_dict(data)


def test_tools_keep_their_schema_in_json() -> None:
    content = DeveloperContent("x", (FUNCTIONS, ToolNamespace("other", "Other.")))
    assert Message.from_dict(Message.developer(content).to_dict()).content == (content,)


def test_the_helpers_make_what_their_names_say() -> None:
    assert Message.system().content == (SystemContent(),)
    assert Message.system("plain").content == (TextContent("plain"),)
    assert Message.developer("Be kind.").content == (DeveloperContent("Be kind."),)
    assert Message.user("hi", name="ann").name == "ann"
    assert Message.assistant("hi").channel == "final"
    assert Message.tool("python", "1", channel="analysis").channel == "analysis"


def test_the_text_of_a_message_is_its_plain_text() -> None:
    assert Message("system", (TextContent("a"), SystemContent(), TextContent("b"))).text == "ab"


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        (None, False),
        ("", False),
        ("all", False),
        ("assistant", False),
        ("user", False),
        ("functions.f", True),
        ("python", True),
    ],
)
def test_a_recipient_is_a_tool_unless_it_is_somebody(recipient: str | None, expected: bool) -> None:
    assert is_tool(recipient) is expected
    assert (Message.assistant("x", recipient=recipient).tool_name == recipient) is (expected or recipient is None)


def test_only_the_assistant_calls_tools() -> None:
    assert Message("tool", name="functions.f", recipient="functions.g").tool_name is None


def test_an_unknown_role_is_an_error() -> None:
    with pytest.raises(HarmonyError, match="'judge' is no role; expected one of system, developer, user"):
        Message("judge")  # type: ignore[arg-type]


def test_an_unknown_effort_is_an_error() -> None:
    with pytest.raises(HarmonyError, match="'huge' is no reasoning effort; expected low, medium, high or None"):
        SystemContent(reasoning_effort="huge")  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [SystemContent, DeveloperContent])
def test_a_namespace_given_twice_is_an_error(content: type[SystemContent] | type[DeveloperContent]) -> None:
    with pytest.raises(HarmonyError, match="namespace 'browser' is given twice"):
        content(tools=(BROWSER, ToolNamespace("browser")))


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Message.user("hi").channel = "final"  # type: ignore[misc]
    assert ChannelConfig().valid_channels == ("analysis", "commentary", "final")
