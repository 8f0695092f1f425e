"""What the launchers of attention kernels share: which arrays they take, and how keys are split.

Does not own: a kernel, or a grid.
"""

from typing import Final

import mlx.core as mx

from gptoss_mlx.operands import Heads

HEAD_DIM: Final = 64
"""The width of a head that the kernels are written for."""

MOST_GROUP_HEADS: Final = 8
"""Query heads that may share a key/value head: the rows of one matrix."""

STEP_KEYS: Final = 16
"""Keys that a simdgroup takes in one step; `attention.h` has the same constant."""

PARTIAL_FLOATS: Final = HEAD_DIM + 4
"""What a split leaves for each query head, padding included; `attention.h` has the same constant."""

MOST_SPLITS: Final = 32
"""Splits of the keys that `merge_attention` can merge: a lane weighs one."""

SPLIT_FROM_KEYS: Final = 1024
"""From this many keys on, one threadgroup a key/value head leaves most of a GPU idle, and a second dispatch pays."""

LEAST_SPLIT_KEYS: Final = 256
"""Keys that a split is worth: what it writes and is read again is then 6 % of the keys and values it reads."""

MOST_SPLIT_THREADGROUPS: Final = 256
"""Threadgroups of 256 threads that the largest GPU (80 cores) holds about three of each; more would only write more."""

_DTYPES: Final = (mx.bfloat16, mx.float16, mx.float32)


def heads_fit(heads: Heads, dtype: mx.Dtype) -> bool:
    """Whether the attention kernels take queries, keys and values of these heads in `dtype`."""
    return (
        dtype in _DTYPES
        and heads.dim == HEAD_DIM
        and heads.query % heads.kv == 0
        and heads.query // heads.kv <= MOST_GROUP_HEADS
    )


def arrays_fit(q: mx.array, kv: mx.array, heads: Heads) -> bool:
    """Whether the attention kernels take queries `q` with keys and values `kv`."""
    return (
        heads_fit(heads, q.dtype)
        and kv.dtype == q.dtype
        and q.shape == (kv.shape[0], heads.query, q.shape[2], HEAD_DIM)
        and kv.shape == (q.shape[0], 2 * heads.kv, kv.shape[2], HEAD_DIM)
    )


def splits_for(most_keys: int, threadgroups: int) -> int:
    """How many ways the keys of each of `threadgroups` threadgroups are split, when there are up to `most_keys`."""
    if most_keys < SPLIT_FROM_KEYS:
        return 1
    return max(1, min(most_keys // LEAST_SPLIT_KEYS, MOST_SPLIT_THREADGROUPS // threadgroups, MOST_SPLITS))
