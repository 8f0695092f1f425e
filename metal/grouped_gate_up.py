"""Gate and up projections of many (token, expert) pairs, with their clamped SwiGLU."""

import mlx.core as mx

from gptoss_mlx.metal import tile_matmul
from gptoss_mlx.metal.library import Kernel, constant
from gptoss_mlx.metal.route_pairs import PairTable
from gptoss_mlx.operands import ExpertLinear

_kernel = Kernel(
    "grouped_gate_up",
    inputs=["x", "order", "tiles", "blocks", "scales", "bias", "limit", "alpha"],
    outputs=["inner"],
    body=tile_matmul.TILE_MEMORY
    + """
grouped_gate_up<T, TILE_ROWS, CHOICES, K, ROWS>(
    x, order, tiles, blocks, scales, bias, limit, alpha, inner, x_tile, scale_tile, sources,
    threadgroup_position_in_grid.xy, thread_index_in_threadgroup, simdgroup_index_in_threadgroup,
    thread_index_in_simdgroup);
""",
)


def launch(x: mx.array, table: PairTable, gate_up: ExpertLinear, limit: float, alpha: float) -> mx.array:
    """Each pair's activation inside its expert, `[pairs, intermediate]` in the dtype of `x`, in the table's order.

    `x` is `[tokens, hidden]` in bfloat16, float16 or float32; `gate_up` has gate in its even rows and up in its odd
    ones. gate is clamped to at most `limit`, up to [-limit, limit], and the result is
    `gate * sigmoid(alpha * gate) * (up + 1)`.
    """
    tile_matmul.check(x, table, gate_up)
    rows = gate_up.blocks.shape[1]
    (inner,) = _kernel(
        x,
        table.order,
        table.tiles,
        gate_up.blocks,
        gate_up.scales,
        gate_up.bias,
        constant(limit),
        constant(alpha),
        template={
            "T": x.dtype,
            "TILE_ROWS": table.tile_rows,
            "CHOICES": table.experts.shape[1],
            "K": x.shape[1],
            "ROWS": rows,
        },
        grid=tile_matmul.grid(table, gate_up),
        threadgroup=tile_matmul.THREADGROUP,
        shapes=[(table.order.size, rows // 2)],
        dtypes=[x.dtype],
    )
    return inner
