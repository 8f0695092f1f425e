"""MXFP4 in torch: rounding inside training, and packing for the checkpoint.

A block is 32 values along the last axis with one scale 2^(s - 127); values are E2M1. The scale is the better one (least
squares) of the standard's and the next larger. Source: OCP Microscaling Formats (MX) Specification 1.0, section 5.
"""

import torch
from torch import Tensor

BLOCK = 32
"""Values that share a scale."""
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of a 4-bit value, in the order of their codes; code + 8 is the negative."""


def round_e2m1(x: Tensor) -> Tensor:
    """Each value's nearest E2M1 value, at most 6 in magnitude."""
    size = x.abs()
    fine, middle, coarse = (x * 2).round() / 2, x.round(), (x / 2).round() * 2
    return torch.where(size < 2, fine, torch.where(size < 4, middle, coarse)).clamp(-6, 6)


def blockwise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """E2M1 values `[..., blocks, 32]` float32 and scale exponents `[..., blocks, 1]` of a weight `[..., in]`."""
    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(-1, keepdim=True).clamp_min(2.0**-100)
    low = torch.floor(torch.log2(largest)) - 2
    candidates = []
    for exponent in (low, low + 1):
        scale = torch.exp2(exponent)
        values = round_e2m1(blocks / scale)
        candidates.append((values, exponent, (values * scale - blocks).square().sum(-1, keepdim=True)))
    (values_low, low, error_low), (values_high, high, error_high) = candidates
    better = error_high < error_low
    return torch.where(better, values_high, values_low), torch.where(better, high, low)


def round_mxfp4(weight: Tensor) -> Tensor:
    """The weight as MXFP4 stores it, float32, same shape; gradients pass straight through."""
    with torch.no_grad():
        values, exponent = blockwise(weight)
        rounded = (values * torch.exp2(exponent)).flatten(-2)
    return weight + (rounded - weight).detach()


def pack_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks `[..., in / 32, 16]` (low nibble first) and scales `[..., in / 32]`, uint8, of a weight `[..., in]`."""
    values, exponent = blockwise(weight)
    codes = torch.bucketize(values.abs(), torch.tensor(E2M1) - 1e-3, right=True) - 1
    codes = (codes + 8 * (values < 0)).to(torch.uint8)
    scales = (exponent.squeeze(-1) + 127).clamp(0, 254).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales
