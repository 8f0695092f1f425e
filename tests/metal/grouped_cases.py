"""Random experts, tokens and tables of pairs for tests of the grouped expert kernels, and the truth about them."""

import math
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from gptoss_mlx.metal.route_pairs import PairTable, most_tiles
from gptoss_mlx.operands import ExpertLinear
from tests import reference
from tests.metal.arrays import to_float64

LIMIT, ALPHA = 7.0, 1.702


class Experts(NamedTuple):
    """One projection of every expert."""

    linear: ExpertLinear
    blocks: np.ndarray
    """uint8 `[experts, out, groups, 16]`."""
    scales: np.ndarray
    bias: np.ndarray
    """float64 `[experts, out]`."""

    def weight(self, expert: int) -> np.ndarray:
        """float64 `[out, in]` of one expert: all of them would fill the memory at the real widths."""
        return reference.mxfp4_values(self.blocks[expert], self.scales[expert])

    def project(self, x: np.ndarray, experts: np.ndarray) -> np.ndarray:
        """Each row of `x` through its expert, float64 `[rows, out]`."""
        out = np.empty((len(x), self.bias.shape[1]))
        for expert in np.unique(experts):
            own = experts == expert
            out[own] = x[own] @ self.weight(expert).T + self.bias[expert]
        return out


def random_experts(
    rng: np.random.Generator,
    experts: int,
    out: int,
    width: int,
    dtype: mx.Dtype = mx.bfloat16,
    scales: tuple[int, ...] = (119, 120, 121, 122),
) -> Experts:
    """Experts with every code and the scale bytes `scales`; biases of dtype `dtype`."""
    codes = rng.integers(0, 1 << 32, (experts, out, width // 8), dtype=np.uint32)
    exponents = rng.choice(np.array(scales, dtype=np.uint8), (experts, out, width // 32))
    bias = mx.array(rng.normal(size=(experts, out)).astype(np.float32)).astype(dtype)
    blocks = codes.view(np.uint8).reshape(experts, out, width // 32, 16)
    return Experts(ExpertLinear(mx.array(codes), mx.array(exponents), bias), blocks, exponents, to_float64(bias))


def random_choice(rng: np.random.Generator, tokens: int, experts: int, choices: int) -> np.ndarray:
    """Different experts for each token, `[tokens, choices]`."""
    return np.argsort(rng.random((tokens, experts)), axis=1)[:, :choices]


def table_of(chosen: np.ndarray, weights: np.ndarray, experts: int, tile_rows: int) -> PairTable:
    """The table for the experts `chosen` `[tokens, choices]`, one expert after the other."""
    flat = chosen.reshape(-1)
    order = np.argsort(flat, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    tiles = np.zeros((most_tiles(flat.size, experts, tile_rows), 3), dtype=np.uint32)
    used = first = 0
    for expert in range(experts):
        pairs = int((flat == expert).sum())
        for tile in range(math.ceil(pairs / tile_rows)):
            tiles[used] = expert, first + tile * tile_rows, min(tile_rows, pairs - tile * tile_rows)
            used += 1
        first += pairs
    return PairTable(
        mx.array(chosen.astype(np.uint32)),
        mx.array(weights.astype(np.float32)),
        mx.array(order.astype(np.uint32)),
        mx.array(places.reshape(chosen.shape).astype(np.uint32)),
        mx.array(tiles),
        tile_rows,
    )


def unweighted_table(chosen: np.ndarray, experts: int, tile_rows: int) -> PairTable:
    """The same where the weights do not matter."""
    return table_of(chosen, np.ones(chosen.shape), experts, tile_rows)


def sorted_pairs(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token and expert of each pair in the order by expert."""
    order = np.argsort(chosen.reshape(-1), kind="stable")
    return order // chosen.shape[1], chosen.reshape(-1)[order]


def gate_up_truth(x: mx.array, chosen: np.ndarray, gate_up: Experts) -> np.ndarray:
    """float64 `[pairs, intermediate]` in the order by expert."""
    tokens, experts = sorted_pairs(chosen)
    return reference.swiglu(gate_up.project(to_float64(x)[tokens], experts), LIMIT, ALPHA)
