"""Rows of a weight as float32, in numpy, from every way in which a weight is held.

A `RowSource` writes any rows of one matrix into an array that the caller owns, so that a large matrix never stands in
memory as float32 at once. All of them hold views of MLX arrays without copying; each view keeps its array alive.

Owns: the way from stored bytes to float32. Does not own: what is multiplied with the rows (`blas`).
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.mxfp4 import E2M1, GROUP, NAN_SCALE
from gptoss_mlx.operands import ExpertLinear, QuantizedLinear

Float32: TypeAlias = npt.NDArray[np.float32]

RowSource: TypeAlias = Callable[[int, int, Float32], None]
"""`source(start, stop, out)` writes rows `start` to `stop` into `out`, contiguous float32 `[stop - start, in]`."""

STEP_VALUES: Final = 1 << 18
"""Values expanded at once: 1 MiB of float32, which stays in a core's cache from one pass over it to the next."""

_WIDE: Final = np.dtype(f"V{4 * GROUP}")
"""One MXFP4 group of float32 as one item, which `take` copies in one go."""


def array_view(array: mx.array) -> npt.NDArray[Any]:
    """The values of `array`, evaluated, without a copy: bfloat16 as uint16 bits, all else in its own dtype.

    Only for reading, and only while nothing else writes: MLX takes an array's memory over for a result when nobody
    holds the array any more, which holding this view prevents.
    """
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array, copy=False)


def float32_view(array: mx.array) -> Float32:
    """The values of `array` as float32; without a copy if they are float32."""
    view: Float32 = np.array(array.astype(mx.float32), copy=False)
    return view


def as_float32(stored: npt.NDArray[Any], dtype: mx.Dtype) -> Float32:
    """What `array_view` gave of an array of `dtype`, as float32; without a copy if it is float32."""
    if dtype == mx.bfloat16:
        bits = stored.astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    return stored.astype(np.float32, copy=False)


def dense_rows(weight: mx.array) -> RowSource:
    """Rows of a float32, bfloat16 or float16 `weight` `[out, in]`."""
    stored = array_view(weight)

    def write(start: int, stop: int, out: Float32) -> None:
        out[...] = stored[start:stop]

    def write_bfloat16(start: int, stop: int, out: Float32) -> None:
        bits = out.view(np.uint32)
        bits[...] = stored[start:stop]
        np.left_shift(bits, 16, out=bits)

    return _in_steps(write_bfloat16 if weight.dtype == mx.bfloat16 else write)


def mxfp4_rows(linear: ExpertLinear, expert: int) -> RowSource:
    """Rows of one expert's matrix, the very values of `mxfp4.dequantize`."""
    words, scales = array_view(linear.blocks)[expert], array_view(linear.scales)[expert]
    fours, wide_scales = _mxfp4_tables()

    def write(start: int, stop: int, out: Float32) -> None:
        np.take(fours, words[start:stop].view(np.uint16), out=out.view(np.complex128), mode="clip")
        factors = np.take(wide_scales, scales[start:stop], mode="clip").view(np.float32)
        # Numpy's state belongs to the thread. Past float32's range is infinity, as in mxfp4.dequantize.
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(out, factors, out=out)

    return _in_steps(write)


def affine_rows(linear: QuantizedLinear) -> RowSource:
    """Rows of a matrix in affine quantisation."""
    stored = array_view(linear.weight).view(np.uint8)
    scales, offsets = float32_view(linear.scales), float32_view(linear.biases)
    bits, size = linear.bits, linear.group_size
    # Codes that do not fill bytes evenly become a byte each first.
    table = _code_table(bits if 8 % bits == 0 else 8)

    def write(start: int, stop: int, out: Float32) -> None:
        codes = stored[start:stop] if 8 % bits == 0 else _unpack(stored[start:stop], bits)
        np.take(table, codes, out=out.view(table.dtype), mode="clip")
        groups = out.reshape(stop - start, -1, size)
        np.multiply(groups, scales[start:stop, :, None], out=groups)
        np.add(groups, offsets[start:stop, :, None], out=groups)

    return _in_steps(write)


def _in_steps(write: RowSource) -> RowSource:
    """`write`, called for so few rows at a time that they stay in the cache."""

    def write_in_steps(start: int, stop: int, out: Float32) -> None:
        step = max(1, STEP_VALUES // out.shape[-1])
        for first in range(start, stop, step):
            last = min(first + step, stop)
            write(first, last, out[first - start : last - start])

    return write_in_steps


def _unpack(stored: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """The codes, a byte each, `[rows, in]`, of `stored` `[rows, in * bits / 8]`: the first in the lowest bits."""
    period = stored.reshape(len(stored), -1, bits)
    codes = np.empty((*period.shape[:-1], 8), dtype=np.uint8)
    for number in range(8):
        byte, shift = divmod(number * bits, 8)
        code = period[..., byte] >> shift
        if shift + bits > 8:
            code |= period[..., byte + 1] << (8 - shift)
        np.bitwise_and(code, (1 << bits) - 1, out=codes[..., number])
    return codes.reshape(len(stored), -1)


@cache
def _code_table(bits: int) -> npt.NDArray[Any]:
    """For each byte the 8 / bits codes in it as float32, the lowest bits first, as one item."""
    shifts = np.arange(0, 8, bits)
    codes = (np.arange(256)[:, None] >> shifts & ((1 << bits) - 1)).astype(np.float32)
    return codes.view({8: np.float32, 4: np.uint64, 2: np.complex128}[bits])[:, 0]


@cache
def _mxfp4_tables() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """For each 16 bits of blocks their four values as one item, and for each scale byte its factor 32 times."""
    codes = np.arange(1 << 16)[:, None] >> np.arange(0, 16, 4) & 0xF
    exponents = np.arange(256) - 127
    with np.errstate(over="ignore"):
        factors = np.ldexp(np.float32(1), exponents).astype(np.float32)
    factors[NAN_SCALE] = np.nan
    return E2M1[codes].view(np.complex128)[:, 0], np.repeat(factors[:, None], GROUP, axis=1).view(_WIDE)[:, 0]
