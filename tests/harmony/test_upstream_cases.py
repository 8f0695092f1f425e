"""The scenarios of openai-harmony's public tests, told anew; openai-harmony itself says what is expected."""

import json
from typing import Any

import openai_harmony
import pytest

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import (
    BROWSER,
    PYTHON,
    REASONING_EFFORTS,
    ChannelConfig,
    DeveloperContent,
    Message,
    ReasoningEffort,
    StreamParser,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    event_text,
    parse_tokens,
    render_conversation,
    render_for_completion,
    render_for_training,
    render_message,
    render_text,
)
from gptoss_mlx.tokenizer import Tokenizer
from tests.harmony.conversations import oracle_json

Oracle = openai_harmony.HarmonyEncoding
ANALYSIS_AND_FINAL = ChannelConfig(("analysis", "final"))
SUM = Message.user("How much is 7 + 5?")
SUM_THOUGHT = Message.assistant("Add “7” and “5”: twelve.", channel="analysis")
SUM_ANSWER = Message.assistant("7 + 5 is 12.")
CALL = Message.assistant(
    '{"city": "Oslo"}', channel="commentary", recipient="functions.weather_in", content_type="<|constrain|>json"
)


def same_as_oracle(messages: list[Message], tokenizer: Tokenizer, oracle: Oracle, *, drop: bool = True) -> list[int]:
    """Token ids for the next answer, which openai-harmony must give too, and which their text must encode to."""
    ids = render_for_completion(messages, tokenizer, drop_analysis="upstream" if drop else "keep")
    inner: Any = oracle._inner
    assert ids == inner.render_conversation_for_completion(
        conversation_json=oracle_json(messages), next_turn_role="assistant", config={"auto_drop_analysis": drop}
    )
    text = render_text(messages, drop_analysis="upstream" if drop else "keep", next_role="assistant")
    assert tokenizer.encode_with_special(text) == ids
    assert oracle.encode(text, allowed_special="all") == ids
    return ids


def test_a_question_after_the_default_system_message(tokenizer: Tokenizer, oracle: Oracle) -> None:
    same_as_oracle([Message.system(), SUM], tokenizer, oracle)


@pytest.mark.parametrize("effort", REASONING_EFFORTS)
@pytest.mark.parametrize("instructions", [None, "Talk like a pirate."])
def test_each_effort_with_and_without_instructions(
    effort: ReasoningEffort, instructions: str | None, tokenizer: Tokenizer, oracle: Oracle
) -> None:
    messages = [Message.system(SystemContent(reasoning_effort=effort))]
    if instructions is not None:
        messages.append(Message.developer(instructions))
    ids = same_as_oracle([*messages, Message.user("Name the highest mountain.")], tokenizer, oracle)
    assert f"Reasoning: {effort}" in tokenizer.decode(ids)


@pytest.mark.parametrize(
    "content",
    [
        SystemContent(channel_config=ANALYSIS_AND_FINAL),
        SystemContent(reasoning_effort="high", channel_config=ANALYSIS_AND_FINAL),
        SystemContent(
            conversation_start_date="2020-02-02", knowledge_cutoff="2020-02", channel_config=ANALYSIS_AND_FINAL
        ),
        SystemContent(conversation_start_date="2026-11-23"),
        SystemContent(conversation_start_date="2026-11-23", tools=(BROWSER,)),
        SystemContent(conversation_start_date="2026-11-23", tools=(PYTHON, BROWSER)),
    ],
)
def test_channels_dates_and_builtin_tools(content: SystemContent, tokenizer: Tokenizer, oracle: Oracle) -> None:
    same_as_oracle([Message.system(content), SUM], tokenizer, oracle)


def test_the_browser_beside_a_function(tokenizer: Tokenizer, oracle: Oracle) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = ToolDescription("weather_in", "The weather of a city, given its name in any language.", schema)
    messages = [
        Message.system(SystemContent(conversation_start_date="2026-11-23", tools=(BROWSER,))),
        Message.developer(DeveloperContent(tools=(ToolNamespace.functions([function]),))),
    ]
    text = tokenizer.decode(same_as_oracle(messages, tokenizer, oracle))
    assert "Calls to these tools must go to the commentary channel: 'functions'." in text


def test_functions_with_every_feature_of_their_schemas(tokenizer: Tokenizer, oracle: Oracle) -> None:
    unit = {"type": "string", "enum": ["kelvin", "rankine"], "default": "kelvin"}
    everything = {
        "type": "object",
        "description": "what to do",
        "properties": {
            "name": {"type": "string", "title": "NAME", "description": "a name", "examples": ["Ann", "Bob"]},
            "maybe": {"type": "string", "nullable": True, "description": "or nothing", "default": "by itself"},
            "letter": {"type": "string", "enum": ["x", "y", "z"]},
            "either": {
                "description": "one or the other",
                "default": 12,
                "oneOf": [
                    {"type": "string", "default": "text by default"},
                    {"type": "number", "description": "a number will do"},
                ],
            },
        },
    }
    cities = {"type": "array", "items": {"type": "string"}, "description": 'such as ["Oslo", "Bergen"]'}
    tools = (
        ToolDescription("where_am_i", "Tells where the user is."),
        ToolDescription(
            "weather_in",
            "Tells the weather.",
            {"type": "object", "properties": {"city": {"type": "string"}, "unit": unit}, "required": ["city"]},
        ),
        ToolDescription(
            "weather_of_all",
            "Tells the weather of several cities.",
            {"type": "object", "properties": {"cities": cities, "unit": unit}, "required": ["cities"]},
        ),
        ToolDescription("everything", "Takes all there is.", everything),
    )
    developer = DeveloperContent("Answer in rhyme.", (ToolNamespace.functions(tools),))
    system = SystemContent(reasoning_effort="high", conversation_start_date="2026-11-23")
    same_as_oracle([Message.system(system), Message.developer(developer), SUM], tokenizer, oracle)


def test_thoughts_are_dropped_once_there_is_an_answer(tokenizer: Tokenizer, oracle: Oracle) -> None:
    messages = [SUM, SUM_THOUGHT, SUM_ANSWER, Message.user("And 9 / 2?")]
    assert "twelve" not in tokenizer.decode(same_as_oracle(messages, tokenizer, oracle))
    assert "twelve" in tokenizer.decode(same_as_oracle(messages, tokenizer, oracle, drop=False))


def test_thoughts_before_a_pending_call_stay(tokenizer: Tokenizer, oracle: Oracle) -> None:
    result = Message.tool("functions.weather_in", '{"sky": "clear"}', channel=None, recipient=None)
    messages = [Message.user("Weather in Oslo?"), Message.assistant("Ask.", channel="analysis"), CALL, result]
    ids = same_as_oracle(messages, tokenizer, oracle)
    assert "Ask." in tokenizer.decode(ids)
    assert ids.count(tokenizer.special.constrain) == 1


def test_upstream_keeps_the_thought_between_two_answers(tokenizer: Tokenizer, oracle: Oracle) -> None:
    second = Message.assistant("Four and a half.", channel="analysis")
    messages = [SUM, SUM_THOUGHT, SUM_ANSWER, Message.user("And 9 / 2?"), second, Message.assistant("4.5")]
    text = tokenizer.decode(same_as_oracle(messages, tokenizer, oracle))
    assert "twelve" not in text
    assert "Four and a half." in text


def test_one_message_renders_like_a_conversation_of_it(tokenizer: Tokenizer) -> None:
    ids = render_conversation([SUM], tokenizer)
    assert render_message(SUM, tokenizer) == ids
    assert render_for_completion([SUM], tokenizer)[: len(ids)] == ids


def test_training_closes_a_final_answer_with_return(tokenizer: Tokenizer) -> None:
    plain = render_conversation([SUM, SUM_ANSWER], tokenizer)
    training = render_for_training([SUM, SUM_ANSWER], tokenizer)
    assert training[:-1] == plain[:-1]
    assert (plain[-1], training[-1]) == (tokenizer.special.end, tokenizer.special.return_)
    assert render_for_training([SUM], tokenizer) == render_conversation([SUM], tokenizer)


def test_encoding_and_decoding_like_openai_harmony(tokenizer: Tokenizer, oracle: Oracle) -> None:
    assert tokenizer.encode("hello world") == [24912, 2375] == oracle.encode("hello world")
    assert tokenizer.encode("<|start|>") == [27, 91, 5236, 91, 29]
    assert tokenizer.encode_with_special("<|start|>") == [200006]
    assert tokenizer.decode([200014]) == "<|reserved_200014|>"
    broken = [132990, 9552]
    assert tokenizer.decode(broken) == oracle.decode(broken)
    assert "Chicken" in tokenizer.decode(broken)


@pytest.mark.parametrize("strict", [True, False])
class TestParsing:
    """Scenarios of parsing that both modes read alike."""

    def test_a_thought_and_an_answer(self, strict: bool, tokenizer: Tokenizer) -> None:
        stream = tokenizer.encode_with_special(
            "<|channel|>analysis<|message|>Simple sum.<|return|>"
            "<|start|>assistant<|channel|>final<|message|>12.<|return|>"
        )
        thought, answer = parse_tokens(stream, tokenizer, strict=strict)
        assert (thought.channel, thought.text) == ("analysis", "Simple sum.")
        assert (answer.channel, answer.text) == ("final", "12.")

    @pytest.mark.parametrize(
        "header",
        ["<|channel|>analysis to=weather_in code", " to=weather_in<|channel|>analysis code"],
    )
    def test_a_call_without_its_end(self, header: str, strict: bool, tokenizer: Tokenizer) -> None:
        stream = tokenizer.encode_with_special(f'{header}<|message|>{{"city":"Oslo"')
        (call,) = parse_tokens(stream, tokenizer, strict=strict)
        assert (call.channel, call.recipient, call.content_type) == ("analysis", "weather_in", "code")
        assert call.text == '{"city":"Oslo"'

    @pytest.mark.parametrize(
        "header",
        [
            "assistant to=functions.weather_in<|channel|>commentary <|constrain|>json",
            "assistant to=functions.weather_in<|channel|>commentary<|constrain|>json",
            "assistant<|channel|>commentary to=functions.weather_in<|constrain|>json",
            "assistant<|channel|>commentary to=functions.weather_in <|constrain|>json",
        ],
    )
    def test_every_order_of_a_call_header(self, header: str, strict: bool, tokenizer: Tokenizer) -> None:
        stream = tokenizer.encode_with_special(f'<|start|>{header}<|message|>{{"city": "Oslo"}}<|call|>')
        (call,) = parse_tokens(stream, tokenizer, role=None, strict=strict)
        assert {**call.to_dict(), "tokens": None} == {**CALL.to_dict(), "tokens": None}

    def test_the_canonical_call_renders_to_the_same_tokens(self, strict: bool, tokenizer: Tokenizer) -> None:
        ids = render_message(CALL, tokenizer)
        (call,) = parse_tokens(ids, tokenizer, role=None, strict=strict)
        assert render_message(call, tokenizer) == ids

    def test_a_tools_result_without_its_end(self, strict: bool, tokenizer: Tokenizer) -> None:
        result = Message.tool("browser.search", '{"result": "https://example.org/"}')
        ids = render_message(result, tokenizer)
        assert tokenizer.decode(ids[:-1]) == (
            '<|start|>browser.search to=assistant<|channel|>commentary<|message|>{"result": "https://example.org/"}'
        )
        (parsed,) = parse_tokens(ids[:-1], tokenizer, role=None, strict=strict)
        assert {**parsed.to_dict(), "tokens": None} == {**result.to_dict(), "tokens": None}

    def test_a_thought_a_call_and_its_result(self, strict: bool, tokenizer: Tokenizer) -> None:
        stream = tokenizer.encode_with_special(
            "<|channel|>analysis<|message|>Better look it up.<|end|>"
            '<|start|>assistant<|channel|>commentary to=browser.search code<|message|>{"query": "news"}<|call|>'
            "<|start|>browser.search to=assistant<|channel|>commentary<|message|>[]<|end|>"
        )
        messages = parse_tokens(stream, tokenizer, strict=strict)
        assert [message.role for message in messages] == ["assistant", "assistant", "tool"]
        assert messages[1].tool_name == "browser.search"
        assert messages[2].name == "browser.search"

    @pytest.mark.parametrize(
        ("middle", "text"),
        [([9552, 9552], " \ufffd \ufffd"), ([9552, 55, 56], " \ufffdXY")],
    )
    @pytest.mark.parametrize("end", [True, False])
    def test_bytes_that_are_no_utf8_become_replacement_characters(
        self, middle: list[int], text: str, end: bool, strict: bool, tokenizer: Tokenizer
    ) -> None:
        stream = [*tokenizer.encode_with_special("<|start|>assistant<|channel|>final<|message|>"), *middle]
        stream += tokenizer.encode(" story")
        if end:
            stream.append(tokenizer.special.end)
        parser = StreamParser(tokenizer, role=None, strict=strict)
        deltas = [event_text(event) for token in stream for event in parser.feed(token)]
        deltas += [event_text(event) for event in parser.finish()]
        assert parser.messages[0].text == f"{text} story"
        assert "".join(deltas).count("\ufffd") == text.count("\ufffd")

    def test_bytes_of_one_message_do_not_reach_the_next(self, strict: bool, tokenizer: Tokenizer) -> None:
        header = tokenizer.encode_with_special("<|start|>assistant<|channel|>final<|message|>")
        end = tokenizer.special.end
        stream = [*header, 9552, 9552, end, *header, *tokenizer.encode("Hi"), end]
        messages = parse_tokens(stream, tokenizer, role=None, strict=strict)
        assert [message.text for message in messages] == [" \ufffd \ufffd", "Hi"]


@pytest.mark.parametrize(
    ("opening", "channel", "text"),
    [
        ("I won't do that.", "final", "I won't do that."),
        ("<|channel|>analysis I won't do that.", "analysis", "I won't do that."),
        ("<|channel|>commentary Hello", "commentary", "Hello"),
        ("... Now the tool.", "final", "... Now the tool."),
    ],
)
def test_a_first_message_without_message_token(opening: str, channel: str, text: str, tokenizer: Tokenizer) -> None:
    rest = "<|end|><|start|>assistant to=functions.weather_in<|channel|>commentary json<|message|>{}<|call|>"
    stream = tokenizer.encode_with_special(opening + rest)
    first, second = parse_tokens(stream, tokenizer)
    assert (first.channel, first.text) == (channel, text)
    assert (second.recipient, second.content_type, second.text) == ("functions.weather_in", "json", "{}")
    with pytest.raises(HarmonyError):
        parse_tokens(stream, tokenizer, strict=True)


@pytest.mark.parametrize(("ours", "name"), [(BROWSER, "browser"), (PYTHON, "python")])
def test_builtin_tools_are_described_as_openai_describes_them(ours: ToolNamespace, name: str) -> None:
    theirs = getattr(openai_harmony.ToolNamespaceConfig, name)()
    assert json.loads(json.dumps(ours.to_dict())) == {
        "name": theirs.name,
        "description": theirs.description,
        "tools": [tool.model_dump() for tool in theirs.tools],
    }
