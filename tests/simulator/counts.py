"""What a launch did: threads, bytes, operations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import mlx.core as mx

Size: TypeAlias = tuple[int, int, int]
"""Threads in x, y and z."""


def _counted(number: int | None) -> int:
    if number is None:
        raise ValueError("transactions are counted with `simulated(counting=True)` only")
    return number


@dataclass(frozen=True, slots=True)
class BufferCounts:
    """What a launch loaded from a buffer and stored to it. Loads are those that clang left, not Apple's compiler."""

    loaded_bytes: int
    stored_bytes: int
    unique_loaded_bytes: int
    """Bytes that were loaded at all, each counted once."""
    unique_stored_bytes: int
    counted_transactions: int | None = field(repr=False)

    @property
    def transactions(self) -> int:
        """128-byte lines that simdgroups' loads and stores touched, each instruction for itself."""
        return _counted(self.counted_transactions)


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel."""

    kernel: str
    """Its name."""
    template: Mapping[str, int | bool | mx.Dtype]
    """Its template values by name."""
    grid: Size
    """Threads, not threadgroups."""
    threadgroup: Size
    """Threads of a threadgroup, never more than the grid has."""
    buffers: Mapping[str, BufferCounts]
    """By argument's name. Empty in a launch without checks, which sees no accesses."""
    threads: int
    threadgroups: int
    threadgroup_bytes: int
    """Threadgroup memory of one threadgroup."""
    threadgroup_loaded_bytes: int
    """Bytes loaded from threadgroup memory; 0 in a launch without checks."""
    threadgroup_stored_bytes: int
    barriers: int
    """Passages of a `threadgroup_barrier` by a threadgroup."""
    simdgroup_barriers: int
    """Passages of a `simdgroup_barrier` by a simdgroup."""
    simd_ops: int
    """Reductions, shuffles and votes, each of a whole simdgroup."""
    matrix_ops: int
    """Products of 8 x 8 matrices."""
    divergent_ops: int
    """Simdgroup operations that some lanes did not come to."""
    barrier_places: frozenset[tuple[str, int]]
    """File and line of every barrier of either kind that was passed."""
    seconds: float
    """Time that the simulator took, without compiling."""

    @property
    def transactions(self) -> int:
        """Those of all buffers."""
        return sum(counts.transactions for counts in self.buffers.values())
