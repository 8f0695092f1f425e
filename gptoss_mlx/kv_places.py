"""Which places of a conversation a KV cache can go back to: how many are kept, and where.

A place costs the sliding layers' rings (3.1 MB in gpt-oss-20b, 4.7 MB in -120b), so not every token can be one. Of use
are, above all, the ends of messages, where prompts part: an edited or another question, a message taken back. One of
them is special: where the answers of the running turn begin. The next prompt parts from this one right there, because
harmony drops the old reasoning, and so does a second answer to the same question.

Kept are (`kept_places`):
- the first two ends of messages: the system's and the developer's, which conversations share;
- the newest `RECENT_ENDS` ends;
- of all places, ends and those in between, the farther back the fewer: each at least a quarter of its distance from the
  end away from the next. So what is read again because a place is missing stays in proportion to how far one went back.

That is at most two, `RECENT_ENDS` and a place for each third of a doubling of the distance: under 40 at 131,072 tokens.
Owns: the choice, in numbers. Knows no MLX and no text.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

FIRST_ENDS: Final = 2
"""Ends of messages at the beginning that are always kept."""

RECENT_ENDS: Final = 16
"""Newest ends of messages that are kept."""

SPACING: Final = 4
"""Farther back, a place is kept when the next one is at least a `SPACING`-th of its distance from the end away."""

LEAST_GAP: Final = 128
"""Tokens between two places that are no ends of messages, at least."""

PROMPT_INTERVAL: Final = 512
"""In a prompt, every so many tokens are a place, for messages longer than that."""

ANSWER_INTERVAL: Final = 512
"""The same of an answer."""

NEAR: Final = 8
"""The last end of a message before the turn's answers is left to their start where that is so few tokens on."""


def prompt_ends(prompt: Sequence[int], end_ids: Collection[int], start: int) -> list[int]:
    """Where messages of `prompt` end, rising, and `start`, where the turn's answers begin. Positions, as lengths."""
    ends = [position for position, token in enumerate(prompt, 1) if token in end_ids]
    asked = max((position for position in ends if position < start), default=0)
    return sorted({start, *ends}.difference([asked] if start - asked <= NEAR else []))


def prompt_places(prompt: Sequence[int], ends: Sequence[int], read: int) -> list[int]:
    """Places to keep while `prompt` is read from `read` on, rising: of its `ends`, its end, and those in between."""
    total = len(prompt)
    between = range(PROMPT_INTERVAL, total, PROMPT_INTERVAL)
    kept = kept_places([*ends, total], between, total)
    return [position for position in kept if read < position <= total]


def kept_places(ends: Iterable[int], between: Iterable[int], length: int) -> list[int]:
    """Which of the places at `ends` of messages and `between` are kept in a cache of `length` tokens, rising."""
    known = sorted(set(ends))
    chosen = {*known[:FIRST_ENDS], *known[-RECENT_ENDS:]}
    kept: list[int] = []
    for position in sorted(chosen.union(known, between), reverse=True):
        gap = max(LEAST_GAP, (length - position) // SPACING)
        if position in chosen or not kept or kept[-1] - position >= gap:
            kept.append(position)
    return kept[::-1]
