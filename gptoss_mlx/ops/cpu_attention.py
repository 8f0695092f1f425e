"""Attention on a processor, in numpy: MLX has no fused attention there, and its matrix products are slow.

Works off one key/value head at a time, and so many queries that the scores stay small.
"""

from typing import Final

import mlx.core as mx
import numpy as np

from gptoss_mlx.operands import Heads
from gptoss_mlx.ops.expand import Float32, array_view, as_float32, float32_view
from gptoss_mlx.ops.threads import share

SCORES_PER_TILE: Final = 1 << 22
"""Attention scores that each thread holds at once: 16 MiB of float32."""


def attend(
    q: mx.array, keys: mx.array, values: mx.array, sinks: mx.array, heads: Heads, mask: str | mx.array | None
) -> mx.array:
    """`[batch, query_heads, rows, dim]` of `q` of that shape and `keys` and `values` `[batch, kv_heads, keys, dim]`.

    `mask` is "causal" (the queries are the last of the keys), bool `[rows, keys]`, or None for all. The sinks
    `[query_heads]` join the softmax's denominator only.
    """
    batch, _, rows, dim = q.shape
    length, group = keys.shape[2], heads.query // heads.kv
    queries: Float32 = np.multiply(float32_view(q), np.float32(heads.scale))
    logits = float32_view(sinks).reshape(heads.kv, group, 1)
    stored, dtype = (array_view(keys), array_view(values)), keys.dtype
    banned = None if mask is None or isinstance(mask, str) else ~np.array(mask)
    out = np.empty((batch, heads.query, rows, dim), dtype=np.float32)
    tile = max(1, SCORES_PER_TILE // (group * length))

    def work(first: int, last: int) -> None:
        for row, head in (divmod(number, heads.kv) for number in range(first, last)):
            mine = slice(head * group, (head + 1) * group)
            # Of one head at a time, since what is not float32 has to be copied.
            key, value = (as_float32(part[row, head], dtype) for part in stored)
            for start in range(0, rows, tile):
                stop = min(start + tile, rows)
                seen = length - rows + stop if mask == "causal" else length
                flat: Float32 = queries[row, mine, start:stop].reshape(-1, dim) @ key[:seen].T
                scores = flat.reshape(group, stop - start, seen)
                if mask == "causal":
                    scores[:, :, seen - (stop - start) :] += _future(stop - start)
                elif banned is not None:
                    np.copyto(scores, -np.inf, where=banned[start:stop])
                weights, total = _softmax(scores, logits[head])
                attended = (weights.reshape(-1, seen) @ value[:seen]).reshape(group, stop - start, dim)
                np.divide(attended, total[..., None], out=out[row, mine, start:stop])

    share(batch * heads.kv, work)
    return mx.array(out).astype(q.dtype)


def _softmax(scores: Float32, sinks: Float32) -> tuple[Float32, Float32]:
    """exp(scores - top), in the memory of `scores` `[group, rows, keys]`, and its sum with the sink's, `[group, rows]`.

    `sinks` is `[group, 1]`; top is the largest of a row's scores and its sink.
    """
    top = np.maximum(scores.max(axis=-1), sinks)
    np.subtract(scores, top[..., None], out=scores)
    np.exp(scores, out=scores)
    return scores, scores.sum(axis=-1) + np.exp(sinks - top)


def _future(rows: int) -> Float32:
    """What bars each of `rows` queries from the keys after its own: 0 or -infinity, `[rows, rows]`."""
    return np.triu(np.full((rows, rows), -np.inf, dtype=np.float32), k=1)
