"""When a conversation does not fit: an error, or whole turns left out, the oldest first, with an event that says so."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx import Chat, ContextOverflow, Message, TurnsDropped, UsageError
from gptoss_mlx.context import make_prompt
from gptoss_mlx.harmony import FINAL, render_for_completion
from gptoss_mlx.tokenizer import Tokenizer
from tests.scripted import scripted_chat

LIMIT = 240
MOST, KEPT = 180, 120
"""From how many tokens on turns are dropped, and how many are left then."""

ANSWER = (
    "<|channel|>analysis<|message|>Hm, what now?<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Well, yes.<|return|>"
)

INSTRUCTIONS = Message.developer("Be kind.")


def turn(number: int, words: int, *, tool: bool = False) -> list[Message]:
    call = [
        Message.assistant("Let me look.", channel="analysis"),
        Message.assistant("{}", channel="commentary", recipient="functions.look", content_type="json"),
        Message.tool("functions.look", "nothing " * words),
    ]
    return [
        Message.user(f"{number} " + "word " * words),
        *(call if tool else []),
        Message.assistant("I think. " * words, channel="analysis"),
        Message.assistant("yes " * words, channel=FINAL),
    ]


TURNS = st.lists(st.tuples(st.integers(0, 25), st.booleans()), min_size=1, max_size=25)


@given(turns=TURNS, question=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_what_is_left_out_is_whole_turns_from_the_oldest(
    pocket_tokenizer: Tokenizer, turns: list[tuple[int, bool]], question: int
) -> None:
    parts = [turn(number, words, tool=tool) for number, (words, tool) in enumerate(turns)]
    parts.append([Message.user("so " * question)])
    whole = [INSTRUCTIONS, *(message for part in parts for message in part)]
    full = render_for_completion(whole, pocket_tokenizer)
    prompt = make_prompt(whole, pocket_tokenizer, overflow="drop_oldest", context_limit=LIMIT)
    count = 0 if prompt.dropped is None else prompt.dropped.turns
    assert count < len(parts)
    left = [INSTRUCTIONS, *(message for part in parts[count:] for message in part)]
    assert list(prompt.tokens) == render_for_completion(left, pocket_tokenizer)
    assert (0 if prompt.dropped is None else prompt.dropped.tokens) == len(full) - len(prompt.tokens)
    if len(full) <= MOST:
        assert count == 0
    # All that may be too long is the instructions and the last turn.
    assert len(prompt.tokens) <= MOST or count == len(parts) - 1


@given(turns=TURNS)
@settings(max_examples=30, deadline=None)
def test_a_drop_lasts_for_several_turns(pocket_tokenizer: Tokenizer, turns: list[tuple[int, bool]]) -> None:
    conversation: list[Message] = [INSTRUCTIONS]
    dropped: list[int] = []
    lengths: list[int] = []
    for number, (words, tool) in enumerate(turns):
        spoken = turn(number, words, tool=tool)
        prompt = make_prompt([*conversation, spoken[0]], pocket_tokenizer, overflow="drop_oldest", context_limit=LIMIT)
        conversation += spoken
        dropped.append(0 if prompt.dropped is None else prompt.dropped.turns)
        lengths.append(len(prompt.tokens))
    # It only ever goes on from where it was.
    assert dropped == sorted(dropped)
    drops = [number for number, (before, after) in enumerate(pairwise(dropped), 1) if after > before]
    for number in drops:
        assert lengths[number] <= KEPT or dropped[number] == number
    for number, later in pairwise(drops):
        # Nothing more went before what was said since filled the room that the first drop made.
        assert lengths[number] + _said(turns[number : later + 1], pocket_tokenizer) > MOST


def _said(turns: list[tuple[int, bool]], tokenizer: Tokenizer) -> int:
    spoken = [message for words, tool in turns for message in turn(10, words, tool=tool)]
    return len(render_for_completion(spoken, tokenizer))


def test_instructions_stay_wherever_they_are(pocket_tokenizer: Tokenizer) -> None:
    later = Message.developer("And brief.")
    whole = [INSTRUCTIONS, *turn(0, 30), later, *turn(1, 30), *turn(2, 30), Message.user("Now?")]
    prompt = make_prompt(whole, pocket_tokenizer, overflow="drop_oldest", context_limit=LIMIT)
    assert prompt.dropped is not None
    assert prompt.dropped.turns == 2
    expected = render_for_completion([INSTRUCTIONS, later, *turn(2, 30), Message.user("Now?")], pocket_tokenizer)
    assert list(prompt.tokens) == expected


def long_chat(tokenizer: Tokenizer, turns: int, **options: Any) -> Chat:
    return scripted_chat(tokenizer, *[ANSWER] * turns, context_limit=LIMIT, **options)


def test_a_chat_that_drops_goes_on_for_ever_and_keeps_its_history(pocket_tokenizer: Tokenizer) -> None:
    chat = long_chat(pocket_tokenizer, 30, overflow="drop_oldest")
    events = []
    for number in range(30):
        question = f"Question {number}: " + "why " * 8
        expected = chat.would_use(question)
        stream = chat.stream(question)
        first = next(iter(stream.events()))
        events.append(first.turns if isinstance(first, TurnsDropped) else 0)
        assert stream.reply.text == "Well, yes."
        assert stream.reply.stats.prompt_tokens == expected < LIMIT
    assert [message.role for message in chat.messages].count("user") == 30
    assert chat.messages[1].text.startswith("Question 0:")
    assert events[0] == 0
    assert 2 <= len(set(events)) <= 12
    assert chat.context_used < LIMIT


def test_by_default_a_full_context_is_an_error_that_says_what_helps(pocket_tokenizer: Tokenizer) -> None:
    chat = long_chat(pocket_tokenizer, 30)
    while chat.would_use("why " * 8) < LIMIT:
        chat.send("why " * 8)
    with pytest.raises(ContextOverflow, match="drop_oldest"):
        chat.send("why " * 8)
    before = chat.messages
    assert chat.send("why " * 8, overflow="drop_oldest").text == "Well, yes."
    assert chat.messages[: len(before)] == before


def test_a_message_that_is_too_long_by_itself_is_an_error_either_way(pocket_tokenizer: Tokenizer) -> None:
    chat = long_chat(pocket_tokenizer, 3, overflow="drop_oldest")
    chat.send("Hello")
    with pytest.raises(ContextOverflow):
        chat.send("word " * 300)
    assert chat.send("And now?").text == "Well, yes."


def test_the_opening_of_an_answer_counts_before_sending(pocket_tokenizer: Tokenizer) -> None:
    chat = long_chat(pocket_tokenizer, 1)
    expected = chat.would_use("Hello", effort="none")
    assert expected > chat.would_use("Hello", effort="low")
    assert chat.send("Hello", effort="none").stats.prompt_tokens == expected


def test_another_word_for_overflow_is_refused(pocket_tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"overflow is 'truncate'; expected one of error, drop_oldest"):
        long_chat(pocket_tokenizer, 1, overflow="truncate")
