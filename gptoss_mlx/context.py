"""Which turns of a conversation the model reads when not all of them fit the context length.

    overflow="error"        all of them, or ContextOverflow
    overflow="drop_oldest"  the instructions, and as many of the last turns as fit

A turn is a user message and all that follows it up to the next one; it goes as a whole. Instructions (system and
developer messages) and the last user message with what follows it always stay. The conversation itself stays whole:
turns are left out of the prompt only.

When the prompt and room for an answer do not fit, so many turns go that the prompt takes half the context at most: the
turns after that drop nothing and find what was read before in the KV cache. Nothing has to be remembered for it: the
drops of earlier turns follow from the messages, and are found again.

Owns: that choice. Does not own: rendering (`harmony`), when the error is raised (`chat`, `api`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from gptoss_mlx.events import TurnsDropped
from gptoss_mlx.harmony import FINAL, Message, render_conversation, render_for_completion
from gptoss_mlx.tokenizer import Tokenizer

Overflow: TypeAlias = Literal["error", "drop_oldest"]
"""What happens when a conversation does not fit the context length."""
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

ANSWER_SHARE: Final = 1 / 4
"""What is kept for the answer before turns are dropped, as a share of the context length."""

MOST_ANSWER_TOKENS: Final = 4096
"""The same in tokens, at most."""

KEPT_SHARE: Final = 1 / 2
"""What the prompt takes at most after turns were dropped, as a share of the context length."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    tokens: tuple[int, ...]
    """The rendered conversation, ending with the start of the assistant's message."""
    dropped: TurnsDropped | None = None
    """What was left out; None when nothing was."""


def make_prompt(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    overflow: Overflow,
    context_limit: int,
    opening_tokens: int = 0,
) -> Prompt:
    """The prompt for the next answer, of which `opening_tokens` are given.

    It may be longer than the context length: with `error`, or when the instructions and the last turn are. Raises
    HarmonyError for what harmony cannot express.
    """
    whole = tuple(render_for_completion(messages, tokenizer))
    room = context_limit - opening_tokens
    most = room - min(int(ANSWER_SHARE * context_limit), MOST_ANSWER_TOKENS)
    kept = int(KEPT_SHARE * context_limit)
    if overflow == "error" or len(whole) <= most:
        return Prompt(whole)
    starts = _turn_starts(messages)
    costs = [_past_tokens(_turn(messages, starts, number), tokenizer) for number in range(len(starts) - 1)]
    head = len(render_for_completion(_without(messages, starts, len(starts)), tokenizer))
    first = _first_kept(messages, starts, costs, head, most, kept, tokenizer)
    tokens = whole
    while True:
        if first:
            tokens = tuple(render_for_completion(_without(messages, starts, first), tokenizer))
        if first == len(costs) or len(tokens) <= most:
            break
        # The running turn has grown by tool results, or costs were a little less than the truth.
        excess = len(tokens) - kept
        while excess > 0 and first < len(costs):
            excess -= costs[first]
            first += 1
    return Prompt(tokens, TurnsDropped(first, len(whole) - len(tokens)) if first else None)


def _first_kept(
    messages: Sequence[Message],
    starts: Sequence[int],
    costs: Sequence[int],
    head: int,
    most: int,
    kept: int,
    tokenizer: Tokenizer,
) -> int:
    """The first turn that is read, found by going through the conversation as it came about."""
    first = 0
    past = 0
    for number in range(len(starts)):
        # What the prompt was when this turn began.
        length = head + past + _past_tokens([messages[starts[number]]], tokenizer)
        if length > most:
            while first < number and length > kept:
                length -= costs[first]
                past -= costs[first]
                first += 1
        if number < len(costs):
            past += costs[number]
    return first


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where turns begin: at user messages; the first also at what comes before it and is no instruction."""
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    first = next((index for index, message in enumerate(messages) if not _is_instruction(message)), 0)
    return users if not users or users[0] <= first else [first, *users]


def _turn(messages: Sequence[Message], starts: Sequence[int], number: int) -> list[Message]:
    """A turn without the instructions among it."""
    end = starts[number + 1] if number + 1 < len(starts) else len(messages)
    return [message for message in messages[starts[number] : end] if not _is_instruction(message)]


def _without(messages: Sequence[Message], starts: Sequence[int], first: int) -> list[Message]:
    """The conversation without the turns before turn `first`; instructions stay."""
    begin = starts[first] if first < len(starts) else len(messages)
    return [message for index, message in enumerate(messages) if index >= begin or _is_instruction(message)]


def _is_instruction(message: Message) -> bool:
    return message.role in ("system", "developer")


def _past_tokens(turn: list[Message], tokenizer: Tokenizer) -> int:
    """Tokens of a turn once it is over: without its reasoning."""
    # A final answer behind it makes it the past.
    end = Message.assistant("", channel=FINAL)
    return len(render_conversation([*turn, end], tokenizer)) - len(render_conversation([end], tokenizer))
