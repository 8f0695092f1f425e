"""Down projection of many (token, expert) pairs."""

import mlx.core as mx

from gptoss_mlx.metal import tile_matmul
from gptoss_mlx.metal.library import Kernel
from gptoss_mlx.metal.route_pairs import PairTable
from gptoss_mlx.operands import ExpertLinear

_kernel = Kernel(
    "grouped_down",
    inputs=["inner", "tiles", "blocks", "scales", "bias"],
    outputs=["outputs"],
    body=tile_matmul.TILE_MEMORY
    + """
grouped_down<T, TILE_ROWS, K, ROWS>(
    inner, tiles, blocks, scales, bias, outputs, x_tile, scale_tile, sources,
    threadgroup_position_in_grid.xy, thread_index_in_threadgroup, simdgroup_index_in_threadgroup,
    thread_index_in_simdgroup);
""",
)


def launch(inner: mx.array, table: PairTable, down: ExpertLinear) -> mx.array:
    """Each pair's output, bias included, `[pairs, hidden]` in the dtype of `inner`, in the table's order.

    `inner` is `[pairs, intermediate]` in the same order, in bfloat16, float16 or float32.
    """
    tile_matmul.check(inner, table, down)
    rows = down.blocks.shape[1]
    (outputs,) = _kernel(
        inner,
        table.tiles,
        down.blocks,
        down.scales,
        down.bias,
        template={"T": inner.dtype, "TILE_ROWS": table.tile_rows, "K": inner.shape[1], "ROWS": rows},
        grid=tile_matmul.grid(table, down),
        threadgroup=tile_matmul.THREADGROUP,
        shapes=[(inner.shape[0], rows)],
        dtypes=[inner.dtype],
    )
    return outputs
