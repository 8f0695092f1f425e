"""Many turns at once: replies to a list of prompts, as many of them together as the memory takes.

Runs on the engine thread. A turn that is over makes room for the next one; the others go on meanwhile. What a turn says
does not depend on who runs beside it, but for the last digits of float arithmetic.

Owns: who runs when. Does not own: a turn's own course (`turn`), what is read together (`batch`).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.batch import read_in_turn, step_together
from gptoss_mlx.cache import KVCache
from gptoss_mlx.engine import Ticket
from gptoss_mlx.errors import Cancelled
from gptoss_mlx.events import FinishReason, Reply, Stats
from gptoss_mlx.generate import Generation, Step
from gptoss_mlx.memory import kv_bytes
from gptoss_mlx.model import Model
from gptoss_mlx.turn import Listener, Turn, after_step

AT_ONCE: Final = 8
"""Turns that run together at most, unless the caller says otherwise."""

EXPECTED_TOKENS: Final = 2048
"""What an answer without `max_tokens` is expected to take, when it is asked whether another turn has room."""


@dataclass
class _Running:
    """A turn that has begun."""

    number: int
    turn: Turn
    generation: Generation
    listener: Listener
    cached: int
    began: float
    first: float | None = None
    last: float = 0.0
    generated: int = 0

    def hear(self, step: Step, ticket: Ticket) -> FinishReason | None:
        """Takes one more token; why the turn ends with it, or None."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.generated += 1
        for _ in self.listener.hear(step):
            pass
        return after_step(self.turn, self.listener, self.generation, step, self.generated, ticket)

    def reply(self, finish: FinishReason, peak_memory_bytes: int) -> Reply:
        for _ in self.listener.finish(finish):
            pass
        stats = Stats(
            prompt_tokens=self.turn.prompt_tokens,
            cached_tokens=self.cached,
            reasoning_tokens=self.listener.reasoning_tokens,
            answer_tokens=self.listener.answer_tokens,
            generated_tokens=self.generated,
            ttft_seconds=(self.first or self.last) - self.began,
            prompt_seconds=self.generation.prefill_seconds,
            generation_seconds=self.last - (self.first or self.last),
            peak_memory_bytes=peak_memory_bytes,
        )
        reply, _ = self.listener.result(finish, stats)
        return reply


def run_batch(model: Model, ticket: Ticket, turns: Sequence[Turn], *, at_once: int) -> Iterator[tuple[int, Reply]]:
    """The number and the reply of each turn, as they end.

    When the caller stops, those that run end as they are, and the others are left out.
    """
    model.begin_peak()
    prompts = [(*turn.prompt, *turn.opening) for turn in turns]
    chunk = min((turn.options.prefill_chunk for turn in turns), default=1)
    waiting = read_in_turn(model, prompts, chunk=chunk, cancelled=ticket.cancelled)
    longest = max(map(len, prompts), default=0)
    running: list[_Running] = []
    begun = 0
    while True:
        try:
            while begun < len(turns) and len(running) < at_once and _has_room(model, running, longest):
                number, cache = next(waiting)
                begun += 1
                running.append(_begin(model, number, turns[number], prompts[number], cache, ticket))
        except Cancelled:
            begun = len(turns)
        if not running:
            return
        steps = step_together(model, [one.generation for one in running])
        for one, step in zip(list(running), steps, strict=True):
            finish = one.hear(step, ticket)
            if finish is not None:
                running.remove(one)
                yield one.number, one.reply(finish, model.peak_memory_bytes)
        if ticket.cancelled():
            begun = len(turns)


def _begin(model: Model, number: int, turn: Turn, prompt: Sequence[int], cache: KVCache, ticket: Ticket) -> _Running:
    """Reads the rest of the prompt. Raises Cancelled."""
    began, cached = time.perf_counter(), cache.offset
    generation = Generation(
        model,
        cache,
        turn.options.sampling,
        context_limit=turn.context_limit,
        prefill_chunk=turn.options.prefill_chunk,
        constraint=turn.constraint,
    )
    for _ in generation.prefill(prompt, cancelled=ticket.cancelled):
        pass
    listener = Listener(turn)
    for token in turn.opening:
        for _ in listener.hear(Step(token, None, forced=True)):
            pass
    return _Running(number, turn, generation, listener, cached, began)


def _has_room(model: Model, running: Sequence[_Running], longest: int) -> bool:
    """Whether one more turn, with a prompt of `longest` tokens, fits the memory beside those that run.

    One always does.
    """
    if not running:
        return True
    config, item = model.config, model.dtype.size

    def needed(turn: Turn, prompt: int) -> int:
        answer = EXPECTED_TOKENS if turn.options.max_tokens is None else turn.options.max_tokens
        return kv_bytes(config, min(prompt + answer, turn.context_limit), item)

    growth = sum(max(0, needed(one.turn, one.turn.prompt_tokens) - one.generation.cache.nbytes) for one in running)
    chunk = running[0].turn.options.prefill_chunk
    return model.has_room(growth + needed(running[0].turn, longest), chunk, longest)
