"""The engines that play a conversation for `gptoss bench --turns`, each with its own way to keep what it has read.

Ours: `KVPool`, as a turn uses it. mlx-lm's: `LRUPromptCache` with its defaults, as its server uses it: the nearest
cache is looked up, the end of the system prompt is kept when a prompt ends with a user's message, and so is all that is
there after the answer.
"""

import copy
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from gptoss_mlx.bench.conversation import ScriptedRequest
from gptoss_mlx.bench.engines import dtype_name
from gptoss_mlx.bench.plan import OURS
from gptoss_mlx.errors import UsageError

Timed = tuple[int, float]
"""Tokens that were read for a prompt, and seconds until the first token of its answer was known."""


class TurnEngine(Protocol):
    """What plays a conversation."""

    version: str
    """Of the package."""

    def load(self, folder: Path) -> None:
        """Makes the model ready for requests."""

    def ask(self, request: ScriptedRequest) -> Timed:
        """Takes the prompt to its first token, timed; then reads the answer that is written down."""
        ...

    def ask_cold(self, request: ScriptedRequest) -> Timed:
        """The same from nothing, and keeps nothing of it."""
        ...

    def dtype(self) -> str:
        """What the dense weights are computed in, such as "bfloat16"."""
        ...

    def close(self) -> None:
        """Frees the model."""


def make_turn_engine(name: str, end_ids: Sequence[int]) -> TurnEngine:
    """The engine of this name, its packages imported; `end_ids` are the tokens that end a message."""
    if name == OURS:
        return OurTurns(end_ids)
    if name == "mlx-lm":
        return MlxLmTurns()
    raise UsageError(f"there is no engine {name!r}; expected {OURS} or mlx-lm")


class OurTurns:
    """gptoss_mlx: the engine thread with `KVPool` and `Generation`, below text and channels."""

    def __init__(self, end_ids: Sequence[int]) -> None:
        from gptoss_mlx import __version__
        from gptoss_mlx.engine import Engine
        from gptoss_mlx.generate import Generation
        from gptoss_mlx.kernel_check.choice import load_ready_model
        from gptoss_mlx.kv_pool import KVPool
        from gptoss_mlx.model import Model
        from gptoss_mlx.sampling import Sampling

        self.version = __version__
        self._engine: Engine | None = None
        warm, ends = KVPool(1 << 62), frozenset(end_ids)

        def work(model: Model, request: ScriptedRequest, pool: KVPool) -> Timed:
            begin = time.perf_counter()
            prompt, answer = request.prompt, request.answer
            held = pool.take(model.make_cache, prompt, start=request.start, end_ids=ends)
            cached = held.cached_tokens
            # Room for one token: it is drawn and not read, as the answer that is written down takes its place.
            generation = Generation(model, held.cache, Sampling(temperature=0.0), context_limit=len(prompt) + 1)
            for _ in generation.prefill(prompt):
                held.collect()
            generation.next_step()
            seconds = time.perf_counter() - begin
            context = prompt + answer[:-1]
            held.begin(context, request.start, ends)
            mx.eval(model.read(mx.array([answer[:-1]], dtype=mx.int32), held.cache))
            held.collect()
            pool.give_back(held, context)
            return len(prompt) - cached, seconds

        self._load: Callable[[Path], Engine] = lambda folder: Engine(lambda: load_ready_model(folder))
        self._warm: Callable[[ScriptedRequest], Timed] = lambda request: self._running.call(
            lambda model, ticket: work(model, request, warm)
        )
        self._cold: Callable[[ScriptedRequest], Timed] = lambda request: self._running.call(
            lambda model, ticket: work(model, request, KVPool(0))
        )

    @property
    def _running(self) -> Any:
        assert self._engine is not None, "load comes first"
        return self._engine

    def load(self, folder: Path) -> None:
        self._engine = self._load(folder)

    def ask(self, request: ScriptedRequest) -> Timed:
        return self._warm(request)

    def ask_cold(self, request: ScriptedRequest) -> Timed:
        return self._cold(request)

    def dtype(self) -> str:
        return dtype_name(self._running.call(lambda model, ticket: model.dtype))

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


class MlxLmTurns:
    """mlx-lm: `generate_step` inside `wired_limit` on caches of `LRUPromptCache`, with their defaults."""

    def __init__(self) -> None:
        from mlx_lm.generate import generate_step, generation_stream, wired_limit
        from mlx_lm.models.cache import LRUPromptCache, make_prompt_cache
        from mlx_lm.utils import load_model

        self.version = importlib.metadata.version("mlx-lm")
        self._load_model = load_model
        self._generate_step = generate_step
        self._wired_limit = wired_limit
        self._make_cache = make_prompt_cache
        self._make_store = LRUPromptCache
        self._stream: Any = generation_stream
        self._model: Any = None
        self._store: Any = LRUPromptCache()

    def load(self, folder: Path) -> None:
        self._model, _ = self._load_model(folder)

    def ask(self, request: ScriptedRequest) -> Timed:
        return self._ask(request, self._store)

    def ask_cold(self, request: ScriptedRequest) -> Timed:
        return self._ask(request, self._make_store())

    def _ask(self, request: ScriptedRequest, store: Any) -> Timed:
        begin = time.perf_counter()
        prompt, key = request.prompt, "model"
        with self._wired_limit(self._model, [self._stream]):
            cache, rest = store.fetch_nearest_cache(key, prompt)
            read = len(rest)
            if cache is None:
                cache = self._make_cache(self._model)
            done = len(prompt) - read
            if request.kind == "question" and done < request.system_end:
                self._read(prompt[done : request.system_end], cache)
                done = request.system_end
                store.insert_cache(key, prompt[:done], copy.deepcopy(cache), cache_type="system")
            # It ends when the first token is known, which it has not read then: the answer takes its place.
            for _ in self._generate_step(mx.array(prompt[done:]), self._model, max_tokens=0, prompt_cache=cache):
                pass
            seconds = time.perf_counter() - begin
            context = prompt + request.answer[:-1]
            self._read(request.answer[:-1], cache)
            store.insert_cache(key, context, cache)
        return read, seconds

    def _read(self, tokens: Sequence[int], cache: Any) -> None:
        with mx.stream(self._stream):
            self._model(mx.array([list(tokens)]), cache=cache)
            mx.eval([layer.state for layer in cache])

    def dtype(self) -> str:
        return dtype_name(self._model.model.norm.weight.dtype)

    def close(self) -> None:
        self._model = self._store = None
