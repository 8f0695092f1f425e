"""What callers may hand in as a conversation, and what the model then reads."""

from typing import Any

import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import DeveloperContent, Message, SystemContent, ToolDescription, ToolNamespace, render_text
from gptoss_mlx.inputs import Prompt, read_conversation
from gptoss_mlx.options import OptionArguments, Options

TOOL = {"type": "function", "function": {"name": "f", "description": "Does f.", "parameters": {"type": "object"}}}


def text_of(prompt: Prompt, **arguments: Any) -> str:
    options = Options.from_arguments(OptionArguments(**arguments))
    return render_text(read_conversation(prompt, options), next_role="assistant")


def test_a_string_becomes_a_user_message_after_the_settings():
    text = text_of("hi", date="2026-01-31", effort="high")
    assert text.startswith("<|start|>system<|message|>You are ChatGPT")
    assert "Current date: 2026-01-31\n\nReasoning: high\n" in text
    assert text.endswith("<|start|>user<|message|>hi<|end|><|start|>assistant")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_prompt_is_harmonys_developer_instructions(role: str):
    text = text_of([{"role": role, "content": "Be brief."}, {"role": "user", "content": "hi"}])
    assert "<|start|>developer<|message|># Instructions\n\nBe brief.<|end|><|start|>user" in text
    assert text.count("<|start|>system") == 1


def test_a_harmony_system_message_is_taken_as_it_is():
    system = Message.system(SystemContent(model_identity="You are a test.", reasoning_effort="low"))
    text = text_of([system, Message.user("hi")], effort="high")
    assert "You are a test." in text
    assert "Reasoning: low" in text
    assert text.count("<|start|>system") == 1


def test_tools_are_offered_in_the_developer_message_with_or_without_instructions():
    alone = text_of("hi", tools=[TOOL])
    both = text_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], tools=[TOOL])
    for text in (alone, both):
        assert text.count("<|start|>developer") == 1
        assert "type f = (_: {\n}) => any;" in text
        assert "Calls to these tools must go to the commentary channel: 'functions'." in text
    assert "Be brief.\n\n# Tools" in both


def test_a_whole_tool_exchange_in_openais_form_is_understood():
    text = text_of(
        [
            {"role": "user", "content": [{"type": "text", "text": "weather"}, {"type": "text", "text": "?"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "We must look.",
                "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "sunny <|end|>"},
        ]
    )
    assert "weather?" in text
    assert "<|channel|>analysis<|message|>We must look.<|end|>" in text
    assert '<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"x":1}<|call|>' in text
    assert "<|start|>functions.f to=assistant<|channel|>commentary<|message|>sunny <|end|><|end|>" in text


def test_arguments_given_as_a_dict_become_json():
    calls = [{"id": "a", "function": {"name": "f", "arguments": {"x": "é"}}}]
    assert '{"x": "é"}<|call|>' in text_of(
        [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": calls}]
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        ([{"role": "robot", "content": "x"}], "message 1 has the role 'robot'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "expected text"),
        ([{"role": "user", "content": 5}], "message 1 has the content 5"),
        (
            [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}],
            "message 2 is a tool's result for no known",
        ),
        (["hello"], "message 1 is 'hello'"),
        ([{"role": "assistant", "tool_calls": [{}]}], "tool call"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(prompt: Any, message: str):
    with pytest.raises(UsageError, match=message):
        text_of(prompt)


def test_tools_given_twice_are_refused():
    namespace = ToolNamespace.functions([ToolDescription("g", "", None)])
    with pytest.raises(UsageError, match="both"):
        text_of([Message.developer(DeveloperContent(None, (namespace,))), Message.user("hi")], tools=[TOOL])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"effort": "max"}, "effort is 'max'"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_reasoning_tokens": -1}, "max_reasoning_tokens"),
        ({"prefill_chunk": 0}, "prefill_chunk"),
        ({"stop": [""]}, "empty string"),
        ({"temprature": 1}, "unknown option 'temprature'"),
        ({"tools": [{}]}, "no name"),
        ({"tools": [{"name": "f", "parameters": "x"}]}, "parameters of tool 'f'"),
        ({"tools": [7]}, "7 is no tool"),
    ],
)
def test_a_wrong_option_is_refused_by_name(arguments: Any, message: str):
    with pytest.raises(UsageError, match=message):
        Options.from_arguments(arguments)


def test_a_turns_own_options_go_over_the_defaults():
    options = Options.from_arguments({"temperature": 0.5}, {"temperature": 1.0, "top_k": 3, "stop": "x"})
    assert (options.sampling.temperature, options.sampling.top_k, options.stop) == (0.5, 3, ("x",))
