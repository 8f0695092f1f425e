"""The bundles of arrays that operations take: projections, norms, heads, rotations, places in a sequence.

Owns: what belongs together, with shapes and dtypes. Knows no operation and no implementation, so that the interface
(`ops`) and the kernels beneath it (`metal`) speak of the same things.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Linear:
    """A dense projection: `x @ weight.T + bias`."""

    weight: mx.array
    """`[out, in]`."""
    bias: mx.array | None = None
    """`[out]`, or None."""


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """A dense projection in MLX's affine quantisation: each group of a row's values is `scale * code + offset`."""

    weight: mx.array
    """uint32 `[out, in * bits / 32]`: the unsigned codes of a row one after the other, the first in the lowest bits."""
    scales: mx.array
    """`[out, in / group_size]`, floating."""
    biases: mx.array
    """`[out, in / group_size]`, floating: the groups' offsets, by MLX's name."""
    bits: int
    """Bits of a code: 2, 3, 4, 5, 6 or 8."""
    group_size: int
    """Values that share a scale and an offset: 32, 64 or 128."""
    bias: mx.array | None = None
    """`[out]`, or None."""


Projection: TypeAlias = Linear | QuantizedLinear
"""A dense projection, quantised or not."""


@dataclass(frozen=True, slots=True)
class ExpertLinear:
    """One projection of every expert, in MXFP4."""

    blocks: mx.array
    """uint32 `[experts, out, in / 8]`: eight E2M1 codes a word, the first in the lowest four bits."""
    scales: mx.array
    """uint8 `[experts, out, in / 32]`: E8M0."""
    bias: mx.array
    """`[experts, out]`."""


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMSNorm: `x / sqrt(mean(x^2) + eps) * weight`."""

    weight: mx.array
    """`[hidden]`."""
    eps: float


class Heads(NamedTuple):
    """How attention is divided."""

    query: int
    """Query heads."""
    kv: int
    """Key/value heads; query head h uses key/value head h // (query // kv)."""
    dim: int
    """Width of one head."""

    @property
    def scale(self) -> float:
        """What scores are multiplied by: 1 / sqrt(dim)."""
        return float(self.dim**-0.5)


class Rotation(NamedTuple):
    """The rotary turn of each pair (d, d + dim/2) at each position of the call."""

    cos: mx.array
    """float32 `[seq, dim / 2]`."""
    sin: mx.array
    """float32 `[seq, dim / 2]`."""


@dataclass(frozen=True, slots=True)
class Position:
    """How many positions come before a place in the sequence."""

    array: mx.array
    """int32 without dimensions, for kernels: one kernel serves every position."""
    most: int
    """The number itself; where it is not exact, the most that it can be."""
    exact: bool = True
    """False in a recorded step, which is replayed for one position after the other."""

    @classmethod
    def at(cls, number: int) -> "Position":
        """The place with `number` positions before it."""
        return cls(mx.array(number, dtype=mx.int32), number)

    @property
    def number(self) -> int:
        """The number, for whoever cuts arrays by it."""
        assert self.exact, "a recorded step has no number, only the array"
        return self.most


class GrowingKV(NamedTuple):
    """Keys and values of every position so far, keys first, the most recent kept apart from a body that is only read.

    A recent position p lies in slot p - flushed.
    """

    body: mx.array
    """`[batch, 2 * kv_heads, capacity, dim]`; the positions before `flushed` count."""
    recent: mx.array
    """`[batch, 2 * kv_heads, slots, dim]`."""
    flushed: Position
    """How many positions lie in the body."""


class Place(NamedTuple):
    """Where the tokens of one call stand in their sequence: made once a call, the same for every layer."""

    position: Position
    """Where the first of them is."""
    length: Position
    """Where the next one will be: positions in all once these are read."""
    rotation: Rotation
