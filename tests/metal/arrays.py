"""Random arrays for tests of kernels, and what they stand for in float64."""

import mlx.core as mx
import numpy as np


def random_array(rng: np.random.Generator, *shape: int, dtype: mx.Dtype = mx.bfloat16, scale: float = 1.0) -> mx.array:
    """Normal numbers."""
    return mx.array((rng.standard_normal(shape) * scale).astype(np.float32)).astype(dtype)


def to_float64(array: mx.array) -> np.ndarray:
    """The same numbers in numpy."""
    return np.array(array.astype(mx.float32), dtype=np.float64)
