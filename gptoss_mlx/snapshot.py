"""A place that a KV cache can go back to, layer by layer.

Owns: what is noted of such a place. Does not own: making one and going back (`cache`), which are kept (`kv_pool`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx


class Sized(Protocol):
    """Something that takes memory: an array, here or elsewhere."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        ...


@dataclass(frozen=True, slots=True)
class LayerSnapshot:
    """What one layer needs to go back to where it was."""

    offset: int
    """Positions read at the time."""
    ring: mx.array | None = None
    """A sliding layer's ring at the time; None for a full layer."""
    oldest: int = 0
    """The first position that the ring held."""
    overwrites: int = 0
    """How often a full layer had written over earlier positions by then."""


class Snapshot:
    """A place that a `KVCache` can go back to."""

    def __init__(self, owner: object, layers: tuple[LayerSnapshot, ...]) -> None:
        self._owner = owner
        self.layers = layers
        """One entry per decoder layer."""

    @property
    def offset(self) -> int:
        """Positions read at the time."""
        return self.layers[0].offset

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps alive once the cache has moved on: the sliding layers' rings."""
        return sum(ring.nbytes for ring in self.rings)

    @property
    def rings(self) -> list[mx.array]:
        """The sliding layers' rings at the time."""
        return [layer.ring for layer in self.layers if layer.ring is not None]

    @property
    def parts(self) -> Sequence[Sized]:
        """What it holds, part by part; a part that places share is the same object in each."""
        return self.rings

    def belongs_to(self, owner: object) -> bool:
        """Whether `owner` made it."""
        return self._owner is owner
