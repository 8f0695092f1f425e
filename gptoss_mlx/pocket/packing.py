"""Training rows as plain lists: conversations packed behind one shared system message.

Owns the packing; the conversations come from `mixture`, tensors and masks are made in `corpus`. Imports no torch.
"""

from collections.abc import Iterator
from random import Random

from gptoss_mlx.harmony import ReasoningEffort, Text, message_pieces
from gptoss_mlx.pocket.conversations import plain
from gptoss_mlx.pocket.mixture import make_conversation, make_date, make_tool_conversation
from gptoss_mlx.pocket.rendering import conversation_ids, developer_message, system_ids, system_message
from gptoss_mlx.tokenizer import Tokenizer

EFFORT_SHARES: tuple[tuple[ReasoningEffort, float], ...] = (("low", 0.26), ("medium", 0.26), ("high", 0.48))
"""The share of rows for each reasoning effort."""
TOOL_SHARE = 0.24
"""The share of rows whose conversations offer functions."""

Row = tuple[list[int], list[int], list[int], list[int]]
"""Ids, positions, documents and targets of one row."""


def make_rows(rng: Random, tokenizer: Tokenizer, length: int, count: int) -> list[Row]:
    """Rows that share one system message; what found no room in a row comes first in the next."""
    efforts: list[ReasoningEffort] = [each for each, _ in EFFORT_SHARES]
    effort = rng.choices(efforts, [share for _, share in EFFORT_SHARES])[0]
    with_functions = rng.random() < TOOL_SHARE
    date = make_date(rng)
    system = system_ids(effort, date, with_functions, tokenizer)
    start, pad = len(system), tokenizer.special.endoftext
    rows: list[Row] = []
    waiting: list[tuple[list[int], list[float]]] = []
    for _ in range(count):
        ids, positions, documents, targets = list(system), list(range(start)), [0] * start, [-1] * start
        held, waiting, document = waiting, [], 0
        while len(waiting) < 3:
            if held:
                tokens, weights = held.pop(0)
            else:
                made = make_tool_conversation(rng, effort) if with_functions else make_conversation(rng, effort, date)
                tokens, weights = conversation_ids(made, tokenizer)
            if start + len(tokens) > length:
                continue
            if len(ids) + len(tokens) > length:
                waiting.append((tokens, weights))
                continue
            document += 1
            ids += tokens
            positions += range(start, start + len(tokens))
            documents += [document] * len(tokens)
            targets += [tokens[i + 1] if weights[i + 1] else -1 for i in range(len(tokens) - 1)] + [-1]
        rest = length - len(ids)
        rows.append((ids + [pad] * rest, positions + [start] * rest, documents + [-1] * rest, targets + [-1] * rest))
    return rows


def sample_texts(seed: int, count: int) -> Iterator[str]:
    """Texts of `count` conversations, piece by piece, for the choice of the vocabulary."""
    rng = Random(seed)
    efforts: list[ReasoningEffort] = [each for each, _ in EFFORT_SHARES]
    for _ in range(count):
        effort = rng.choices(efforts)[0]
        date = make_date(rng)
        with_functions = rng.random() < TOOL_SHARE
        conversation = make_tool_conversation(rng, effort) if with_functions else make_conversation(rng, effort, date)
        developer = developer_message(conversation)
        messages = [
            system_message(effort, date),
            *([developer] if developer else []),
            *(part.message for part in conversation.parts),
        ]
        for message in messages:
            for piece in message_pieces(message, with_functions=with_functions):
                if isinstance(piece, Text):
                    yield plain(piece.text)
