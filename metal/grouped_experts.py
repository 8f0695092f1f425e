"""The experts of many tokens at once: routed, grouped by expert, multiplied tile by tile, and put together again.

Owns: which tile height serves a prompt, which sizes the kernels take, and the order of the five dispatches.
"""

import mlx.core as mx

from gptoss_mlx.metal import combine_experts, grouped_down, grouped_gate_up, route_pairs
from gptoss_mlx.metal.pick_experts import MOST_CHOICES, MOST_EXPERTS
from gptoss_mlx.metal.tile_matmul import DTYPES, TILE_HEIGHTS, width_fits
from gptoss_mlx.operands import ExpertLinear


def tile_rows(tokens: int, experts: int, experts_per_token: int) -> int:
    """Pairs of a full tile for `tokens` tokens: the least height of twice the pairs that an expert can expect.

    An expert's weights are read once for each of its tiles, and pairs fall unevenly on the experts, hence twice; rows
    of a tile that stay empty cost threadgroup memory and registers, but no products beyond a multiple of eight.
    """
    expected = tokens * experts_per_token / experts
    return next((height for height in TILE_HEIGHTS if height >= 2 * expected), TILE_HEIGHTS[-1])


def fits(x: mx.array, gate_up: ExpertLinear, down: ExpertLinear, experts_per_token: int) -> bool:
    """Whether the kernels take these arrays: `x` `[tokens, hidden]` of two tokens or more, and its experts.

    Both widths must be multiples of 32.
    """
    experts, _, words = gate_up.blocks.shape
    hidden, intermediate = words * 8, down.blocks.shape[2] * 8
    return (
        x.ndim == 2
        and x.shape[0] >= 2
        and x.shape[1] == hidden
        and x.dtype in DTYPES
        and width_fits(hidden)
        and width_fits(intermediate)
        and gate_up.blocks.shape[1] == 2 * intermediate
        and down.blocks.shape[:2] == (experts, hidden)
        and experts <= MOST_EXPERTS
        and 0 < experts_per_token <= min(experts, MOST_CHOICES)
    )


def launch(
    x: mx.array,
    logits: mx.array,
    residual: mx.array,
    gate_up: ExpertLinear,
    down: ExpertLinear,
    *,
    experts_per_token: int,
    limit: float,
    alpha: float,
) -> mx.array:
    """`residual` plus what the experts say to `x`, `[tokens, hidden]` in the dtype of `x`, in five dispatches.

    `x` (normed) and `residual` are `[tokens, hidden]` in one dtype, the router's `logits` float32 `[tokens, experts]`.
    """
    tokens, experts = logits.shape
    table = route_pairs.launch(logits, experts_per_token, tile_rows(tokens, experts, experts_per_token))
    inner = grouped_gate_up.launch(x, table, gate_up, limit, alpha)
    outputs = grouped_down.launch(inner, table, down)
    return combine_experts.launch(outputs, table, residual)
