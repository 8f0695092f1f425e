"""MXFP4 in numpy: 32 values to a scale, 4.25 bits a value, as the experts of gpt-oss are stored.

    one group          scale byte s: 2^(s - 127)      (E8M0, 255 is NaN)
    16 bytes, each     hhhhllll   l: value 2i, h: value 2i + 1
    4 bits of a value  s ee m     (E2M1: sign, exponent, mantissa)

Owns: the number format. Does not own: how a matmul over it runs (`ops`), nor where it lies in a file (`weights`).
Source: OCP Microscaling Formats (MX) v1.0, sections 5.3.3 and 5.4.1.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

GROUP: Final = 32
"""Values that share one scale."""

NAN_SCALE: Final = 255
"""The E8M0 byte that stands for NaN; no weight may carry it."""

E2M1: Final[npt.NDArray[np.float32]] = np.array(
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], dtype=np.float32
)
"""The value of each of the sixteen 4-bit codes; read-only."""
E2M1.flags.writeable = False

_MAGNITUDES: Final = E2M1[:8]
_MIDPOINTS: Final = (_MAGNITUDES[:-1] + _MAGNITUDES[1:]) / 2
_MAX_EXPONENT: Final = 2
"""The exponent of the largest E2M1 value: 6 = 1.5 x 2^2."""


def dequantize(blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The values, float32 `[..., groups * 32]`, of `blocks` uint8 `[..., groups, 16]` and `scales` uint8 `[...,
    groups]`.

    Exact: every product of an E2M1 value and a power of two from 2^-127 on is a float32, subnormals included; what
    passes float32's range (a scale byte of 254 with a value of 2 or more) is infinite, and a scale byte of 255 is NaN.
    """
    if blocks.shape != (*scales.shape, GROUP // 2):
        raise ValueError(
            f"blocks have shape {blocks.shape} and scales {scales.shape}; expected [..., groups, 16] and [..., groups]"
        )
    values = np.empty((*scales.shape, GROUP), dtype=np.float32)
    values[..., 0::2] = E2M1[blocks & 0x0F]
    values[..., 1::2] = E2M1[blocks >> 4]
    with np.errstate(over="ignore"):
        values = np.ldexp(values, scales.astype(np.int32)[..., None] - 127)
    values[scales == NAN_SCALE] = np.nan
    return values.reshape(*scales.shape[:-1], scales.shape[-1] * GROUP)


def quantize(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """`values` float32 `[..., groups * 32]` as `blocks` uint8 `[..., groups, 16]` and `scales` uint8 `[..., groups]`.

    Codes round to nearest, ties to the even code. The scale is the specification's, 2^(floor(log2(largest)) - 2), or
    twice that when the group's squared error is then smaller (the specification's clips a largest value between 6 and
    8 scales). A group that MXFP4 holds exactly comes back exactly. Raises `ValueError` for values that are not finite
    or whose last dimension is not a multiple of 32.
    """
    if values.ndim == 0 or values.shape[-1] % GROUP:
        raise ValueError(f"values have shape {values.shape}; expected a last dimension that is a multiple of {GROUP}")
    if not np.isfinite(values).all():
        raise ValueError("values hold NaN or infinity; MXFP4 has neither")
    groups = values.astype(np.float64).reshape(*values.shape[:-1], -1, GROUP)
    largest = np.abs(groups).max(axis=-1)
    # frexp puts the mantissa in [0.5, 1), so floor(log2(x)) is its exponent less one; 0 for an empty group.
    exponent = np.where(largest > 0, np.frexp(largest)[1] - 1 - _MAX_EXPONENT, -127)
    exponent = np.clip(exponent, -127, 126)
    codes, error = _codes(groups, exponent)
    wider_codes, wider_error = _codes(groups, exponent + 1)
    wider = wider_error < error
    codes = np.where(wider[..., None], wider_codes, codes)
    scales = (exponent + wider + 127).astype(np.uint8)
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8), scales


def _codes(
    groups: npt.NDArray[np.float64], exponent: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """The 4-bit codes of `groups` `[..., 32]` at a scale of 2^exponent, and each group's squared error."""
    scaled = np.ldexp(groups, -exponent[..., None].astype(np.int32))
    magnitude = np.abs(scaled)
    # A tie goes to the even code: at an odd midpoint index (upper code even) up, at an even one down.
    code = np.searchsorted(_MIDPOINTS[1::2], magnitude, side="right") + np.searchsorted(
        _MIDPOINTS[0::2], magnitude, side="left"
    )
    error = np.ldexp(magnitude - _MAGNITUDES[code], exponent[..., None].astype(np.int32))
    return (code + 8 * np.signbit(scaled)).astype(np.uint8), np.square(error).sum(axis=-1)
