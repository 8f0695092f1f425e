"""Random MXFP4 experts, and their values in float64."""

import mlx.core as mx
import numpy as np

from gptoss_mlx.operands import ExpertLinear
from tests.metal.arrays import to_float64
from tests.reference import mxfp4_values

DTYPES = [mx.float32, mx.bfloat16, mx.float16]
"""What activations may be."""

LINES_OF_MLX = 32
"""128-byte lines that a row of 2880 costs MLX's fp_gather_qmv for codes (20.25) and scales (over 12) alone."""


def random_experts(
    rng: np.random.Generator, experts: int, out: int, width: int, dtype: mx.Dtype = mx.bfloat16
) -> ExpertLinear:
    """Every code as likely as another, scales of 2^-9 to 2^-4, biases around 1 in `dtype`."""
    blocks = rng.integers(0, 2**32, (experts, out, width // 8), dtype=np.uint32)
    scales = rng.integers(118, 124, (experts, out, width // 32), dtype=np.uint8)
    bias = rng.standard_normal((experts, out), dtype=np.float32)
    return ExpertLinear(mx.array(blocks), mx.array(scales), mx.array(bias).astype(dtype))


def biased_experts(bias: np.ndarray) -> ExpertLinear:
    """Experts of width 32 whose weights are all zero, with `bias` `[experts, out]` in float32."""
    return ExpertLinear(
        blocks=mx.zeros((*bias.shape, 4), dtype=mx.uint32),
        scales=mx.full((*bias.shape, 1), 127, dtype=mx.uint8),
        bias=mx.array(bias, dtype=mx.float32),
    )


def apply_expert(linear: ExpertLinear, expert: int, x: np.ndarray) -> np.ndarray:
    """float64 `[out]`: `x` `[width]` through one expert, bias included."""
    scales = np.array(linear.scales[expert])
    codes = np.array(linear.blocks[expert]).view(np.uint8).reshape(*scales.shape, 16)
    return mxfp4_values(codes, scales) @ x + to_float64(linear.bias[expert])
