"""Strict parsing against openai-harmony's StreamableParser: state, deltas, fields and errors after every token."""

from random import Random

import openai_harmony
import pytest

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import ContentDelta, Message, MessageFinished, Role, StreamParser, parse_tokens
from gptoss_mlx.tokenizer import Tokenizer
from tests.harmony.streams import alphabet, damaged, messages, noise

STATES = {"outside": "ExpectStart", "header": "Header", "content": "Content"}


def compare(
    stream: list[int], role: Role | None, tokenizer: Tokenizer, encoding: openai_harmony.HarmonyEncoding
) -> bool:
    """Whether both took the stream to its end; asserts that they agree after every token."""
    ours = StreamParser(tokenizer, role=role, strict=True)
    theirs = openai_harmony.StreamableParser(encoding, None if role is None else openai_harmony.Role(role))
    for token in stream:
        error = None
        try:
            theirs.process(token)
        except openai_harmony.HarmonyError as caught:
            error = caught
        if error is not None:
            with pytest.raises(HarmonyError, match=r"expected .* Parse"):
                ours.feed(token)
            return False
        events = ours.feed(token)
        assert STATES[ours.state] == theirs.state.value
        assert ours.current_content == theirs.current_content
        assert ours.current_channel == theirs.current_channel
        assert ours.current_recipient == theirs.current_recipient
        assert ours.current_content_type == theirs.current_content_type
        assert ours.current_role == (None if theirs.current_role is None else theirs.current_role.value)
        if not any(isinstance(event, MessageFinished) for event in events):
            delta = "".join(event.text for event in events if isinstance(event, ContentDelta))
            assert delta == (theirs.last_content_delta or "")
    try:
        theirs.process_eos()
    except openai_harmony.HarmonyError:
        with pytest.raises(HarmonyError, match=r"expected <\|message\|>"):
            ours.finish()
        return False
    ours.finish()
    assert [fields(message) for message in ours.messages] == [their_fields(message) for message in theirs.messages]
    assert ours.tokens == theirs.tokens == stream
    return True


def fields(message: Message) -> tuple[str | None, ...]:
    return (
        message.role, message.name, message.channel, message.recipient, message.content_type, message.text,
    )  # fmt: skip


def their_fields(message: openai_harmony.Message) -> tuple[str | None, ...]:
    text = "".join(item.text for item in message.content if isinstance(item, openai_harmony.TextContent))
    author = message.author
    return (author.role.value, author.name, message.channel, message.recipient, message.content_type, text)


@pytest.mark.parametrize("seed", range(6))
def test_strict_parsing_equals_openai_harmony_after_every_token(
    seed: int, tokenizer: Tokenizer, oracle: openai_harmony.HarmonyEncoding
) -> None:
    random = Random(f"strict {seed}")
    ids = alphabet(tokenizer)
    roles: tuple[Role | None, ...] = ("assistant", None, None, "tool", "user")
    sound = 0
    for number in range(500):
        stream = noise(random, ids) if number % 8 == 0 else messages(random, tokenizer, ids)
        if number % 3 == 0:
            stream = damaged(random, stream, ids)
        role = random.choice(roles)
        if role is not None and random.random() < 0.9:
            stream = stream[1:]
        sound += compare(stream, role, tokenizer, oracle)
    assert sound > 50  # else the streams are too wild to compare contents


@pytest.mark.parametrize(
    "header",
    [
        "assistant<|channel|>final",
        "assistant<|channel|>analysis to=python code",
        "assistant to=functions.f<|channel|>commentary <|constrain|>json",
        "assistant to=functions.f<|channel|>commentary<|constrain|>json",
        "assistant<|channel|>commentary to=functions.f<|constrain|>json",
        "functions.f to=assistant<|channel|>commentary",
        "tool to=assistant",
        "zzz tool to=assistant",
        "to=assistant",
        "user",
        "user json",
        "assistant<|channel|>final json",
        "assistant<|channel|>commentary to=a<|channel|>commentary json",
        "assistant<|channel|>a<b>c",
        "assistant\u00a0<|channel|>final\u3000x",
        "assistant\x0bto=x<|channel|>final",
        "assistant\x1cto=x<|channel|>final",
        "assistant<|channel|>a\x1cb",
        "",
        "zzz",
        "assistant<|channel|>",
        "assistant a b c",
        "assistant to=a to=b json",
        "assistant<|constrain|>json<|constrain|>code",
    ],
)
def test_each_header_is_read_as_openai_harmony_reads_it(
    header: str, tokenizer: Tokenizer, oracle: openai_harmony.HarmonyEncoding
) -> None:
    stream = tokenizer.encode_with_special(f"<|start|>{header}<|message|>hi<|end|>")
    compare(stream, None, tokenizer, oracle)
    compare(stream[1:], "assistant", tokenizer, oracle)
    compare(tokenizer.encode(f"<|start|>{header}<|message|>hi<|end|>"), "assistant", tokenizer, oracle)


def test_a_header_that_is_no_utf8_is_an_error(tokenizer: Tokenizer, oracle: openai_harmony.HarmonyEncoding) -> None:
    special = tokenizer.special
    assert not compare([special.start, 9552, special.message], None, tokenizer, oracle)


def test_strict_parsing_gives_no_warnings(tokenizer: Tokenizer) -> None:
    parser = StreamParser(tokenizer, role=None, strict=True)
    for token in tokenizer.encode_with_special("<|start|>assistant<|channel|>final<|message|>hi<|end|>"):
        parser.feed(token)
    parser.finish()
    assert list(parser.warnings) == []


def test_strict_parsing_keeps_the_tokens_of_each_message(tokenizer: Tokenizer) -> None:
    first = tokenizer.encode_with_special("<|start|>assistant<|channel|>analysis<|message|>so<|end|>")
    second = tokenizer.encode_with_special("<|start|>assistant<|channel|>final<|message|>hi<|return|>")
    made = parse_tokens([*first, *second], tokenizer, role=None, strict=True)
    assert [message.tokens for message in made] == [tuple(first), tuple(second)]
