"""Measures the product itself on the pocket model's held-out questions: accuracy, thinking, form, expert load, speed.

The questions and their marking are `pocket.evaluate`'s; here they are asked through the public API, so what is
measured is what a user gets. It prints nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx import events
from gptoss_mlx.api import GptOss
from gptoss_mlx.engine import Ticket
from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.generate import all_logits
from gptoss_mlx.harmony import ANALYSIS, FINAL, Message, ReasoningEffort, parse_tokens
from gptoss_mlx.model import Model
from gptoss_mlx.ops import ExpertLinear, ReferenceOps, Routing, use_ops
from gptoss_mlx.options import OptionArguments
from gptoss_mlx.pocket.evaluate import (
    CATEGORIES,
    DATE,
    AnswerAll,
    Prompt,
    Reply,
    Score,
    is_right,
    make_questions,
    score,
    summarise,
)
from gptoss_mlx.pocket.running_tools import make_tool_questions

TOOL_LOOP = "tool loop"
"""Sums and weather with functions that run: the whole way from the question over call and result to the answer."""
KINDS = (*CATEGORIES, TOOL_LOOP)
"""Everything that can be asked for."""

LOAD_SAMPLE_TURNS = 64
"""Turns whose tokens are counted for the expert load."""


MAX_TOKENS = 512
"""An answer that is longer has lost its way."""


@dataclass
class Tally:
    """What the turns of a run cost."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    decoded_tokens: int = 0
    decode_seconds: float = 0.0
    turns: list[tuple[int, ...]] = field(default_factory=list)
    """Token ids of the first turns, prompt and answer."""

    def add(self, stats: events.Stats) -> None:
        """Counts one turn."""
        self.prompt_tokens += stats.prompt_tokens - stats.cached_tokens
        self.prompt_seconds += stats.prompt_seconds
        self.decoded_tokens += max(stats.generated_tokens - 1, 0)
        self.decode_seconds += stats.generation_seconds

    def rates(self) -> dict[str, float]:
        """Tokens per second, reading and writing."""
        return {
            "prefill_tokens_per_second": self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0,
            "decode_tokens_per_second": self.decoded_tokens / self.decode_seconds if self.decode_seconds else 0.0,
        }


def run_questions(
    model: GptOss,
    categories: Sequence[str],
    efforts: Sequence[ReasoningEffort],
    *,
    count: int,
    seed: int,
    temperature: float,
    on_score: Callable[[Score], None],
) -> dict[str, Any]:
    """Asks `count` held-out questions of each category at each effort; `on_score` hears of each result as it comes.

    Gives the summary of `pocket.evaluate`, the expert load of each layer (entropy as a share of the uniform one) and
    the rates.
    """
    tally = Tally()
    answer_all = answers_of(model, tally, temperature=temperature)
    scores: list[Score] = []
    for category in categories:
        for effort in efforts:
            if category == TOOL_LOOP:
                scores.append(score_tool_loop(model, effort, tally, count=count, seed=seed, temperature=temperature))
            else:
                scores.append(score(make_questions(category, effort, count, seed), answer_all))
            on_score(scores[-1])
    return {
        "model": model.name,
        "questions_of_each_kind": count,
        "temperature": temperature,
        "seed": seed,
        **summarise(scores),
        "expert_load_entropy": expert_load_entropy(model, tally.turns),
        **tally.rates(),
    }


def answers_of(model: GptOss, tally: Tally, *, temperature: float) -> AnswerAll:
    """A function that answers prompts through the API and counts what they cost."""

    def answer_all(prompts: Sequence[Prompt]) -> list[Reply]:
        return [_answer(model, prompt, tally, temperature, seed=number) for number, prompt in enumerate(prompts)]

    return answer_all


def _answer(model: GptOss, prompt: Prompt, tally: Tally, temperature: float, seed: int) -> Reply:
    options = OptionArguments(effort=prompt.effort, date=prompt.date, tools=prompt.tools)
    limits: OptionArguments = {**options, "temperature": temperature, "seed": seed, "max_tokens": MAX_TOKENS}
    reply = model.generate(prompt.messages, **limits)
    tally.add(reply.stats)
    if len(tally.turns) < LOAD_SAMPLE_TURNS:
        tally.turns.append((*model.prompt_tokens(prompt.messages, **options), *reply.tokens))
    call = reply.tool_calls[0] if reply.tool_calls else None
    return Reply(
        final=reply.text if call is None else None,
        call=None if call is None else (call.name, call.raw),
        analysis=reply.reasoning,
        analysis_tokens=reply.stats.reasoning_tokens,
        well_formed=is_well_formed(model, reply),
    )


def is_well_formed(model: GptOss, reply: events.Reply) -> bool:
    """Whether the turn is harmony to the letter: it ended by itself, each round an analysis and one answer or call."""
    if reply.finish_reason not in ("stop", "tool_calls"):
        return False
    rounds: list[list[int]] = [[]]
    for token in reply.tokens:
        rounds[-1].append(token)
        if token in model.tokenizer.special.stop_ids:
            rounds.append([])
    try:
        # Each round of calls begins anew after its results.
        parsed = [parse_tokens(ids, model.tokenizer, role="assistant", strict=True) for ids in rounds if ids]
    except HarmonyError:
        return False
    return all(len(each) == 2 and each[0].channel == ANALYSIS and _ends_turn(each[1]) for each in parsed)


def score_tool_loop(
    model: GptOss, effort: ReasoningEffort, tally: Tally, *, count: int, seed: int, temperature: float
) -> Score:
    """`count` unseen questions with functions that run; right is an answer that follows from what they gave."""
    limits = OptionArguments(effort=effort, date=DATE, temperature=temperature, max_tokens=MAX_TOKENS)
    right = formed = thought = 0
    for number, question in enumerate(make_tool_questions(count, seed)):
        options: OptionArguments = {**limits, "tools": question.tools, "seed": number}
        reply = model.ask(question.text, **options)
        tally.add(reply.stats)
        ran = any(not result.failed for result in reply.tool_results)
        right += ran and is_right(question.expected, reply.text)
        formed += is_well_formed(model, reply)
        thought += reply.stats.reasoning_tokens
    return Score(TOOL_LOOP, effort, count, right / count, thought / count, formed / count)


def _ends_turn(message: Message) -> bool:
    return message.tool_name is not None or (message.channel == FINAL and message.recipient is None)


class _CountingOps(ReferenceOps):
    """The reference, counting how often each layer sends a token to each expert."""

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__()
        self.visits = np.zeros((layers, experts), dtype=np.int64)
        self._calls = 0

    def expert_gate_up(
        self, x: mx.array, routing: Routing, gate_up: ExpertLinear, limit: float, alpha: float
    ) -> mx.array:
        layers, count = self.visits.shape
        self.visits[self._calls % layers] += np.bincount(np.array(routing.experts).reshape(-1), minlength=count)
        self._calls += 1
        return super().expert_gate_up(x, routing, gate_up, limit, alpha)


def expert_load_entropy(model: GptOss, sequences: Sequence[Sequence[int]]) -> list[float]:
    config = model.config

    def count(loaded: Model, ticket: Ticket) -> npt.NDArray[np.int64]:
        counting = _CountingOps(config.num_hidden_layers, config.num_experts)
        with use_ops(counting):
            for ids in sequences:
                all_logits(loaded, ids, cancelled=ticket.cancelled)
        return counting.visits

    if not any(sequences):
        return []
    visits = model.engine.call(count)
    shares = visits / visits.sum(axis=1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return [float(entropy) for entropy in -(shares * logs).sum(axis=1) / math.log(config.num_experts)]
