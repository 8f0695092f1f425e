"""Several generations decoded together, and prompts that begin alike read once.

A step reads one token of each: the weights, which are most of what a step costs, are read once for all. Each
generation keeps its own cache, so that they may stand anywhere in texts of any length, and one may come or go between
two steps. Tokens that were forced are read by themselves, as they are many.

Prompts are read in the order of their tokens, so that those with a common beginning follow each other; a cache is kept
at the end of every beginning that a later prompt shares, and forked there.

Owns: what is read together. Does not own: a generation's own order of work (`generate`), turns (`batch_turns`).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import mlx.core as mx

from gptoss_mlx.cache import KVCache
from gptoss_mlx.errors import Cancelled
from gptoss_mlx.generate import Drawn, Generation, Step, as_tokens
from gptoss_mlx.model import Model

LEAST_SHARED_TOKENS: Final = 32
"""A common beginning is kept only if it is longer than the last one by this much: re-reading less costs little."""


def step_together(model: Model, generations: Sequence[Generation]) -> list[Step]:
    """The next token of each generation, none of them exhausted.

    Where the model runs apart from the host, those after them are queued before these are waited for.
    """
    drawing = [generation for generation in generations if not generation.has_forced]
    _read(model, [generation for generation in drawing if not generation.has_drawn])
    drawn = {id(generation): generation.take() for generation in drawing}
    if model.runs_apart:
        _read(model, [generation for generation in drawing if not generation.exhausted])
    return [_step(generation, drawn.get(id(generation))) for generation in generations]


def _step(generation: Generation, drawn: Drawn | None) -> Step:
    return generation.next_step() if drawn is None else generation.give(drawn)


def _read(model: Model, generations: Sequence[Generation]) -> None:
    """Has the model read what each generation has unread, and queues their draws."""
    together = [generation for generation in generations if len(generation.unread) == 1]
    for generation in generations:
        if len(generation.unread) > 1 or len(together) == 1:
            generation.read()
    if len(together) > 1:
        greedy = all(generation.greedy for generation in together)
        tokens = as_tokens([generation.unread[0] for generation in together])
        results = model.read_together(tokens, [one.cache for one in together], most_probable=greedy)
        for number, generation in enumerate(together):
            result = results[number : number + 1]
            generation.accept(mx.argmax(result, axis=-1) if generation.greedy and not greedy else result)


def read_in_turn(
    model: Model, prompts: Sequence[Sequence[int]], *, chunk: int, cancelled: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, KVCache]]:
    """The number of each prompt and a cache that holds its beginning, as far as an earlier prompt had it, too.

    What is asked for next is read then, between two steps of others; at least one token of each prompt is left to read.
    Raises Cancelled between two chunks.
    """
    order = sorted(range(len(prompts)), key=lambda number: tuple(prompts[number]))
    alike = [_common(prompts[a], prompts[b]) for a, b in pairwise(order)]
    kept = [model.make_cache()]
    for place, number in enumerate(order):
        shared = alike[place - 1] if place else 0
        while kept[-1].offset > shared:
            kept.pop()
        for end in _beginnings(alike[place:], kept[-1].offset):
            cache = _fork(kept[-1])
            while cache.offset < end:
                if cancelled():
                    raise Cancelled(f"stopped after {cache.offset} of {end} common prompt tokens")
                size = model.fitting_chunk(cache, min(chunk, end - cache.offset))
                part = list(prompts[number][cache.offset : cache.offset + size])
                mx.eval(model.read(mx.array([part], dtype=mx.int32), cache))
            kept.append(cache)
        if place == len(order) - 1:
            # Nobody comes after: what is kept becomes the last one's own.
            yield number, kept.pop()
            return
        yield number, _fork(kept[-1])


def _fork(cache: KVCache) -> KVCache:
    """A second cache that holds the same."""
    return cache.fork([cache.snapshot()])[0]


def _beginnings(alike: Sequence[int], there: int) -> list[int]:
    """Where to keep a cache for later prompts, rising, all beyond `there`; `alike` as of the prompt that is read."""
    ends: list[int] = []
    least: int | None = None
    for common in alike:
        least = common if least is None else min(least, common)
        if least < there + LEAST_SHARED_TOKENS:
            break
        if not ends or ends[-1] - least >= LEAST_SHARED_TOKENS:
            ends.append(least)
    return ends[::-1]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with, at most all but the last of the shorter."""
    most = min(len(one), len(other)) - 1
    return next((n for n in range(most) if one[n] != other[n]), most)
