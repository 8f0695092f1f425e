"""From logits to the next token: what may be chosen, how it is drawn, and what its log-probability is.

Order of the steps: logit bias, repetition penalty, what a constraint allows, temperature, then top-k, top-p and min-p
on the tempered distribution, then one draw. Everything stays on the device, so that the next step can be queued before
this one's token is read.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. The defaults are OpenAI's for gpt-oss: the model's own distribution."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token (the lowest id among equals)."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities add up to this (the one that crosses it included)."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""
    min_p: float = 0.0
    """Drop tokens less probable than this share of the most probable one."""
    repetition_penalty: float = 1.0
    seed: int | None = None
    """The same seed, prompt and model give the same tokens; None draws a new seed."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> value added to its logit."""
    logprobs: bool = False
    """Also give the log-probability of each token, from the unmodified logits (temperature 1)."""

    def __post_init__(self) -> None:
        _check(self.temperature >= 0 and self.temperature < float("inf"), "temperature", self.temperature, "0 or more")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, at most 1")
        _check(isinstance(self.top_k, int) and self.top_k >= 0, "top_k", self.top_k, "a whole number, 0 or more")
        _check(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        positive = 0 < self.repetition_penalty < float("inf")
        _check(positive, "repetition_penalty", self.repetition_penalty, "above 0 (1 changes nothing)")
        _check(self.seed is None or 0 <= self.seed < 2**64, "seed", self.seed, "between 0 and 2**64 - 1")


def _check(right: bool, name: str, value: object, expected: str) -> None:
    if not right:
        raise UsageError(f"{name} is {value!r}; expected {expected}")


class Constraint(Protocol):
    """Which tokens may come next, told from those that came. It is asked once before each token."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """[vocab]: True for each token that may come next; at least one is."""
        ...

    def accept(self, token: int) -> None:
        """Takes note of the token that came, drawn or forced."""
        ...


class Sampler:
    """Draws tokens for one run of decoding; holds the random state and, for the repetition penalty, the tokens seen."""

    def __init__(self, sampling: Sampling, vocab_size: int, context: Sequence[int] = ()) -> None:
        """`context` are the token ids of the prompt (they count for the repetition penalty).

        Raises UsageError for a logit bias on an id outside the vocabulary.
        """
        self._sampling = sampling
        self._vocab_size = vocab_size
        seed = time.time_ns() if sampling.seed is None else sampling.seed
        self._key = mx.random.key(seed)
        self._bias: mx.array | None = None
        if sampling.logit_bias:
            bias = mx.zeros((vocab_size,), dtype=mx.float32)
            for token, value in sampling.logit_bias.items():
                _check(0 <= token < vocab_size, "logit_bias for token", token, f"an id below {vocab_size}")
                bias[token] = value
            self._bias = bias
        self._seen: mx.array | None = None
        if sampling.repetition_penalty != 1.0:
            self._seen = mx.zeros((vocab_size,), dtype=mx.bool_)
            self.observe(mx.array(list(context), dtype=mx.int32))

    @property
    def greedy(self) -> bool:
        """Whether every draw is the largest of the unmodified logits, and nothing but the token is asked for."""
        sampling = self._sampling
        return sampling.temperature == 0 and self._bias is None and self._seen is None and not sampling.logprobs

    def observe(self, tokens: mx.array) -> None:
        """Counts `tokens` [n] int32 as seen: those that entered the context, drawn or forced."""
        if self._seen is not None and tokens.size:
            self._seen[tokens] = True

    def draw(self, logits: mx.array, allowed: mx.array | None = None) -> tuple[mx.array, mx.array | None]:
        """One token [1] int32 from logits [1, vocab], and its log-probability [1] if asked for.

        allowed: bool [vocab], the tokens to choose from.
        """
        sampling = self._sampling
        scores = logits.astype(mx.float32)
        original = scores
        if self._bias is not None:
            scores = scores + self._bias
        if self._seen is not None:
            penalty = sampling.repetition_penalty
            penalised = mx.where(scores > 0, scores / penalty, scores * penalty)
            scores = mx.where(self._seen, penalised, scores)
        if allowed is not None:
            scores = mx.where(allowed, scores, -mx.inf)
        if sampling.temperature == 0:
            token = mx.argmax(scores, axis=-1)
        else:
            token = self._draw_from(scores / sampling.temperature)
        token = token.astype(mx.int32)
        logprob = None
        if sampling.logprobs:
            chosen = mx.take_along_axis(original, token[:, None], axis=-1)[:, 0]
            logprob = chosen - mx.logsumexp(original, axis=-1)
        return token, logprob

    def _draw_from(self, scores: mx.array) -> mx.array:
        sampling = self._sampling
        self._key, key = mx.random.split(self._key)
        if 0 < sampling.top_k < self._vocab_size or sampling.top_p < 1 or sampling.min_p > 0:
            return self._draw_filtered(scores, key)
        return mx.random.categorical(scores, key=key)

    def _draw_filtered(self, scores: mx.array, key: mx.array) -> mx.array:
        """One draw among the tokens that top-k, top-p and min-p leave; works on the sorted distribution."""
        sampling = self._sampling
        if 0 < sampling.top_k < self._vocab_size:
            top = mx.argpartition(-scores, kth=sampling.top_k - 1, axis=-1)[:, : sampling.top_k]
        else:
            top = mx.broadcast_to(mx.arange(self._vocab_size), scores.shape)
        kept = mx.take_along_axis(scores, top, axis=-1)
        order = mx.argsort(-kept, axis=-1)
        top = mx.take_along_axis(top, order, axis=-1)
        kept = mx.take_along_axis(kept, order, axis=-1)
        probabilities = mx.softmax(kept, axis=-1, precise=True)
        # A token stays while the mass before it is below top_p, so the first one always stays.
        before = mx.cumsum(probabilities, axis=-1) - probabilities
        allowed = (before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[:, :1])
        allowed[:, 0] = True
        drawn = mx.random.categorical(mx.where(allowed, kept, -mx.inf), key=key)
        return mx.take_along_axis(top, drawn[:, None], axis=-1)[:, 0]
