"""What a rank does when it is told: look at its machine and model, join the ring, load its part, compute.

KV caches and places are kept here under numbers that the front end gives, the same on all ranks. A command is answered
by its result, by an error, or, when nobody waits for it, by nothing. Belongs to the thread that computes.
"""

import faulthandler
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from gptoss_mlx.cache import KVCache
from gptoss_mlx.device import this_device
from gptoss_mlx.distributed.load import load_shard
from gptoss_mlx.distributed.measure import measure_link
from gptoss_mlx.distributed.plan import Plan
from gptoss_mlx.distributed.sharded_model import ShardedModel
from gptoss_mlx.errors import GptOssError, HostsError
from gptoss_mlx.hosts.free_memory import free_memory_bytes
from gptoss_mlx.hosts.model_there import look_for, verify_once
from gptoss_mlx.memory_limits import as_shortage, has_room, is_shortage, set_limits
from gptoss_mlx.models import HeldModel
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES
from gptoss_mlx.ops.selection import choose_kernels
from gptoss_mlx.settings import KernelSetting
from gptoss_mlx.snapshot import Snapshot

JOIN_SECONDS: Final = 8.0
"""How long the ring may take to come about; all have been found to reach each other by then."""

REPORT_SECONDS: Final = 0.1
"""Between two reports of progress."""

Say = Callable[..., None]
"""Writes a message, and an array with it."""

Result = dict[str, Any] | tuple[dict[str, Any], mx.array] | None


class Commands:
    """The state of a rank, and what changes it."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._id = 0
        self._reported = 0.0
        self._rank = 0
        self._listener: socket.socket | None = None
        self._group: mx.distributed.Group | None = None
        self._held: HeldModel | None = None
        self._model: ShardedModel | None = None
        self._caches: dict[int, KVCache] = {}
        self._places: dict[int, Snapshot] = {}
        self._commands: Mapping[str, Callable[..., Result]] = {
            "describe": self._describe,
            "find": self._find,
            "verify": self._verify,
            "listen": self._listen,
            "reach": self._reach,
            "let_port_go": self._let_port_go,
            "join": self._join,
            "measure": self._measure,
            "load": self._load,
            "make_cache": self._make_cache,
            "read": self._read,
            "read_together": self._read_together,
            "fitting_chunk": self._fitting_chunk,
            "has_room": self._has_room,
            "snapshot": self._snapshot,
            "restore": self._restore,
            "trim": self._trim,
            "fork": self._fork,
            "keep_at": self._keep_at,
            "take_kept": self._take_kept,
            "finish": self._finish,
            "begin_peak": self._begin_peak,
            "peak": self._peak,
        }

    def run(self, message: dict[str, Any]) -> None:
        """Does what `message` says and answers."""
        self._id = message.pop("id")
        quiet = message.pop("quiet", False)
        for number in message.pop("free", ()):
            self._caches.pop(number, None)
            self._places.pop(number, None)
        try:
            result = self._commands[message.pop("op")](**message)
        except Exception as error:
            self._say({"id": self._id, "error": _as_values(error)})
            return
        if quiet:
            return
        values, array = result if isinstance(result, tuple) else (result or {}, None)
        self._say({"id": self._id, "result": values}, None if array is None else np.array(array))

    # The machine and what lies on it

    def _describe(self) -> Result:
        return {"device": asdict(this_device()), "free_bytes": free_memory_bytes(), "time": time.time()}

    def _find(self, names: list[str]) -> Result:
        return asdict(look_for(names))

    def _verify(self, folder: str) -> Result:
        verify_once(Path(folder), progress=self._progress)
        return None

    # The ring

    def _listen(self, address: str, port: int) -> Result:
        """Takes the port that the ring will use, so that `reach` of others finds it."""
        self._let_port_go()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((address, port))
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            self._listener = None
            return {"why": error.strerror or str(error), "errno": error.errno}
        return {"why": ""}

    def _reach(self, address: str, port: int, patience: float) -> Result:
        """Connects to where another rank listens."""
        begin = time.perf_counter()
        try:
            socket.create_connection((address, port), timeout=patience).close()
        except OSError as error:
            return {"why": error.strerror or str(error)}
        return {"why": "", "seconds": time.perf_counter() - begin}

    def _let_port_go(self) -> Result:
        """All ranks do so before the first joins: it would connect to the wrong listener."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        return None

    def _join(self, rank: int, ring: list[list[str]]) -> Result:
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="gptoss-ring-") as file:
            file.write(json.dumps(ring))
            file.flush()
            os.environ["MLX_HOSTFILE"], os.environ["MLX_RANK"] = file.name, str(rank)
            # Until all are there no other thread can run, nor see that the front end has gone.
            faulthandler.dump_traceback_later(JOIN_SECONDS, exit=True)
            try:
                self._group = mx.distributed.init(strict=True, backend="ring")
            except (RuntimeError, ValueError) as error:
                raise HostsError(f"MLX's ring did not come about: {error}") from error
        self._rank = rank
        mx.eval(mx.distributed.all_sum(mx.ones(1), group=self._group))
        return None

    def _measure(self) -> Result:
        return asdict(measure_link(self._joined))

    # The model

    def _load(self, folder: str, plan: str, kernels: str) -> Result:
        set_limits(this_device())
        # Nobody removes it meanwhile.
        self._held = HeldModel(Path(folder))
        if kernels == KernelSetting.ON:
            choose_kernels(frozenset(KERNEL_CLASSES))
        model = load_shard(Path(folder), Plan.from_json(plan), self._rank, self._joined, progress=self._progress)
        self._model = model
        return {"dtype": str(model.dtype).removeprefix("mlx.core."), "active_bytes": mx.get_active_memory()}

    def _read(self, cache: int, tokens: list[list[int]], wanted: str) -> Result:
        model, kept, ids = self._loaded, self._caches[cache], mx.array(tokens, dtype=mx.int32)
        if wanted == "nothing":
            mx.eval(model.read(ids, kept))
            return {"offset": kept.offset}
        if wanted == "last_token":
            result = model.most_probable(ids, kept)
        else:
            result = model(ids, kept, last_only=wanted == "last_logits").astype(mx.float32)
        mx.eval(result)
        return self._given({"offset": kept.offset}, result)

    def _read_together(self, caches: list[int], tokens: list[int], most_probable: bool) -> Result:
        kept = [self._caches[cache] for cache in caches]
        result = self._loaded.read_together(mx.array(tokens, dtype=mx.int32), kept, most_probable=most_probable)
        mx.eval(result)
        return self._given({}, result)

    def _given(self, values: dict[str, Any], result: mx.array) -> Result:
        """What came of computing; only the first rank sends it."""
        return (values, result) if self._rank == 0 else values

    def _fitting_chunk(self, cache: int, wanted: int, logits: bool) -> Result:
        return {"tokens": self._loaded.fitting_chunk(self._caches[cache], wanted, logits=logits)}

    def _has_room(self, more_kv_bytes: int, chunk: int, context: int) -> Result:
        whole, own = self._loaded.config, self._loaded.share_config
        more_here = more_kv_bytes * own.kv_bytes_per_token(1) // max(1, whole.kv_bytes_per_token(1))
        return {"room": has_room(own, self._loaded.dtype.size, more_here, chunk, context)}

    def _begin_peak(self) -> Result:
        self._loaded.begin_peak()
        return None

    def _peak(self) -> Result:
        return {"bytes": self._loaded.peak_memory_bytes}

    # KV caches and their places

    def _make_cache(self, to: int) -> Result:
        self._caches[to] = self._loaded.make_cache()
        return None

    def _snapshot(self, cache: int, to: int) -> Result:
        self._places[to] = self._caches[cache].snapshot()
        return None

    def _restore(self, cache: int, place: int) -> Result:
        self._caches[cache].restore(self._places[place])
        return None

    def _trim(self, cache: int, tokens: int) -> Result:
        self._caches[cache].trim(tokens)
        return None

    def _fork(self, cache: int, places: list[int], to: int, places_to: list[int]) -> Result:
        fork, forked = self._caches[cache].fork([self._places[place] for place in places])
        self._caches[to] = fork
        self._places.update(zip(places_to, forked, strict=True))
        return None

    def _keep_at(self, cache: int, positions: list[int]) -> Result:
        self._caches[cache].keep_at(positions)
        return None

    def _take_kept(self, cache: int, to: list[int]) -> Result:
        self._places.update(zip(to, self._caches[cache].take_kept(), strict=True))
        return None

    def _finish(self, cache: int, places: list[int]) -> Result:
        self._caches[cache].finish([self._places[place] for place in places])
        return None

    @property
    def _joined(self) -> mx.distributed.Group:
        if self._group is None:
            raise HostsError("this rank has not joined the others yet")
        return self._group

    @property
    def _loaded(self) -> ShardedModel:
        if self._model is None:
            raise HostsError("this rank has no model yet")
        return self._model

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS or done >= total:
            self._reported = now
            self._say({"id": self._id, "progress": [done, total]})


def _as_values(error: Exception) -> dict[str, str]:
    """The error, to be raised again at the front end."""
    if is_shortage(error):
        error = as_shortage(error, "for this request")
    if isinstance(error, GptOssError):
        return {"type": type(error).__name__, "message": str(error)}
    return {"type": "EngineError", "message": f"{type(error).__name__}: {error}"}
