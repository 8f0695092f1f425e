"""Any stream of tokens whatsoever: nothing raises and nothing is lost."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_mlx.errors import TokenizerError
from gptoss_mlx.harmony import (
    ContentDelta,
    MessageFinished,
    MessageStarted,
    ParserEvent,
    Role,
    StreamParser,
    event_text,
    parse_tokens,
)
from gptoss_mlx.tokenizer import Tokenizer
from tests.harmony.streams import alphabet, damaged, messages
from tests.o200k import VOCAB_SIZE, o200k_tokenizer

IDS = alphabet(o200k_tokenizer())
any_stream = st.lists(st.one_of(st.sampled_from(IDS), st.integers(0, VOCAB_SIZE - 1)), max_size=60)
any_role = st.sampled_from(("assistant", "user", None))
TOOLS = frozenset(("functions.x", "a"))


def check(stream: Sequence[int], role: Role | None, tokenizer: Tokenizer) -> StreamParser:
    """Parse the stream and hold what must be true of every one."""
    parser = StreamParser(tokenizer, role=role, tool_names=TOOLS)
    events: list[ParserEvent] = []
    for token in stream:
        events += parser.feed(token)
    events += parser.finish()
    assert parser.finish() == []
    assert "".join(event_text(event) for event in events) == tokenizer.decode(stream)
    assert parser.tokens == list(stream)

    running: list[str] | None = None
    finished = []
    for event in events:
        match event:
            case MessageStarted():
                assert running is None
                running = []
            case ContentDelta():
                assert running is not None
                assert event.text
                assert event.tokens >= 0
                running.append(event.text)
            case MessageFinished():
                assert running is not None
                assert event.message.text == "".join(running)
                finished.append(event.message)
                running = None
            case _:
                pass
    assert running is None
    assert finished == list(parser.messages)
    assert all(message.role != "assistant" or message.channel for message in finished)
    assert all(message.role != "tool" or message.name for message in finished)

    kept = [token for message in finished for token in message.tokens or ()]
    prompt = [] if role is None else [tokenizer.special.start, *tokenizer.encode(role)]
    assert kept == [*prompt, *stream][: len(kept)]  # what is left belongs to no message
    assert sum(event.tokens for event in events if isinstance(event, ContentDelta)) <= len(stream)
    return parser


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=any_stream, role=any_role)
def test_any_stream_is_parsed_without_an_error_and_without_loss(stream: list[int], role: Role | None) -> None:
    check(stream, role, o200k_tokenizer())


@pytest.mark.parametrize("seed", range(4))
def test_damaged_messages_are_parsed_without_an_error_and_without_loss(seed: int, tokenizer: Tokenizer) -> None:
    random = Random(f"tolerant {seed}")
    for _ in range(400):
        stream = messages(random, tokenizer, IDS)
        for _ in range(random.randrange(4)):
            stream = damaged(random, stream, IDS)
        check(stream, random.choice(("assistant", None)), tokenizer)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=60), role=any_role)
def test_any_text_without_markup_is_kept(text: str, role: Role | None) -> None:
    tokenizer = o200k_tokenizer()
    parser = check(tokenizer.encode(text), role, tokenizer)
    # A text whose first word begins like a header's may be one.
    if role is None and text.strip() and "<|" not in text and text.split()[0][0] not in "acdfjstu<":
        assert "".join(message.text for message in parser.messages).strip() == text.strip()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=st.lists(st.sampled_from(IDS), max_size=40))
def test_a_stream_says_the_same_however_the_caller_reads_it(stream: list[int]) -> None:
    tokenizer = o200k_tokenizer()
    parser = StreamParser(tokenizer, role=None)
    for token in stream:
        parser.feed(token)
        assert (parser.state == "content") == (parser.current_channel is not None or parser.current_role is not None)
    parser.finish()
    assert list(parser.messages) == parse_tokens(stream, tokenizer, role=None)


def test_an_id_outside_the_vocabulary_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="201088 is not a token id"):
        StreamParser(tokenizer).feed(VOCAB_SIZE)


@pytest.mark.parametrize(
    "piece", ["<|channel|>", "<|start|>", "<|message|>", "<|end|>", "\n", " hello", "<", " to=a", "{"]
)
@pytest.mark.parametrize("opening", ["", "<|channel|>", "<|channel|>final<|message|>"])
def test_long_streams_take_time_in_proportion_to_their_length(opening: str, piece: str, tokenizer: Tokenizer) -> None:
    # Counted in work, not in seconds: a quadratic parser would touch 10^8 items here and time out.
    ids = tokenizer.encode_with_special(piece)
    stream = tokenizer.encode_with_special(opening) + ids * (10_000 // len(ids))
    check(stream, "assistant", tokenizer)
