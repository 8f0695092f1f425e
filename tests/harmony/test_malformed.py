"""Every kind of malformed output that gpt-oss has been reported to write, and what the tolerant parser makes of it.

Each case is a stream after a prompt that ends in `<|start|>assistant`. The comment names a public thread that shows it.
"""

from dataclasses import dataclass

import pytest

from gptoss_mlx.harmony import (
    ContentDelta,
    Message,
    MessageFinished,
    ParserEvent,
    StreamParser,
    event_text,
    parse_tokens,
)
from gptoss_mlx.tokenizer import Tokenizer

W = "functions.get_weather"
TOOLS = frozenset((W, "functions.shell"))
JSON = '{"city":"Rome"}'
THOUGHT = "<|channel|>analysis<|message|>so<|end|>"
GOOD_FINAL = "<|start|>assistant<|channel|>final<|message|>hi<|return|>"
GOOD_CALL = f"<|start|>assistant<|channel|>commentary to={W} <|constrain|>json<|message|>{JSON}<|call|>"

Seen = tuple[str | None, str | None, str | None, str]
SO: Seen = ("analysis", None, None, "so")
HI: Seen = ("final", None, None, "hi")
CONSTRAINED: Seen = ("commentary", W, "<|constrain|>json", JSON)
JSON_CALL: Seen = ("commentary", W, "json", JSON)
PLAIN_CALL: Seen = ("commentary", W, None, JSON)


@dataclass(frozen=True)
class Case:
    name: str
    stream: str
    messages: tuple[Seen, ...]
    """Channel, recipient, content type and text of each."""
    warns: bool = True


CASES = [
    # vllm-mlx 562, omlx 2216, vllm 28139: a call on the analysis channel is a call
    Case(
        "call on analysis",
        f"<|channel|>analysis to={W} code<|message|>{JSON}<|call|>",
        (("analysis", W, "code", JSON),),
        False,
    ),
    # llama.cpp 15181
    Case(
        "recipient before channel",
        f" to={W}<|channel|>commentary <|constrain|>json<|message|>{JSON}<|call|>",
        (CONSTRAINED,),
        False,
    ),
    # harmony's own documentation
    Case(
        "no space before constrain",
        f"<|channel|>commentary to={W}<|constrain|>json<|message|>{JSON}<|call|>",
        (CONSTRAINED,),
        False,
    ),
    # llama.cpp 15102
    Case(
        "json glued to the name",
        f"<|channel|>commentary to=functions.shelljson<|message|>{JSON}<|call|>",
        (("commentary", "functions.shell", "json", JSON),),
    ),
    # vllm 31677, 32587, 35906
    Case("channel twice", f"<|channel|>commentary to={W}<|channel|>commentary<|message|>{JSON}<|call|>", (PLAIN_CALL,)),
    Case(
        "channel twice with type",
        f"<|channel|>commentary to={W}<|channel|>commentary <|constrain|>json<|message|>{JSON}<|call|>",
        (CONSTRAINED,),
    ),
    # vllm 35906, 23567
    Case(
        "type on commentary without recipient",
        f"<|channel|>commentary <|constrain|>json<|message|>{JSON}<|end|>",
        (("commentary", None, "<|constrain|>json", JSON),),
        False,
    ),
    Case(
        "type on final",
        f"<|channel|>final <|constrain|>json<|message|>{JSON}<|return|>",
        (("final", None, "<|constrain|>json", JSON),),
        False,
    ),
    Case(
        "plain type on final",
        f"<|channel|>final json<|message|>{JSON}<|return|>",
        (("final", None, "json", JSON),),
        False,
    ),
    # harmony 60
    Case(
        "words after the type",
        f"<|channel|>final <|constrain|>response in short form<|message|>{JSON}<|return|>",
        (("final", None, "<|constrain|>response", JSON),),
    ),
    # vllm 35906
    Case("no start before the channel", THOUGHT + "<|channel|>final<|message|>hi<|return|>", (SO, HI)),
    # unsloth 5162
    Case("start missing before the role", THOUGHT + "assistant<|channel|>final<|message|>hi<|return|>", (SO, HI)),
    # vllm 22515, 22519, harmony 60
    Case(
        "header as text after a call",
        GOOD_CALL[len("<|start|>assistant") :] + f"commentary to={W} json<|message|>{JSON}<|call|>",
        (CONSTRAINED, JSON_CALL),
    ),
    # vllm 50690, 56216
    Case("two ends", THOUGHT + "<|return|>", (SO,)),
    # vllm 43408, sglang 9097
    Case("start twice", THOUGHT + "<|start|>" + GOOD_FINAL, (SO, HI)),
    Case("start and role twice", THOUGHT + "<|start|>assistant" + GOOD_FINAL, (SO, HI)),
    Case("start after the prompt's own", GOOD_FINAL, (HI,)),
    # vllm 43408, sglang 8914
    Case("empty channel", "<|channel|><|message|>hi<|return|>", (HI,)),
    # sglang 35299, vllm 51977
    Case("recipient twice", f"<|channel|>commentary to={W} to=functions.shell<|message|>{JSON}<|call|>", (PLAIN_CALL,)),
    # vllm 45213, harmony 82
    Case("no message before JSON", f"<|channel|>final {JSON}<|return|>", (("final", None, None, JSON),)),
    Case("no message before glued JSON", f"<|channel|>final{JSON}<|return|>", (("final", None, None, JSON),)),
    Case("no message in a call", f"<|channel|>commentary to={W} <|constrain|>json{JSON}<|call|>", (CONSTRAINED,)),
    Case(
        "no message before prose",
        "<|channel|>analysis We need to think.<|end|>" + GOOD_FINAL,
        (("analysis", None, None, "We need to think."), HI),
    ),
    Case(
        "no message in a later message",
        THOUGHT + "<|start|>assistant<|channel|>final All is well.<|return|>",
        (SO, ("final", None, None, "All is well.")),
    ),
    # llama.cpp 27720
    Case("channel word doubled", "<|channel|>commentary?commentary?<|end|>" + GOOD_CALL, (CONSTRAINED,)),
    Case(
        "channel word doubled before a message",
        "<|channel|>commentary?commentary?<|message|>hm<|end|>",
        (("commentary", None, None, "hm"),),
    ),
    Case(
        "rubbish after the channel",
        "<|channel|>commentary 2?<|end|>" + GOOD_CALL,
        (("commentary", None, None, "2?"), CONSTRAINED),
    ),
    Case(
        "free text for a channel",
        "<|channel|>?? free text<|end|>" + GOOD_FINAL,
        (("final", None, None, "?? free text"), HI),
    ),
    Case("header given up", "<|channel|>commentary to=assistant<|channel|>commentary?" + GOOD_CALL, (CONSTRAINED,)),
    # llama.cpp 21286: "assistant" is no tool
    Case(
        "addressed to itself",
        "<|channel|>commentary to=assistant<|message|>hm<|end|>",
        (("commentary", "assistant", None, "hm"),),
        False,
    ),
    # harmony 38
    Case(
        "dashes in the header", f"<|channel|>commentary ––commentary to={W} json<|message|>{JSON}<|call|>", (JSON_CALL,)
    ),
    # llama.cpp 25321, harmony 33, 80
    Case("prose without markup", "I'm sorry, but no.", (("final", None, None, "I'm sorry, but no."),)),
    Case("prose ended by return", "I must refuse.<|return|>", (("final", None, None, "I must refuse."),)),
    Case(
        "prose, then a sound message",
        "I must refuse.<|end|>" + GOOD_FINAL,
        (("final", None, None, "I must refuse."), HI),
    ),
    Case("JSON without markup", JSON, (("final", None, None, JSON),)),
    # sglang 31019, vllm 35906
    Case("JSON right after the analysis", THOUGHT + JSON + "<|return|>", (SO, ("final", None, None, JSON))),
    Case(
        "prose that begins like a header",
        THOUGHT + "final answer: 4<|return|>",
        (SO, ("final", None, None, "final answer: 4")),
    ),
    Case(
        "prose from the start that begins like a header", "final answer: 4", (("final", None, None, "final answer: 4"),)
    ),
    Case("one word that headers have too", "text<|return|>", (("final", None, None, "text"),)),
    Case(
        "a channel as text and no message",
        "analysis We think.<|end|>" + GOOD_FINAL,
        (("analysis", None, None, "We think."), HI),
    ),
    Case("a second role and no message", "assistant Hello.<|return|>", (("final", None, None, "Hello."),)),
    Case("a call as text without message", THOUGHT + f"commentary to={W} json{JSON}<|call|>", (SO, JSON_CALL)),
    Case("prose after start", THOUGHT + "<|start|>Hello there.<|end|>", (SO, ("final", None, None, "Hello there."))),
    Case(
        "a result without message",
        GOOD_CALL + f"<|start|>{W} to=assistant 12<|end|>",
        (CONSTRAINED, (None, "assistant", None, "12")),
    ),
    Case("one word after start", THOUGHT + "<|start|>Hello<|end|>", (SO, ("final", None, None, "Hello"))),
    Case("a header as text and nothing else", THOUGHT + f"commentary to={W} json<|call|>", (SO,)),
    Case("a call without a channel", f" to={W}<|message|>{JSON}<|call|>", (PLAIN_CALL,)),
    Case(
        "reserved token after the recipient",
        f"<|channel|>commentary to={W}<|reserved_200013|><|message|>{JSON}<|call|>",
        (PLAIN_CALL,),
    ),
    # TensorRT-LLM 9256: without a recipient it is text for the reader
    Case(
        "arguments without recipient",
        f"<|channel|>commentary<|message|>{JSON}<|call|>",
        (("commentary", None, None, JSON),),
        False,
    ),
    # sglang 10576, mlxcel 658
    Case("call ended by return", f"<|channel|>commentary to={W}<|message|>{JSON}<|return|>", (PLAIN_CALL,), False),
    Case("call ended by the stream", f"<|channel|>commentary to={W}<|message|>{JSON}", (PLAIN_CALL,), False),
    # mlx-lm 875: an invented result is read as what it claims to be (generation stops at the call)
    Case(
        "invented result",
        GOOD_CALL[len("<|start|>assistant") :]
        + f"<|start|>{W} to=assistant<|channel|>commentary<|message|>12<|end|>"
        + GOOD_FINAL,
        (CONSTRAINED, ("commentary", "assistant", None, "12"), HI),
        False,
    ),
    # ollama 11704
    Case(
        "analysis to itself",
        " to=assistant<|channel|>analysis code<|message|>x<|end|>",
        (("analysis", "assistant", "code", "x"),),
        False,
    ),
    # vllm 35906, llama.cpp 15110
    Case(
        "channel within a message", "<|channel|>analysis<|message|>so<|channel|>final<|message|>hi<|return|>", (SO, HI)
    ),
    Case("start within a message", "<|channel|>analysis<|message|>so" + GOOD_FINAL, (SO, HI)),
    Case("endoftext within a message", "<|channel|>final<|message|>hi<|endoftext|>", (HI,)),
    Case("message within a message", "<|channel|>final<|message|>h<|message|>i<|return|>", (HI,)),
    Case("constrain within a message", "<|channel|>final<|message|>h<|constrain|>i<|return|>", (HI,)),
    # llama.cpp 15181, vllm-mlx 50
    Case(
        "narrow no-break space after the recipient",
        f"<|channel|>commentary to={W}\u202f<|message|>{JSON}<|call|>",
        (PLAIN_CALL,),
        False,
    ),
    Case("newlines in the header", f"\n<|channel|>commentary\nto={W}\n<|message|>{JSON}<|call|>", (PLAIN_CALL,), False),
    Case("newlines between messages", THOUGHT + "\n\n" + GOOD_FINAL, (SO, HI), False),
    Case("no role after start", THOUGHT + "<|start|><|channel|>final<|message|>hi<|return|>", (SO, HI)),
    Case("channel for a role", THOUGHT + f"<|start|>commentary to={W}<|message|>{JSON}<|call|>", (SO, PLAIN_CALL)),
    Case("channel glued to the role", THOUGHT + "<|start|>assistantfinal<|message|>hi<|return|>", (SO, HI)),
    Case("message without a header", THOUGHT + "<|message|>hi<|return|>", (SO, HI)),
    Case("space after to=", f"<|channel|>commentary to= {W}<|message|>{JSON}<|call|>", (PLAIN_CALL,), False),
    Case("cut in a header", THOUGHT + "<|start|>assistant<|channel|>fin", (SO,)),
    Case("cut in a role", THOUGHT + "<|start|>assist", (SO,)),
    Case("nothing at all", "", (), False),
    Case("only an end", "<|return|>", ()),
    Case(
        "padding after the answer", GOOD_FINAL[len("<|start|>assistant") :] + "<|endoftext|><|endoftext|>", (HI,), False
    ),
]


def read(stream: list[int], tokenizer: Tokenizer) -> tuple[StreamParser, list[ParserEvent]]:
    parser = StreamParser(tokenizer, tool_names=TOOLS)
    events = [event for token in stream for event in parser.feed(token)]
    return parser, events + parser.finish()


def seen(message: Message) -> Seen:
    return message.channel, message.recipient, message.content_type, message.text


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_malformed_output_is_read_as_it_was_meant(case: Case, tokenizer: Tokenizer) -> None:
    stream = tokenizer.encode_with_special(case.stream)
    parser, events = read(stream, tokenizer)
    assert tuple(seen(message) for message in parser.messages) == case.messages
    assert bool(parser.warnings) == case.warns
    assert "".join(event_text(event) for event in events) == case.stream


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_call_is_a_message_to_a_tool_on_any_channel_with_any_end(case: Case, tokenizer: Tokenizer) -> None:
    for message in parse_tokens(tokenizer.encode_with_special(case.stream), tokenizer, tool_names=TOOLS):
        meant = message.role == "assistant" and message.recipient not in (None, "assistant")
        assert (message.tool_name is not None) == meant


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_message_is_marked_as_repaired_exactly_if_its_stream_was(case: Case, tokenizer: Tokenizer) -> None:
    parser, events = read(tokenizer.encode_with_special(case.stream), tokenizer)
    finished = [event for event in events if isinstance(event, MessageFinished)]
    if not case.warns:
        assert not any(event.repaired for event in finished)
    elif finished and len(parser.warnings) and events[-1] is finished[-1]:
        assert any(event.repaired for event in finished)


# In plain characters <|endoftext|> stays text, since it is not harmony's; so does all that follows prose, which may be
# about harmony; and a text that ends in the middle of a name is just that.
PLAIN_CASES = [
    case
    for case in CASES
    if case.stream.lstrip().startswith(("<|", "to="))
    and not any(word in case.name for word in ("within", "cut", "padding"))
]


@pytest.mark.parametrize("case", PLAIN_CASES, ids=[case.name for case in PLAIN_CASES])
def test_special_tokens_in_plain_characters_are_read_like_special_tokens(case: Case, tokenizer: Tokenizer) -> None:
    # unsloth 5162 and others: the markup came as text.
    parser, events = read(tokenizer.encode(case.stream), tokenizer)
    assert tuple(seen(message) for message in parser.messages) == case.messages
    assert "".join(event_text(event) for event in events) == case.stream


def test_special_tokens_in_plain_characters_stay_text_in_a_sound_message(tokenizer: Tokenizer) -> None:
    text = "harmony closes a message with <|end|> and opens one with <|start|>assistant<|channel|>final<|message|>"
    stream = [
        *tokenizer.encode_with_special("<|channel|>final<|message|>"),
        *tokenizer.encode(text),
        tokenizer.special.return_,
    ]
    parser, _ = read(stream, tokenizer)
    assert [seen(message) for message in parser.messages] == [("final", None, None, text)]
    assert not parser.warnings


def test_a_reserved_token_in_the_text_is_kept_with_a_warning(tokenizer: Tokenizer) -> None:
    stream = [*tokenizer.encode_with_special("<|channel|>final<|message|>hi"), 200013, tokenizer.special.return_]
    parser, _ = read(stream, tokenizer)
    assert parser.messages[0].text == "hi<|reserved_200013|>"
    assert len(parser.warnings) == 1


def test_a_code_point_cut_by_the_end_is_one_replacement_character(tokenizer: Tokenizer) -> None:
    # harmony 83
    emoji = tokenizer.encode("💖")
    stream = [*tokenizer.encode_with_special("<|channel|>final<|message|>hi"), *emoji[:-1]]
    parser, events = read(stream, tokenizer)
    assert parser.messages[0].text == "hi\ufffd"
    assert "".join(event_text(event) for event in events) == tokenizer.decode(stream)


def test_a_code_point_over_several_tokens_is_one_delta_with_their_number(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer)
    for token in tokenizer.encode_with_special("<|channel|>final<|message|>"):
        parser.feed(token)
    emoji = tokenizer.encode("💖")
    assert len(emoji) > 1
    *early, last = [parser.feed(token) for token in emoji]
    assert all(events == [] for events in early)
    assert [(event_text(event), getattr(event, "tokens", None)) for event in last] == [("💖", len(emoji))]


def test_every_content_token_is_counted_once(tokenizer: Tokenizer) -> None:
    text = tokenizer.encode("Well, 💖 and <b>more</b> of it.")
    stream = [*tokenizer.encode_with_special("<|channel|>final<|message|>"), *text, tokenizer.special.return_]
    _, events = read(stream, tokenizer)
    assert sum(event.tokens for event in events if isinstance(event, ContentDelta)) == len(text)
    _, events = read([*text, tokenizer.special.return_], tokenizer)  # prose without markup
    assert sum(event.tokens for event in events if isinstance(event, ContentDelta)) == len(text)


def test_only_the_malformed_message_is_marked_as_repaired(tokenizer: Tokenizer) -> None:
    _, events = read(tokenizer.encode_with_special("<|channel|>analysis Hm, well.<|end|>" + GOOD_FINAL), tokenizer)
    assert [event.repaired for event in events if isinstance(event, MessageFinished)] == [True, False]


def test_a_long_text_without_message_streams_before_its_end(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer)
    for token in tokenizer.encode_with_special("<|channel|>analysis" + " We think on." * 40):
        parser.feed(token)
    assert parser.state == "content"
    assert parser.current_channel == "analysis"
    assert parser.current_content.startswith("We think on. We")


def test_prose_without_markup_streams_from_its_first_word(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer)
    events = [
        event_text(event) for token in tokenizer.encode("Hello there, how are you?") for event in parser.feed(token)
    ]
    assert "".join(events) == "Hello there, how are you?"


def test_without_a_list_of_tools_no_name_is_mended(tokenizer: Tokenizer) -> None:
    stream = tokenizer.encode_with_special(f"<|channel|>commentary to=functions.shelljson<|message|>{JSON}<|call|>")
    assert parse_tokens(stream, tokenizer)[0].recipient == "functions.shelljson"


def test_a_tool_whose_real_name_ends_in_json_is_left_alone(tokenizer: Tokenizer) -> None:
    stream = tokenizer.encode_with_special("<|channel|>commentary to=functions.read_json<|message|>{}<|call|>")
    names = frozenset(("functions.read_json", "functions.read_"))
    assert parse_tokens(stream, tokenizer, tool_names=names)[0].recipient == "functions.read_json"
