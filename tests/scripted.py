"""A model that says what the test wrote down: for behaviour that a trained model shows only now and then.

`ScriptedModel` looks like `Model` to generation (config, make_cache, fitting_chunk, call, read, most_probable) and
records what it was asked.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx

from gptoss_mlx.chat import Chat
from gptoss_mlx.engine import Engine
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.model import Model
from gptoss_mlx.tokenizer import Tokenizer


@dataclass
class ScriptedCache:
    """Counts positions."""

    offset: int = 0


@dataclass(frozen=True)
class ScriptedConfig:
    """What generation reads of a config."""

    vocab_size: int


@dataclass
class ScriptedModel:
    """Says each of `scripts` token by token, one after each new prompt; then `filler` for ever.

    A forced run of tokens counts as one step. Prompts must not be read in chunks of one token: they look like decoding.
    """

    vocab_size: int
    scripts: Sequence[Sequence[int]]
    filler: int = 0
    calls: list[list[int]] = field(default_factory=list)
    """Tokens of each forward pass."""
    delay_seconds: float = 0.0
    """How long each forward pass takes."""
    fail_at: int | None = None
    """Number of the forward pass that raises."""
    runs_apart: bool = True
    """What `Model.runs_apart` says."""
    peak_memory_bytes: int = 0

    def __post_init__(self) -> None:
        self.config = ScriptedConfig(self.vocab_size)
        self._turn = -1
        self._spoken = 0
        self._decoding = False

    def make_cache(self) -> ScriptedCache:
        self._turn += 1
        self._spoken = 0
        self._decoding = False
        return ScriptedCache()

    def __call__(self, tokens: mx.array, cache: ScriptedCache, *, last_only: bool = False) -> mx.array:
        ids = cast(list[list[int]], tokens.tolist())[0]
        self.calls.append(ids)
        if self.fail_at is not None and len(self.calls) >= self.fail_at:
            self.fail_at = None
            raise RuntimeError("the device is gone")
        time.sleep(self.delay_seconds)
        self._decoding = self._decoding or len(ids) == 1
        if self._decoding:
            self._spoken += 1
        script = self.scripts[self._turn] if self._turn < len(self.scripts) else ()
        chosen = script[self._spoken] if self._spoken < len(script) else self.filler
        cache.offset += len(ids)
        logits = mx.zeros((1, 1 if last_only else len(ids), self.vocab_size))
        logits[:, -1, chosen] = 100.0
        return logits

    def begin_peak(self) -> None:
        """It takes no memory."""

    def fitting_chunk(self, cache: ScriptedCache, wanted: int, *, logits: bool = False) -> int:
        return wanted

    def read(self, tokens: mx.array, cache: ScriptedCache) -> mx.array:
        return self(tokens, cache)

    def most_probable(self, tokens: mx.array, cache: ScriptedCache) -> mx.array:
        return mx.argmax(self(tokens, cache, last_only=True), axis=-1)


@dataclass
class ScriptedHost:
    """What a Chat needs of a model, around a scripted one."""

    engine: Engine
    tokenizer: Tokenizer
    context_limit: int = 4096
    name: str = "scripted"
    kv_pool: KVPool = field(default_factory=lambda: KVPool(0))


def as_model(model: ScriptedModel) -> Model:
    """For the type checker: a scripted model where a real one is expected."""
    return cast(Model, cast(Any, model))


def scripted_chat(tokenizer: Tokenizer, *texts: str, context_limit: int = 4096, **defaults: Any) -> Chat:
    """A chat whose model says each of `texts` (harmony markup in them is meant) as its turns."""
    model = scripted_model(tokenizer, *texts)
    host = ScriptedHost(Engine(lambda: as_model(model)), tokenizer, context_limit)
    return Chat(host, defaults={"temperature": 0.0, **defaults})  # type: ignore[typeddict-item]


def scripted_model(tokenizer: Tokenizer, *texts: str) -> ScriptedModel:
    """A model that says each of `texts`, one a turn."""
    scripts = [tokenizer.encode_with_special(text) for text in texts]
    return ScriptedModel(tokenizer.vocab_size, scripts, filler=tokenizer.encode("x")[0])
