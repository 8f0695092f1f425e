"""Token ids in, token ids out: prefill in chunks, then decode, with the next step queued before the last one is read
where the device works apart from the host.

Owns the order of work on one cache; knows no text, no channels and no threads. All of it must run on the thread that
loaded the model, because MLX streams belong to a thread.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from gptoss_mlx.cache import KVCache
from gptoss_mlx.errors import Cancelled, ContextOverflow, UsageError
from gptoss_mlx.memory import PREFILL_CHUNK_TOKENS
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import Constraint, Sampler, Sampling


@dataclass(frozen=True, slots=True)
class Step:
    """One decoded token."""

    token: int
    logprob: float | None
    """Natural-log probability under the model's own distribution, if asked for."""
    forced: bool = False
    """True for a token that the caller put in place of a sampled one."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that was drawn and may not be computed yet."""

    token: mx.array
    """One integer."""
    logprob: mx.array | None

    def step(self) -> Step:
        """The token, once it is computed."""
        logprob = None if self.logprob is None else cast(float, self.logprob.item())
        return Step(cast(int, self.token.item()), logprob)


class Generation:
    """One run of decoding on one cache: `prefill` once, then `next_step` until the caller has enough.

    Where the model runs apart from the host, the device works on the next token while the caller reads this one, and
    `force` costs that one queued draw. Where it does not, a token is handed out as soon as it is drawn, and the model
    reads it when the next one is asked for: the cache then holds all tokens but those given since the last draw.

    With a `constraint` the draw of the next token waits until this one is known, since it decides what may follow; the
    forward pass between them does not wait.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        sampling: Sampling,
        *,
        context_limit: int,
        prefill_chunk: int = PREFILL_CHUNK_TOKENS,
        constraint: Constraint | None = None,
    ) -> None:
        if prefill_chunk < 1:
            raise UsageError(f"prefill_chunk is {prefill_chunk}; expected at least 1")
        self._model = model
        self._cache = cache
        self._sampling = sampling
        self._context_limit = context_limit
        self._prefill_chunk = prefill_chunk
        self._sampler: Sampler | None = None
        self._constraint = constraint
        self._mask: tuple[object, mx.array] = (None, mx.array([]))
        """What the constraint allowed last, and the same on the device."""
        self._pending: tuple[mx.array, mx.array | None] | None = None
        """The queued draw; with a constraint, the logits to draw from, and None."""
        self._forced: list[int] = []
        self._unread: list[int | mx.array] = []
        """Tokens that belong to the context and that the model has not read yet."""
        self._context: list[int] = []
        """The prompt, the tokens given and the forced ones that were not given yet."""
        self._length = 0
        self.prefill_seconds = 0.0
        """Time spent in `prefill` so far."""

    @property
    def length(self) -> int:
        """Prompt tokens and tokens given so far."""
        return self._length

    @property
    def tokens_read(self) -> list[int]:
        """The tokens that the cache holds, those it held before among them: what was drawn last may be missing."""
        return self._context[: self._cache.offset]

    @property
    def room(self) -> int:
        """Tokens that still fit the context length."""
        return max(self._context_limit - self._length - len(self._forced), 0)

    @property
    def exhausted(self) -> bool:
        """True when the context length leaves no room for another token."""
        return self._length >= self._context_limit

    def prefill(
        self, prompt: Sequence[int], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, int]]:
        """Reads `prompt` (token ids; the first `cache.offset` of them are in the cache already) and queues the first
        draw.

        Gives (tokens read, tokens in all) before the first chunk and after each; run it to its end. Raises
        ContextOverflow before any work when no token could follow, Cancelled between two chunks, UsageError for an
        empty prompt or an id outside the vocabulary.
        """
        vocab_size = self._model.config.vocab_size
        check_tokens(prompt, vocab_size)
        total = len(prompt)
        done = self._cache.offset
        if total >= self._context_limit:
            raise ContextOverflow(total, self._context_limit)
        if done >= total:
            raise UsageError(
                f"the cache holds {done} tokens and the prompt has {total}; expected at least one token to read"
            )
        start = time.perf_counter()
        self._context = list(prompt)
        self._sampler = Sampler(self._sampling, vocab_size, prompt)
        yield done, total
        while done < total:
            if cancelled():
                raise Cancelled(f"stopped after {done} of {total} prompt tokens")
            wanted = min(self._prefill_chunk, total - done)
            chunk = list(prompt[done : done + self._model.fitting_chunk(self._cache, wanted)])
            done += len(chunk)
            if done < total:
                # Nobody asks what comes after a token in the middle of a prompt.
                mx.eval(self._model.read(mx.array([chunk], dtype=mx.int32), self._cache))
            else:
                result = self._forward(mx.array([chunk], dtype=mx.int32))
                mx.eval(result)
                self._length = total
                self._queue(result)
            self.prefill_seconds = time.perf_counter() - start
            yield done, total

    def next_step(self) -> Step:
        """The next token. The one after it is queued before this one is waited for, where the model runs apart."""
        if self._forced:
            self._length += 1
            forced = self._forced.pop(0)
            if self._constraint is not None:
                self._constraint.accept(forced)
            return Step(forced, None, forced=True)
        if self._pending is None:
            self.read()
        drawn = self.take()
        if self._unread and self._model.runs_apart:
            self.read()
        return self.give(drawn)

    # Where several are decoded together (`batch`), these take the place of `next_step`.

    @property
    def cache(self) -> KVCache:
        """What it reads into."""
        return self._cache

    @property
    def greedy(self) -> bool:
        """Whether it takes the most probable token each time, whatever it is, and `accept` wants no logits."""
        assert self._sampler is not None, "prefill comes first"
        return self._sampler.greedy and self._constraint is None

    @property
    def has_forced(self) -> bool:
        """Whether `next_step` gives a token that was put in place of a drawn one, for which nothing is read."""
        return bool(self._forced)

    @property
    def has_drawn(self) -> bool:
        """Whether the next token is drawn, or queued to be."""
        return self._pending is not None

    @property
    def unread(self) -> Sequence[int | mx.array]:
        """Tokens that the model must read before the next draw: ids, or arrays `[1]` that may not be computed yet."""
        return self._unread

    def read(self) -> None:
        """Has the model read what is unread, and queues the draw of the token after it."""
        assert self._unread, "prefill comes first"
        self.accept(self._forward(as_tokens(self._unread)[None]))

    def accept(self, result: mx.array) -> None:
        """Queues the draw from what the model gave after the unread tokens: logits `[1, vocab]`, or if `greedy` the
        token, of one value."""
        self._unread = []
        self._queue(result)

    def take(self) -> "Drawn":
        """The drawn token, which may not be computed yet; it is unread from now on."""
        assert self._sampler is not None, "prefill comes first"
        assert self._pending is not None, "read comes first"
        (token, logprob), self._pending = self._pending, None
        if self._constraint is not None:
            token, logprob = self._draw_allowed(token, self._constraint)
        self._length += 1
        if not self.exhausted:
            self._sampler.observe(token)
            self._unread.append(token.reshape(1))
        return Drawn(token, logprob)

    def give(self, drawn: "Drawn") -> Step:
        """The token that `take` gave, once it is computed."""
        step = drawn.step()
        self._context.append(step.token)
        if self._constraint is not None:
            self._constraint.accept(step.token)
        return step

    def force(self, tokens: Iterable[int]) -> None:
        """Makes `tokens` the next ones instead of what the model would draw; it goes on from there.

        They pass through the model like drawn ones and come out of `next_step` with `forced=True`. Raises
        ContextOverflow if they do not fit.
        """
        forced = list(tokens)
        if not forced:
            return
        if self._length + len(self._forced) + len(forced) >= self._context_limit:
            raise ContextOverflow(self._length + len(forced), self._context_limit)
        self._forced.extend(forced)
        self._context.extend(forced)
        assert self._sampler is not None, "prefill comes first"
        self._sampler.observe(mx.array(forced, dtype=mx.int32))
        self._pending = None
        self._unread.extend(forced)
        if self._model.runs_apart:
            self.read()

    def _forward(self, tokens: mx.array) -> mx.array:
        """What the next draw is made from, after `tokens` (integers [1, n]).

        Logits [1, vocab]; where every draw is the most probable token, that token at once, [1, 1].
        """
        if self.greedy:
            return self._model.most_probable(tokens, self._cache)
        return self._model(tokens, self._cache, last_only=True)[:, -1]

    def _draw_allowed(self, logits: mx.array, constraint: Constraint) -> tuple[mx.array, mx.array | None]:
        """The draw that a queued one is without a constraint."""
        assert self._sampler is not None, "prefill comes first"
        allowed = constraint.allowed()
        if allowed is not self._mask[0]:
            self._mask = (allowed, mx.array(cast(Any, allowed)))
        return self._sampler.draw(logits, self._mask[1])

    def _queue(self, result: mx.array) -> None:
        """Queues the draw from what `_forward` gave."""
        assert self._sampler is not None, "prefill comes first"
        if self._constraint is not None:
            self._pending = (result, None)
            mx.async_eval(result)  # type: ignore[no-untyped-call]
            return
        token, logprob = (result, None) if self._sampler.greedy else self._sampler.draw(result)
        self._pending = (token, logprob)
        mx.async_eval(token, *(() if logprob is None else (logprob,)))  # type: ignore[no-untyped-call]


def as_tokens(tokens: Sequence[int | mx.array]) -> mx.array:
    """Ids and arrays `[1]` as one array of integers, `[tokens]`; nothing is waited for."""
    ids = [token for token in tokens if isinstance(token, int)]
    if len(ids) == len(tokens):
        return mx.array(ids, dtype=mx.int32)
    parts = [token if isinstance(token, mx.array) else mx.array([token], dtype=mx.int32) for token in tokens]
    return mx.concatenate([part.astype(mx.int32) for part in parts])


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raises UsageError when `tokens` is empty or an id is outside the vocabulary."""
    if not tokens:
        raise UsageError("the prompt has no tokens; expected at least one")
    lowest, highest = min(tokens), max(tokens)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise UsageError(
            f"token id {wrong} is outside the model's vocabulary of {vocab_size}; was it made by another tokenizer?"
        )


def all_logits(
    model: Model,
    tokens: Sequence[int],
    *,
    prefill_chunk: int = PREFILL_CHUNK_TOKENS,
    cancelled: Callable[[], bool] = lambda: False,
) -> mx.array:
    """Logits after every one of `tokens`: float32 [len(tokens), vocab]. Read in chunks on a cache of its own."""
    check_tokens(tokens, model.config.vocab_size)
    cache = model.make_cache()
    parts: list[mx.array] = []
    while (start := cache.offset) < len(tokens):
        if cancelled():
            raise Cancelled(f"stopped after {start} of {len(tokens)} tokens")
        end = start + model.fitting_chunk(cache, min(prefill_chunk, len(tokens) - start), logits=True)
        parts.append(model(mx.array([list(tokens[start:end])], dtype=mx.int32), cache)[0].astype(mx.float32))
        mx.eval(parts[-1])
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=0)


def token_logprobs(
    model: Model,
    tokens: Sequence[int],
    *,
    prefill_chunk: int = PREFILL_CHUNK_TOKENS,
    cancelled: Callable[[], bool] = lambda: False,
) -> mx.array:
    """Natural-log probability of each token after the first, given those before it: float32 [len(tokens) - 1].

    Works chunk by chunk, so the logits of a long text never stand in memory at once (a full vocabulary is 0.8 MB a
    position).
    """
    check_tokens(tokens, model.config.vocab_size)
    cache = model.make_cache()
    parts: list[mx.array] = []
    while (start := cache.offset) < len(tokens) - 1:
        if cancelled():
            raise Cancelled(f"stopped after {start} of {len(tokens)} tokens")
        end = start + model.fitting_chunk(cache, min(prefill_chunk, len(tokens) - 1 - start), logits=True)
        logits = model(mx.array([list(tokens[start:end])], dtype=mx.int32), cache)[0].astype(mx.float32)
        following = mx.array(list(tokens[start + 1 : end + 1]), dtype=mx.int32)
        chosen = mx.take_along_axis(logits, following[:, None], axis=-1)[:, 0]
        parts.append(chosen - mx.logsumexp(logits, axis=-1))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=0) if parts else mx.zeros((0,), dtype=mx.float32)
