"""MLX's own kernels at the shapes of the report, out of the headers that come with it, in the same simulator.

Where MLX launches more than one kernel for what one of ours does, only the heaviest is counted here: its product with
the experts' weights, without biases, activation, sums and indices.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

import mlx.core as mx
import numpy as np

from tests.metal.arrays import random_array
from tests.metal.expert_linears import random_experts
from tests.simulator import Launch
from tests.simulator.kernel import Options
from tests.simulator.mlx_kernels import gather_qmv_mxfp4, sdpa_vector, sdpa_vector_2pass

_OPTIONS: Final = Options(counting=True, divergence_allowed=True, partial_outputs_allowed=True)


class Stock(NamedTuple):
    """What MLX does for one of our cases."""

    kernel: str
    """The kernel's name."""
    launches: tuple[Launch, ...]
    once: tuple[str, ...]
    """Its buffers of weights, or of keys and values."""


def run_stock(name: str) -> Stock:
    """Launches what MLX has for the case of this name."""
    return _STOCK[name]()


def _experts(rows: int) -> Stock:
    rng = np.random.default_rng(7)
    # As many experts as are visited: the others are not touched.
    linear = random_experts(rng, 4, rows, 2880)
    x = random_array(rng, 4 if rows == 2880 else 1, 2880)
    _, launch = gather_qmv_mxfp4(x, linear.blocks, linear.scales, mx.arange(4, dtype=mx.uint32), _OPTIONS)
    return Stock("`fp_gather_qmv`", (launch,), ("w", "scales"))


def _two_tokens() -> Stock:
    """Both products of two tokens that visit eight experts: below 32 tokens MLX takes each pair by itself."""
    rng = np.random.default_rng(7)
    experts = mx.arange(8, dtype=mx.uint32)
    launches = []
    for rows, inputs in ((5760, 2), (2880, 8)):
        linear = random_experts(rng, 8, rows, 2880)
        x = random_array(rng, inputs, 2880)
        launches.append(gather_qmv_mxfp4(x, linear.blocks, linear.scales, experts, _OPTIONS)[1])
    return Stock("`fp_gather_qmv`", tuple(launches), ("w", "scales"))


def _attention(keys: int, passes: int) -> Stock:
    rng = np.random.default_rng(7)
    q, k, v = random_array(rng, 64, 64), random_array(rng, 8, keys, 64), random_array(rng, 8, keys, 64)
    sinks = random_array(rng, 64)
    once = ("keys", "values")
    if passes == 1:
        _, launch = sdpa_vector(q, k, v, scale=0.125, sinks=sinks, options=_OPTIONS)
        return Stock("`sdpa_vector`", (launch,), once)
    _, launches = sdpa_vector_2pass(q, k, v, scale=0.125, sinks=sinks, options=_OPTIONS)
    return Stock("`sdpa_vector_2pass`", launches, once)


_STOCK: Final[Mapping[str, Callable[[], Stock]]] = {
    "fp_gather_qmv 5760": partial(_experts, 5760),
    "fp_gather_qmv 2880": partial(_experts, 2880),
    "fp_gather_qmv, 2 tokens": _two_tokens,
    "sdpa_vector 128": partial(_attention, 128, 1),
    "sdpa_vector 512": partial(_attention, 512, 1),
    "sdpa_vector 8192": partial(_attention, 8192, 2),
}
