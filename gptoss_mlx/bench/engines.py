"""The engines that are measured, behind one face: load a folder, then decode greedily from token ids.

Each runs as its own package runs it for a user: ours on its engine thread, mlx-lm's as its `stream_generate` calls it.
An engine's imports are done when it is made, so that they count neither as loading nor as answering.
"""

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from gptoss_mlx.bench.plan import OURS
from gptoss_mlx.errors import UsageError
from gptoss_mlx.hosts.options import HostOptions

TimedToken = tuple[int, float]
"""A token id and the time (`time.perf_counter`, seconds) at which the host knew it."""


class BenchEngine(Protocol):
    """What is measured."""

    version: str
    """Of the package."""

    def load(self, folder: Path) -> None:
        """Makes the model ready for requests: its weights are in memory when this returns, or mapped there."""

    def decode(self, prompt: Sequence[int], count: int) -> list[TimedToken]:
        """Reads `prompt` on an empty cache and decodes `count` tokens, each the most probable one; none ends it."""
        ...

    def dtype(self) -> str:
        """What the dense weights are computed in, such as "bfloat16"."""
        ...

    def peak_mlx_bytes(self) -> int:
        """The most that MLX held, on all machines together."""
        ...

    def shares(self) -> list[dict[str, Any]]:
        """Which machine had what of the model; empty where it was one."""
        ...

    def close(self) -> None:
        """Frees the model."""


def make_engine(name: str, *, hosts: str | None = None, how: HostOptions | None = None) -> BenchEngine:
    """The engine of this name, its packages imported; ours shares the model among `hosts` if there are any."""
    if name == OURS:
        return OurEngine(hosts, how)
    if name == "mlx-lm":
        return MlxLmEngine()
    raise UsageError(f"there is no engine {name!r}; expected {OURS} or mlx-lm")


class OurEngine:
    """gptoss_mlx: the engine thread with `Generation`, below text and channels."""

    def __init__(self, hosts: str | None = None, how: HostOptions | None = None) -> None:
        from gptoss_mlx import __version__
        from gptoss_mlx.config import ModelConfig
        from gptoss_mlx.engine import Engine, Ticket
        from gptoss_mlx.generate import Generation
        from gptoss_mlx.hosts.session import HostedModel, open_hosts
        from gptoss_mlx.kernel_check.choice import load_ready_model
        from gptoss_mlx.model import Model
        from gptoss_mlx.sampling import Sampling

        self.version = __version__
        self._engine: Engine | None = None
        self._hosted: HostedModel | None = None

        def start(folder: Path) -> Engine:
            if hosts is None:
                return Engine(lambda: load_ready_model(folder))
            config = ModelConfig.from_file(folder / "config.json")
            self._hosted = hosted = open_hosts(hosts, folder.name, folder, config, how or HostOptions())
            return Engine(hosted.load)

        def work(model: Model, prompt: Sequence[int], count: int) -> list[TimedToken]:
            generation = Generation(
                model, model.make_cache(), Sampling(temperature=0.0), context_limit=len(prompt) + count
            )
            for _ in generation.prefill(prompt):
                pass
            return [(generation.next_step().token, time.perf_counter()) for _ in range(count)]

        self._start = start
        self._work = work
        self._ticket = Ticket

    def load(self, folder: Path) -> None:
        self._engine = self._start(folder)

    def decode(self, prompt: Sequence[int], count: int) -> list[TimedToken]:
        assert self._engine is not None, "load comes first"
        return self._engine.call(lambda model, ticket: self._work(model, prompt, count))

    def dtype(self) -> str:
        assert self._engine is not None, "load comes first"
        return dtype_name(self._engine.call(lambda model, ticket: model.dtype))

    def peak_mlx_bytes(self) -> int:
        assert self._engine is not None, "load comes first"
        return self._engine.call(lambda model, ticket: model.peak_memory_bytes)

    def shares(self) -> list[dict[str, Any]]:
        return [] if self._hosted is None else [asdict(share) for share in self._hosted.sharing.shares]

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._hosted is not None:
            self._hosted.close()


class MlxLmEngine:
    """mlx-lm: `load_model` and `generate_step` with their defaults, inside `wired_limit`, as `stream_generate` does."""

    def __init__(self) -> None:
        from mlx_lm.generate import generate_step, generation_stream, wired_limit
        from mlx_lm.utils import load_model

        self.version = importlib.metadata.version("mlx-lm")
        self._load_model = load_model
        self._generate_step = generate_step
        self._wired_limit = wired_limit
        self._stream: Any = generation_stream
        self._model: Any = None

    def load(self, folder: Path) -> None:
        self._model, _ = self._load_model(folder)

    def decode(self, prompt: Sequence[int], count: int) -> list[TimedToken]:
        timed: list[TimedToken] = []
        with self._wired_limit(self._model, [self._stream]):
            # Without a sampler it takes the most probable token, and it knows no stop ids.
            for token, _ in self._generate_step(mx.array(list(prompt)), self._model, max_tokens=count):
                timed.append((int(token), time.perf_counter()))
        return timed

    def dtype(self) -> str:
        return dtype_name(self._model.model.norm.weight.dtype)

    def peak_mlx_bytes(self) -> int:
        return mx.get_peak_memory()

    def shares(self) -> list[dict[str, Any]]:
        return []

    def close(self) -> None:
        self._model = None


def dtype_name(dtype: mx.Dtype) -> str:
    """ "float32" for mlx.core.float32."""
    return str(dtype).removeprefix("mlx.core.")
