"""Rotary positions with YaRN, in float64 on the host.

Owns: the frequencies and the cos/sin rows of any range of positions. Does not own: turning queries and keys by them
(`ops`). Angles are computed in float64 because position times frequency in float32 is off by 1e-2 radians at 131,072.
"""

import math
from functools import lru_cache
from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.config import YarnParameters
from gptoss_mlx.ops import Rotation

POSITIONS_AT_ONCE: Final = 256
"""Positions whose turns are computed together while decoding."""


class YarnRope:
    """Rotary positions of one model."""

    def __init__(self, head_dim: int, parameters: YarnParameters) -> None:
        self.inverse_frequencies = inverse_frequencies(head_dim, parameters)
        """Radians a position, float64 `[head_dim / 2]`."""
        self.attention_factor = parameters.attention_factor
        """What cos and sin are multiplied by."""
        self._turns = lru_cache(maxsize=2)(self._compute_turns)

    def rotation(self, offset: int, length: int) -> Rotation:
        """The turn, YaRN's attention factor included, at positions `offset` to `offset + length - 1`."""
        if length == 1:
            # Decoding asks for one position after the other: their turns are computed together.
            first = offset - offset % POSITIONS_AT_ONCE
            cos, sin = self._turns(first, POSITIONS_AT_ONCE)
            here = slice(offset - first, offset - first + 1)
            return Rotation(mx.array(cos[here]), mx.array(sin[here]))
        return Rotation(*map(mx.array, self._turns(offset, length)))

    def _compute_turns(self, offset: int, length: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """cos and sin, `[length, head_dim / 2]`."""
        angles = np.arange(offset, offset + length, dtype=np.float64)[:, None] * self.inverse_frequencies
        cos = np.cos(angles) * self.attention_factor
        sin = np.sin(angles) * self.attention_factor
        return cos.astype(np.float32), sin.astype(np.float32)


def inverse_frequencies(head_dim: int, parameters: YarnParameters) -> npt.NDArray[np.float64]:
    """Radians a position of each pair, float64 `[head_dim / 2]`.

    A pair that turns more than `beta_fast` times over the original context keeps its frequency, one that turns less
    than `beta_slow` times has it divided by `factor`, and those between are blended linearly in the pair's index.
    Source: Peng et al., YaRN, arXiv:2309.00071, section 3.2; gpt-oss leaves the range unrounded (`truncate` false).
    """
    half = head_dim // 2
    plain: npt.NDArray[np.float64] = parameters.theta ** (-np.arange(half, dtype=np.float64) * 2 / head_dim)

    def pair_that_turns(rotations: float) -> float:
        original = parameters.original_max_position_embeddings
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(parameters.theta))

    low, high = pair_that_turns(parameters.beta_fast), pair_that_turns(parameters.beta_slow)
    if parameters.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        # The blend divides by the width of the range; this much keeps it a step.
        high += 0.001
    stretched = np.clip((np.arange(half, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    return plain * (1 - stretched) + plain / parameters.factor * stretched
