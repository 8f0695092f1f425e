"""Projections and tokens for the tests of the dense kernels, and what they stand for in float64.

Quantised weights are drawn as words, so that every code occurs; they are read here bit by bit.
"""

import mlx.core as mx
import numpy as np

from gptoss_mlx.operands import Linear, Norm, Projection, QuantizedLinear
from tests.metal.arrays import random_array, to_float64
from tests.simulator import Launch

FORMATS = {
    "bfloat16": (16, 0),
    "8 bits": (8, 64),
    "6 bits": (6, 64),
    "4 bits": (4, 64),
}
"""Bits and group size of the weights that models come with."""

EPS = 1e-5
"""gpt-oss's."""

NARROW = {
    "8 bits by 32": (8, 32),
    "6 bits by 32": (6, 32),
    "4 bits by 32": (4, 32),
}
"""The same with the smallest groups."""

WIDE = {
    "8 bits by 128": (8, 128),
    "6 bits by 128": (6, 128),
    "4 bits by 128": (4, 128),
}
"""The same with the largest groups, which do not divide a width of 2880."""

LOADED_ONCE = 1.05
"""Bytes that a kernel may load of an array at most, by the array's own; the rows of a last tile may be loaded twice."""

LINE = 128
"""Bytes of a transaction."""


def random_norm(rng: np.random.Generator, width: int, dtype: mx.Dtype = mx.bfloat16) -> Norm:
    """Weights around 1."""
    return Norm((random_array(rng, width, dtype=mx.float32) * 0.25 + 1).astype(dtype), EPS)


def random_projection(
    rng: np.random.Generator,
    rows: int,
    width: int,
    stored: tuple[int, int] = (16, 0),
    dtype: mx.Dtype = mx.bfloat16,
    *,
    biased: bool = True,
) -> Projection:
    """Outputs of about 1 for inputs of about 1; `stored` is bits and group size, group size 0 dense, in `dtype`."""
    bits, group = stored
    bias = random_array(rng, rows, dtype=dtype) if biased else None
    if group == 0:
        return Linear(random_array(rng, rows, width, dtype=dtype, scale=width**-0.5), bias)
    words = mx.array(rng.integers(0, 1 << 32, (rows, width * bits // 32), dtype=np.uint32))
    spread = 2.0**bits * width**0.5
    scales = mx.array(rng.uniform(1 / spread, 4 / spread, (rows, width // group)).astype(np.float32))
    offsets = mx.array(rng.uniform(-3, 1, (rows, width // group)).astype(np.float32)) * (width**-0.5)
    return QuantizedLinear(words, scales.astype(dtype), offsets.astype(dtype), bits, group, bias)


def assert_weights_are_loaded_once(launch: Launch, projection: Projection, most_lines: float) -> None:
    """Codes, scales and offsets, each once and whole, in at most `most_lines` transactions for each line's bytes."""
    arrays = {"weight": projection.weight}
    if isinstance(projection, QuantizedLinear):
        arrays |= {"scales": projection.scales, "offsets": projection.biases}
    for name, array in arrays.items():
        counts = launch.buffers[name]
        assert counts.unique_loaded_bytes == array.nbytes
        assert counts.loaded_bytes <= LOADED_ONCE * array.nbytes
    lines = sum(launch.buffers[name].transactions for name in arrays)
    assert lines * LINE <= most_lines * sum(array.nbytes for array in arrays.values())


def rounded(values: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """The nearest numbers of `dtype`, in float64."""
    return to_float64(mx.array(values.astype(np.float32)).astype(dtype))


def exact_weights(projection: Projection) -> np.ndarray:
    """Weights `[rows, width]`, float64."""
    if not isinstance(projection, QuantizedLinear):
        return to_float64(projection.weight)
    rows = projection.weight.shape[0]
    stream = np.unpackbits(np.array(projection.weight).astype("<u4").view(np.uint8), bitorder="little")
    stream = stream.reshape(rows, -1, projection.bits)
    codes = sum((stream[:, :, bit] << bit for bit in range(projection.bits)), start=np.uint8(0))
    group = projection.group_size
    return codes * to_float64(projection.scales).repeat(group, axis=1) + to_float64(projection.biases).repeat(
        group, axis=1
    )


def exact_product(x: np.ndarray, projection: Projection) -> np.ndarray:
    """`x` `[width]` through the projection, `[rows]`, float64."""
    product = exact_weights(projection) @ x
    return product if projection.bias is None else product + to_float64(projection.bias)


def exact_norm(x: mx.array, norm: Norm) -> np.ndarray:
    """The normed token `[width]`, rounded to the dtype of `x`, as it enters the product."""
    values = to_float64(x).reshape(-1)
    return rounded(values / np.sqrt((values * values).mean() + norm.eps) * to_float64(norm.weight), x.dtype)
