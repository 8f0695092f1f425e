"""What was read of a conversation, from an engine's pool of KV caches to a file and back.

Owns: these two ways. Does not own: a file's content (`kv_file`, `kv_record`), the folder of files (`kv_store`).
"""

import logging
import time
from pathlib import Path
from typing import Final

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine import Engine, Ticket
from gptoss_mlx.kv_file import read_kv_file, write_kv_file
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.kv_record import KVRecord, UnusableKV, record, restore
from gptoss_mlx.kv_store import KVSaved
from gptoss_mlx.model import Model

LOG: Final = logging.getLogger("gptoss_mlx.kv")
"""Says why what was kept of a conversation is not used."""

END_OF_PROMPT: Final = -1
"""Stands for the token that a prompt has behind what a cache may hold of it."""


def save_kv(
    engine: Engine, pool: KVPool, prompt: list[int], path: Path, identity: str, bits: int | None = None
) -> KVSaved:
    """Writes what `pool` holds of `prompt` to `path`, for the model of that identity. Raises as `GptOss.save_kv`."""
    begin = time.perf_counter()

    def work(model: Model, ticket: Ticket) -> tuple[KVRecord | None, float]:
        start = time.perf_counter()
        found = pool.best(prompt)
        kept = None if found is None else record(*found, identity, bits)
        return kept, time.perf_counter() - start

    kept, engine_seconds = engine.call(work)
    size = 0 if kept is None else write_kv_file(path, kept)
    tokens = 0 if kept is None else kept.tokens
    return KVSaved(path, tokens, size, time.perf_counter() - begin, engine_seconds)


def load_kv(engine: Engine, pool: KVPool, path: Path, identity: str, config: ModelConfig) -> int:
    """Takes what `save_kv` wrote into `pool`: how many tokens of its conversation need not be read again.

    0 where it is of no use, and `LOG` says why.
    """
    try:
        kept = read_kv_file(path)
        if kept.nbytes > pool.limit_bytes:
            raise UnusableKV("it is larger than kv_limit_bytes")

        def work(model: Model, ticket: Ticket) -> None:
            held = restore(kept, identity, config, model.dtype)
            known = pool.best([*held.tokens, END_OF_PROMPT])
            if known is None or known[1] < kept.tokens:
                pool.add(held)

        engine.call(work)
    except UnusableKV as reason:
        LOG.info("%s is not used: %s", path, reason)
        return 0
    return kept.tokens
