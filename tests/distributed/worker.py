"""One rank: carries out the cases in a file, together with the others, and keeps what it found.

    python -m tests.distributed.worker CASES.json FOLDER

A case is an object: folder and plan, and optionally dtype, wire (a dtype), prompt (tokens), seed, steps, recorded,
kernels, batch, traffic. What a rank finds goes to FOLDER/CASE.RANK.npz; the parent compares it with one process that
has the whole model.
"""

import contextlib
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from gptoss_mlx.distributed.load import load_shard
from gptoss_mlx.distributed.measure import measure_link
from gptoss_mlx.distributed.plan import Plan
from gptoss_mlx.distributed.sharded_model import ShardedModel
from gptoss_mlx.model import Model
from gptoss_mlx.ops import KernelOps, Ops, Recording, use_ops
from tests.model.recorded_ops import RecordedOps
from tests.simulator import simulated

CHUNK = 512
"""Tokens read at once."""

OF_A_TOKEN = {
    "norm_qkv_rope",
    "ring_attention",
    "full_attention",
    "linear_residual",
    "norm_router",
    "expert_gate_up",
    "expert_down",
}
"""Kernels that decoding a token launches on every rank."""

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def prompt_of(case: dict[str, Any], vocab_size: int) -> list[int]:
    """The case's prompt: random tokens."""
    rng = np.random.default_rng(case.get("seed", 0))
    return cast(list[int], rng.integers(0, vocab_size, case.get("prompt", 20)).tolist())


def ops_of(case: dict[str, Any]) -> contextlib.AbstractContextManager[Ops | None]:
    """What the case is computed with: the reference with recorded steps, or our kernels in the simulator."""
    if case.get("kernels"):
        return kernels()
    if "recorded" not in case:
        return contextlib.nullcontext()
    return use_ops(RecordedOps(Recording(*case["recorded"])))


@contextlib.contextmanager
def kernels() -> Iterator[Ops]:
    """Every operation on our kernels where they serve."""
    with simulated(checks=False) as simulator, use_ops(KernelOps()) as ops:
        yield ops
        assert {launch.kernel for launch in simulator.launches} >= OF_A_TOKEN


def run(model: Model, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a model says to a case, whole or in parts."""
    prompt = prompt_of(case, model.config.vocab_size)
    cache = model.make_cache()
    *before, last = [prompt[start : start + CHUNK] for start in range(0, len(prompt), CHUNK)]
    with ops_of(case):
        for chunk in before:
            mx.eval(model.read(mx.array([chunk]), cache))
        found = {"logits": np.array(model(mx.array([last]), cache))}
        tokens = [int(found["logits"][0, -1].argmax())]
        for _ in range(case.get("steps", 32)):
            tokens.append(cast(int, model.most_probable(mx.array([tokens[-1:]]), cache).item()))
        found["tokens"] = np.array(tokens)
        found["last_logits"] = np.array(model(mx.array([tokens[-1:]]), cache, last_only=True))
        if case.get("batch"):
            found |= _run_batch(model, prompt)
    found["chunk"] = np.array(model.fitting_chunk(cache, CHUNK))
    found["apart"] = np.array(model.runs_apart)
    found["cache_bytes"] = np.array(cache.nbytes)
    found["cache_shape"] = np.array([array.shape[1:] for array in cache.arrays[:1]])
    return found


def _run_batch(model: Model, prompt: list[int]) -> dict[str, np.ndarray]:
    """One token each of two sequences of different lengths, decoded together."""
    caches = [model.make_cache() for _ in range(2)]
    for cache, length in zip(caches, (len(prompt) // 3, len(prompt) // 2), strict=True):
        mx.eval(model.read(mx.array([prompt[:length]]), cache))
    tokens = mx.array(prompt[-2:])
    logits = np.array(model.read_together(tokens, caches))
    best = np.array(model.read_together(tokens, caches, most_probable=True))
    return {"batch_logits": logits, "batch_tokens": best}


def count_traffic(model: ShardedModel, found: dict[str, np.ndarray]) -> None:
    """Bytes of one token: what the wire counted, and what TCP did."""
    cache = model.make_cache()
    token = model.most_probable(mx.array([[1, 2, 3]]), cache)
    for _ in range(2):
        # Not the first: a step may be recorded by it.
        token = model.most_probable(token, cache)
    mx.eval(token)
    received = _settled_bytes(model)
    sent, hops = model.wire.sent_bytes, model.wire.hops
    for _ in range(10):
        token = model.most_probable(token, cache)
    mx.eval(token)
    found["sent_bytes"] = np.array((model.wire.sent_bytes - sent) / 10)
    found["hops"] = np.array((model.wire.hops - hops) / 10)
    found["received_bytes"] = np.array((_settled_bytes(model) - received) / 10)


def _settled_bytes(model: ShardedModel) -> int:
    """`received_bytes` while no rank sends but a few bytes more or less: those by which they wait for each other."""
    model.wire.gather_ints([0])
    time.sleep(0.1)
    received = received_bytes()
    model.wire.gather_ints([0])
    return received


def received_bytes() -> int:
    """Bytes that all TCP connections of this process have received; 0 where the system does not say (not Linux)."""
    total = 0
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else []:
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                # tcpi_bytes_received: after 8 bytes, 24 numbers of four, and three of eight.
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("<Q", info, 128)[0]
    return total


def file_bytes() -> int:
    """Bytes that this process has read from files and pipes so far; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def main() -> None:
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    group = mx.distributed.init(strict=True, backend="ring")
    rank = group.rank()
    outcomes = []
    for name, case in cases.items():
        own = case["folder"] if isinstance(case["folder"], str) else case["folder"][rank]
        before = file_bytes()
        try:
            plan = Plan.from_json(case["plan"])
            dtype, wire = (DTYPES.get(case.get(key, "")) for key in ("dtype", "wire"))
            model = load_shard(own, plan, rank, group, dtype=dtype, wire_dtype=wire)
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
            continue
        read = file_bytes() - before
        found = run(model, case)
        if case.get("traffic"):
            count_traffic(model, found)
        np.savez(
            folder / f"{name}.{rank}.npz",
            held_bytes=np.array(model.nbytes),
            read_bytes=np.array(read),
            **found,  # pyright: ignore[reportArgumentType]
        )
        outcomes.append("done")
        del model
    link = measure_link(group)
    outcomes.append([link.latency_s, link.bytes_per_s])
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
