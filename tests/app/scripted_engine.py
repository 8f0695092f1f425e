"""A real `GptOss` around a scripted model: engine, turns and harmony are real, what is said is written down.

`scripted_model_load` gives what `ModelSession(load=...)` takes. A script is harmony markup, one for each answer;
when they are used up, the model says `LAST`.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from gptoss_mlx.api import GptOss
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine import Engine
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.memory import MemoryEstimate
from gptoss_mlx.memory_limits import MemoryReport
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.tokenizer import Tokenizer
from tests.scripted import ScriptedCache, ScriptedModel, as_model

LAST = "<|channel|>final<|message|>Nothing more is written down.<|return|>"

NOTHING: list[int] = []


def final(text: str) -> str:
    """The script of a plain answer."""
    return f"<|channel|>final<|message|>{text}<|return|>"


def thought(reasoning: str, answer: str) -> str:
    """The script of an answer after reasoning."""
    return (
        f"<|channel|>analysis<|message|>{reasoning}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    )


@dataclass
class PacedModel(ScriptedModel):
    """A scripted model that keeps to a speed, over all of an answer, and takes its time to read."""

    tokens_per_second: float | None = None
    prefill_seconds: float = 0.0
    """For each chunk of the prompt."""
    pause_after: int | None = None
    """Tokens of the first answer after which it waits for `go`."""
    go: threading.Event = field(default_factory=threading.Event)
    last: Sequence[int] = ()
    prompts: list[list[int]] = field(default_factory=list)
    """Tokens that each answer's prompt held."""
    _due: float = 0.0

    def make_cache(self) -> ScriptedCache:
        cache = super().make_cache()
        if self._turn >= len(self.scripts):
            self.scripts = [*self.scripts, self.last]
        self.prompts.append([])
        self._due = 0.0
        return cache

    def __call__(self, tokens: mx.array, cache: ScriptedCache, *, last_only: bool = False) -> mx.array:
        count = int(tokens.shape[1])
        if count > 1:
            time.sleep(self.prefill_seconds)
            self.prompts[-1] += [int(token) for token in tokens.reshape(-1).tolist()]  # type: ignore[union-attr, arg-type]
        elif self._turn == 0 and self._spoken == self.pause_after:
            self.go.wait(20)
        elif self.tokens_per_second is not None:
            now = time.perf_counter()
            # Late tokens are made up for, a little: the speed holds over the whole answer.
            self._due = max(self._due + 1 / self.tokens_per_second, now - 0.1)
            time.sleep(max(0.0, self._due - now))
        logits = super().__call__(tokens, cache, last_only=last_only)
        # Nobody asks what an answer was read as, and a long one's memory is measured: how many they were is enough.
        self.calls[-1] = NOTHING
        return logits


class ScriptedGptOss(GptOss):
    """`GptOss` with the pocket model's tokenizer and a scripted model."""

    def __init__(
        self, model: PacedModel, tokenizer: Tokenizer, *, context_limit: int, prefill_chunk: int, name: str
    ) -> None:
        self.name = name
        self.folder = POCKET_FOLDER
        self.config = ModelConfig.from_file(POCKET_FOLDER / "config.json")
        self.context_limit = context_limit
        self.defaults = {"prefill_chunk": prefill_chunk}
        self.tokenizer = tokenizer
        self.scripted = model
        self.kv_pool = KVPool(0)
        self.engine = Engine(lambda: as_model(model))
        self._hosted = None

    def memory(self) -> MemoryReport:
        nothing = MemoryEstimate(0, 0, 0, 0, 0, 0, 0, on_metal=False)
        return MemoryReport(self.engine.loaded, nothing, 0, 0, 0)

    def close(self) -> None:
        self.engine.close()


class ScriptedLoad:
    """Stands in for `gptoss_mlx.load`. Waits for `allowed` first; raises `error` once if there is one."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *scripts: str,
        context_limit: int = 8192,
        prefill_chunk: int = 1 << 20,
        **paced: Any,
    ) -> None:
        """`prefill_chunk`: by itself, all in one, as the scripted model takes a chunk of one token for an answer's."""
        self.tokenizer = tokenizer
        self.scripts = list(scripts)
        self.context_limit = context_limit
        self.prefill_chunk = prefill_chunk
        self.paced = paced
        self.allowed = threading.Event()
        self.allowed.set()
        self.error: Exception | None = None
        self.go = threading.Event()
        """Lets an answer that waits (`pause_after`) go on."""
        self.loaded: list[ScriptedGptOss] = []

    def __call__(self, model: str, *, context: int | None, progress: Any, checking: Any, **defaults: Any) -> GptOss:
        progress(1, 4)
        while not self.allowed.wait(0.02):
            progress(2, 4)
        error, self.error = self.error, None
        if error is not None:
            raise error
        encode = self.tokenizer.encode_with_special
        paced = PacedModel(
            self.tokenizer.vocab_size,
            [encode(script) for script in self.scripts],
            filler=self.tokenizer.encode("x")[0],
            last=encode(LAST),
            go=self.go,
            **self.paced,
        )
        # Only the first engine fails; what is loaded again is sound.
        self.paced.pop("fail_at", None)
        loaded = ScriptedGptOss(
            paced,
            self.tokenizer,
            context_limit=context or self.context_limit,
            prefill_chunk=self.prefill_chunk,
            name=model,
        )
        self.loaded.append(loaded)
        return loaded
