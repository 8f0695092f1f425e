"""Plays sessions of conversations on one pool of KV caches, and holds each answer against a model that is cold.

Messages are token ids, in the shape of harmony: a prompt is all messages but the reasoning of finished turns, then the
start of an answer. So a turn's end changes the tail of every prompt, as it does for people.
"""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from gptoss_mlx.errors import Cancelled
from gptoss_mlx.generate import Generation, all_logits
from gptoss_mlx.kv_file import read_kv_file, write_kv_file
from gptoss_mlx.kv_pool import HeldCache, KVPool
from gptoss_mlx.kv_record import record, restore
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import Sampling
from tests.tolerances import TIE, WORST_ERROR, relative_errors

START, ASSISTANT, USER, SYSTEM, TOOL, ANALYSIS, FINAL, END, CALL = range(50, 59)
WORDS = 50
"""Ids below this are words."""

GREEDY = Sampling(temperature=0, logprobs=True)
PLAIN = Sampling(temperature=0)
"""The same on the shorter way, without logits."""


@dataclass(frozen=True)
class Said:
    """One message."""

    kind: int
    tokens: tuple[int, ...]
    """All of it: header, text, end."""


Conversation = tuple[Said, ...]


def said(kind: int, words: list[int]) -> Said:
    """A message of somebody other than the model."""
    return Said(kind, (START, kind, *words, END))


def prompt_of(conversation: Conversation) -> list[int]:
    """What the model reads: no reasoning from before the last final answer."""
    finals = [index for index, message in enumerate(conversation) if message.kind == FINAL]
    last = finals[-1] if finals else 0
    shown = [m for index, m in enumerate(conversation) if m.kind != ANALYSIS or index >= last]
    return [token for message in shown for token in message.tokens] + [START, ASSISTANT]


def answers_start(conversation: Conversation) -> int:
    """Where the answers to the last user message begin in the prompt."""
    asked = max(index for index, message in enumerate(conversation) if message.kind == USER)
    return len(prompt_of(conversation[: asked + 1]))


@dataclass
class Turn:
    """How long an answer is made, and how it ends."""

    thought: int = 5
    """Tokens that the model draws as reasoning."""
    answered: int = 5
    """Tokens that it draws as its answer, or as its call."""
    calls: bool = False
    """Whether it calls a tool in place of answering."""
    stop: int | None = None
    """Ends it after so many tokens, wherever that is."""
    chunk: int = 512
    cancel_after: int | None = None
    """Cancels it while the prompt is read, after so many chunks."""


@dataclass
class Session:
    """Conversations with one model that share a pool."""

    model: Model
    pool: KVPool
    chats: list[Conversation] = field(default_factory=list)
    read: int = 0
    """Tokens that the model has read."""
    log: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each turn: tokens in the prompt, those taken from the pool, those read of it."""

    def ask(self, conversation: Conversation, turn: Turn) -> Conversation:
        """The conversation with the model's answer to it. Asserts that a cold model would have said the same."""
        prompt = prompt_of(conversation)
        held = self.pool.take(
            self.model.make_cache, prompt, start=answers_start(conversation), end_ids=frozenset((END, CALL))
        )
        sampling = PLAIN if turn.thought % 2 else GREEDY
        generation = Generation(self.model, held.cache, sampling, context_limit=100_000, prefill_chunk=turn.chunk)
        before, chunks = self.read, itertools.count()
        try:
            for _ in generation.prefill(prompt, cancelled=lambda: next(chunks) == turn.cancel_after):
                held.collect()
        except Cancelled:
            self.pool.give_back(held, generation.tokens_read)
            return conversation
        self.log.append((len(prompt), held.cached_tokens, self.read - before))
        messages, drawn = self._answer(generation, held, turn)
        self._check(generation, held, drawn)
        return (*conversation, *messages)

    def restart(self) -> None:
        """All that is kept goes to files, and from there into a pool that knows nothing else."""
        pool, dtype = KVPool(self.pool.limit_bytes), self.model.dtype
        with tempfile.TemporaryDirectory() as name:
            for number, held in enumerate(self.pool._held):
                file = Path(name) / str(number)
                write_kv_file(file, record(held, len(held.tokens), "model"))
                pool.add(restore(read_kv_file(file), "model", self.model.config, dtype))
        self.pool = pool

    def _answer(self, generation: Generation, held: HeldCache, turn: Turn) -> tuple[list[Said], dict[int, float]]:
        """What the model says; the positions of the tokens that it drew, with their log-probabilities."""
        drawn: dict[int, float] = {}
        given: list[int] = []
        left = itertools.count(1)

        def take(count: int) -> bool:
            for _ in range(count):
                step = generation.next_step()
                held.heard(step.token, generation.length)
                given.append(step.token)
                if not step.forced:
                    drawn[generation.length - 1] = np.nan if step.logprob is None else step.logprob
                if next(left) == turn.stop:
                    return False
            return True

        closing = [END, START, ASSISTANT, CALL if turn.calls else FINAL]
        if take(turn.thought):
            generation.force(closing)
            if take(len(closing)) and take(turn.answered):
                generation.force([CALL if turn.calls else END])
                take(1)
        return _messages(given, turn), drawn

    def _check(self, generation: Generation, held: HeldCache, drawn: dict[int, float]) -> None:
        """Holds drawn tokens, their log-probabilities and what would come next against a cold model; keeps the cache.

        One more token is read for that: to the pool it is a token like any other.
        """
        read, context = generation.tokens_read, generation.length
        probe = (sum(read) + 1) % WORDS
        found = np.array(self.model(mx.array([[probe]]), held.cache)[0], dtype=np.float64)
        cold = np.array(all_logits(self.model, [*read, probe]), dtype=np.float64)
        assert relative_errors(found, cold[-1:]).max() <= WORST_ERROR
        for position, logprob in drawn.items():
            if position < min(len(read), context):
                logits, token = cold[position - 1], read[position]
                assert logits.max() - logits[token] <= TIE * np.linalg.norm(logits)
                if not np.isnan(logprob):
                    expected = logits[token] - np.logaddexp.reduce(logits)
                    assert abs(logprob - expected) <= 1e-4
        self.pool.give_back(held, [*read, probe])


def _messages(given: list[int], turn: Turn) -> list[Said]:
    """The messages in what the model said, each closed."""
    thought, rest = given[: turn.thought], given[turn.thought + 4 :]
    messages = [Said(ANALYSIS, (START, ASSISTANT, *thought, END))]
    if rest and turn.calls:
        messages.append(Said(CALL, (START, ASSISTANT, CALL, *[token for token in rest if token != CALL], CALL)))
    elif rest:
        messages.append(Said(FINAL, (START, ASSISTANT, FINAL, *(rest[:-1] if rest[-1] == END else rest), END)))
    return messages


def counted(model: Model, on_read: Callable[[int], None]) -> None:
    """Has `on_read` hear of the tokens that `model` reads on a cache of somebody else's."""
    inner = model._read

    def read(tokens, cache, wanted):
        on_read(tokens.size)
        return inner(tokens, cache, wanted)

    model._read = read
