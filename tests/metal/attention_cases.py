"""Inputs of the attention kernels, what must come out in float64, and how near."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from gptoss_mlx.operands import Heads
from tests import reference
from tests.metal.arrays import to_float64
from tests.tolerances import relative_errors

REAL = Heads(query=64, kv=8, dim=64)
"""The heads of gpt-oss."""

PAIR = Heads(query=16, kv=2, dim=64)
"""Two of its key/value heads."""

POCKET = Heads(query=4, kv=2, dim=64)
"""The heads of the pocket model: fewer than eight sinks."""

SINGLE = Heads(query=2, kv=2, dim=64)
"""One query head a key/value head."""

ODD = Heads(query=6, kv=2, dim=64)
"""Three query heads a key/value head: some matrix rows stay idle."""

ROUNDING = {mx.float32: 2e-6, mx.bfloat16: 2**-8, mx.float16: 2**-11}
"""Relative L2 error of a head's result: everything inside is float32, so half a unit in the last place."""

SINK_ROUNDING = 1e-5
"""The same in float32 where a sink is far from the scores: exponents of 43 have units of 4e-6 in their last place."""


@dataclass(frozen=True)
class Case:
    """One call's arrays, with NaN wherever nothing may be read from."""

    q: mx.array
    """`[batch, query_heads, seq, 64]`."""
    kv: mx.array
    """`[batch, 2 * kv_heads, capacity, 64]`; from `length` on NaN."""
    length: int
    sinks: mx.array
    heads: Heads

    def expected(self, window: int | None = None) -> np.ndarray:
        """Attention in float64, `[batch, seq, query_heads * 64]`."""
        q, kv, sinks = to_float64(self.q), to_float64(self.kv)[:, :, : self.length], to_float64(self.sinks)
        rows = [
            reference.attention(
                own_q.transpose(1, 0, 2),
                own_kv[: self.heads.kv].transpose(1, 0, 2),
                own_kv[self.heads.kv :].transpose(1, 0, 2),
                sinks,
                window,
            )
            for own_q, own_kv in zip(q, kv, strict=True)
        ]
        return np.stack(rows).reshape(q.shape[0], q.shape[2], -1)


def make_case(
    heads: Heads,
    length: int,
    *,
    seq: int = 1,
    batch: int = 1,
    spare: int = 7,
    dtype: mx.Dtype = mx.float32,
    sinks: np.ndarray | None = None,
    spread: float = 1.0,
) -> Case:
    """Random queries, keys and values; a buffer with room for `spare` positions more; scores of deviation `spread`."""
    rng = np.random.default_rng(length * 31 + seq)
    kv = rng.standard_normal((batch, 2 * heads.kv, length + spare, heads.dim)).astype(np.float32)
    kv[:, :, length:] = np.nan
    q = rng.standard_normal((batch, heads.query, seq, heads.dim)).astype(np.float32) * np.float32(spread)
    if sinks is None:
        sinks = rng.standard_normal(heads.query)
    return Case(
        mx.array(q).astype(dtype),
        mx.array(kv).astype(dtype),
        length,
        mx.array(sinks.astype(np.float32)).astype(dtype),
        heads,
    )


def number(value: int) -> mx.array:
    """`value` as kernels take it: int32 without dimensions."""
    return mx.array(value, dtype=mx.int32)


def bits_of(array: mx.array) -> np.ndarray:
    """The array's bits, so that NaN equals itself."""
    return np.array(array.view(mx.uint8))


def assert_attended(found: mx.array, expected: np.ndarray, tolerance: float | None = None) -> None:
    """Every head's result, 64 values, within the rounding of its dtype."""
    assert found.shape == expected.shape
    values = to_float64(found).reshape(-1, 64)
    assert relative_errors(values, expected.reshape(-1, 64)).max() <= (tolerance or ROUNDING[found.dtype])
