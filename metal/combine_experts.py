"""The experts' outputs of each token, weighted and added to the residual stream."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal.library import Kernel
from gptoss_mlx.metal.route_pairs import PairTable

VALUES: Final = 4
"""Neighbouring values that a thread gives."""

THREADS: Final = 256
"""Threads of a threadgroup, at most."""

_kernel = Kernel(
    "combine_experts",
    inputs=["outputs", "places", "weights", "residual"],
    outputs=["combined"],
    body="""
combine_experts<T, HIDDEN, CHOICES>(outputs, places, weights, residual, combined, thread_position_in_grid.xy);
""",
)


def launch(outputs: mx.array, table: PairTable, residual: mx.array) -> mx.array:
    """`residual` plus the weighted sum of each token's experts' outputs, `[tokens, hidden]` in the same dtype.

    `outputs` is `[pairs, hidden]` in the table's order, `residual` `[tokens, hidden]`; both are bfloat16, float16 or
    float32.
    """
    tokens, hidden = residual.shape
    choices = table.experts.shape[1]
    if hidden % VALUES or outputs.shape != (tokens * choices, hidden) or outputs.dtype != residual.dtype:
        raise ValueError(
            f"outputs are {outputs.dtype} {outputs.shape} and the residual {residual.dtype} {residual.shape}; "
            f"expected {choices} outputs for each row of the residual"
        )
    (combined,) = _kernel(
        outputs,
        table.places,
        table.weights,
        residual,
        template={"T": residual.dtype, "HIDDEN": hidden, "CHOICES": choices},
        grid=(hidden // VALUES, tokens, 1),
        threadgroup=(min(hidden // VALUES, THREADS), 1, 1),
        shapes=[(tokens, hidden)],
        dtypes=[residual.dtype],
    )
    return combined
