"""A conversation that is written down to the last token, for `gptoss bench --turns`: every engine reads the same one.

Ten turns: a long text with a question, then short ones; in three of them the model calls a tool and gets its result.
Everything is rendered as harmony has it, so that each prompt differs from the one before as it does for people: the
reasoning of a finished turn is gone from it. The answers are written down, too: an engine is asked for its first token,
which is timed, and then reads the answer as if it had said it.

Owns: what is asked, and what of each prompt is new or changed. Imports no MLX.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import (
    FUNCTIONS,
    DeveloperContent,
    Message,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    render_conversation,
    render_for_completion,
    render_message,
)
from gptoss_mlx.tokenizer import Tokenizer

TURNS: Final = 10

TURNS_WITH_TOOL: Final = (2, 5, 8)
"""Turns in which a tool is called, from 1."""

QUESTION_TOKENS: Final = 40
RESULT_TOKENS: Final = 60
REASONING_TOKENS: Final = 100
ANSWER_TOKENS: Final = 60
"""Of one message's text, about."""

TOOL: Final = ToolDescription(
    "look_up",
    "Looks a word up.",
    {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
)

WORDS: Final = (
    "the a of and in to it is was for on that with as at by from one two three sea ship house tree river stone door "
    "lamp book word light night day year hand road town boat garden window table letter picture story song bird"
)
"""What texts are made of."""


@dataclass(frozen=True, slots=True)
class ScriptedRequest:
    """One prompt and the answer that is written down for it."""

    turn: int
    """From 1."""
    kind: str
    """What is new in it: `question` or `result`."""
    prompt: list[int]
    answer: list[int]
    """What the model is made to have said, the token that ends it included."""
    start: int
    """Where the answers of this turn begin in the prompt."""
    system_end: int
    """Where the user's first message begins."""
    new_tokens: int
    """Tokens of the prompt that no context held before: the new messages, the start of the answer, and the last token
    of the answer before, where that stays, since nothing had to read it."""
    changed_tokens: int
    """Tokens behind where the prompt parts from the context before it, up to the new ones: what harmony changed."""


def make_conversation(tokenizer: Tokenizer, tokens: int, seed: int) -> list[ScriptedRequest]:
    """The requests of a conversation whose last prompt has `tokens` tokens, a few more or less.

    Raises UsageError when ten turns do not fit so few.
    """
    least = len(_requests(tokenizer, 1, seed)[-1].prompt)
    if tokens < least:
        raise UsageError(f"--conversation-tokens is {tokens}; expected at least {least}, for {TURNS} turns")
    return _requests(tokenizer, tokens - least + 1, seed)


def _requests(tokenizer: Tokenizer, text_tokens: int, seed: int) -> list[ScriptedRequest]:
    """The conversation whose first message is a text of `text_tokens`."""
    generator = random.Random(seed)
    messages = [
        Message.system(SystemContent(conversation_start_date="2026-01-31")),
        Message.developer(DeveloperContent("Answer from the text.", (ToolNamespace.functions([TOOL]),))),
    ]
    system_end = len(render_conversation(messages, tokenizer))
    requests: list[ScriptedRequest] = []
    context: list[int] = []
    for turn in range(1, TURNS + 1):
        words = _text(generator, tokenizer, text_tokens if turn == 1 else QUESTION_TOKENS)
        added, kind = Message.user(words), "question"
        start: int | None = None
        for said in _answers(generator, tokenizer, turn in TURNS_WITH_TOOL):
            kept = len(render_conversation(messages, tokenizer)) if context else 0
            messages.append(added)
            prompt = render_for_completion(messages, tokenizer)
            start = len(prompt) if start is None else start
            answer = _as_sampled(said, tokenizer)
            common = _common(context, prompt)
            unread = 1 if context and common == len(context) else 0
            changed = max(0, kept - common)
            requests.append(
                ScriptedRequest(
                    turn,
                    kind,
                    prompt,
                    answer,
                    start,
                    system_end,
                    len(prompt) - max(kept, common) + unread,
                    changed,
                )
            )
            messages += said
            context = prompt + answer
            added, kind = Message.tool(f"{FUNCTIONS}.{TOOL.name}", _text(generator, tokenizer, RESULT_TOKENS)), "result"
    return requests


def _answers(generator: random.Random, tokenizer: Tokenizer, with_tool: bool) -> Iterator[list[Message]]:
    """What the model says in one turn: a call first, if `with_tool`, then the answer."""
    recipient = f"{FUNCTIONS}.{TOOL.name}"
    if with_tool:
        call = Message.assistant(
            '{"word": "lamp"}', channel="commentary", recipient=recipient, content_type="<|constrain|>json"
        )
        yield [Message.assistant(_text(generator, tokenizer, REASONING_TOKENS), channel="analysis"), call]
    yield [
        Message.assistant(_text(generator, tokenizer, REASONING_TOKENS), channel="analysis"),
        Message.assistant(_text(generator, tokenizer, ANSWER_TOKENS)),
    ]


def _as_sampled(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The tokens that a model would have drawn to say `messages`, after the start of an answer."""
    tokens = [token for message in messages for token in render_message(message, tokenizer)]
    if tokens[-1] == tokenizer.special.end:
        tokens[-1] = tokenizer.special.return_
    return tokens[1 + len(tokenizer.encode("assistant")) :]


def _text(generator: random.Random, tokenizer: Tokenizer, tokens: int) -> str:
    """Words that come to `tokens` tokens, or hardly more."""
    known, words = WORDS.split(), list[str]()
    while True:
        # In steps, since encoding costs in proportion to the length.
        missing = tokens - len(tokenizer.encode(" ".join(words)))
        if missing <= 0:
            return " ".join(words)
        words += [known[int(generator.random() * len(known))] for _ in range(-(-missing // 2))]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the first tokens are equal."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
