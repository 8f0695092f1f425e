"""One token's way out of its experts, in one launch: MXFP4 down, bias, weighted sum over the experts, residual."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import library
from gptoss_mlx.operands import ExpertLinear

_ROWS_A_THREADGROUP: Final = 16
"""DOWN_SIMDGROUPS * DOWN_ROWS in the source."""

_THREADS: Final = 256
"""DOWN_SIMDGROUPS * 32."""

_CHOICE_BYTES: Final = 8
"""Threadgroup memory of one choice: an expert and its weight."""

_MOST_CHOICES: Final = 16
"""Experts per token: a lane for each bias of a simdgroup's two rows."""

_DTYPES: Final = (mx.bfloat16, mx.float16, mx.float32)
"""What activations may be."""

_kernel = library.Kernel(
    "expert_down",
    inputs=("inner", "logits", "blocks", "scales", "bias", "residual"),
    outputs=("out",),
    body="""
    threadgroup metal::vec<T, 4> planes[2 * IN / 4];
    threadgroup uint chosen[CHOICES];
    threadgroup float weights[CHOICES];
    expert_down<EXPERTS, CHOICES, IN, OUT>(
        inner, logits, blocks, scales, bias, residual, out, planes, chosen, weights,
        threadgroup_position_in_grid.x, simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
    """,
)


def fits(inner: mx.array, logits: mx.array, down: ExpertLinear, residual: mx.array, experts_per_token: int) -> bool:
    """Whether `launch` takes these: one token, widths in whole groups, two vectors that threadgroup memory holds."""
    experts, rows, words = down.blocks.shape
    width = words * 8
    return (
        inner.size == experts_per_token * width
        and residual.size == rows
        and inner.dtype == residual.dtype
        and inner.dtype in _DTYPES
        and logits.size == experts
        and logits.dtype == mx.float32
        and 1 <= experts_per_token <= min(experts, _MOST_CHOICES)
        and width % 32 == 0
        and rows % _ROWS_A_THREADGROUP == 0
        and 2 * width * inner.dtype.size + experts_per_token * _CHOICE_BYTES <= library.MOST_THREADGROUP_BYTES
    )


def launch(
    inner: mx.array, logits: mx.array, down: ExpertLinear, residual: mx.array, experts_per_token: int
) -> mx.array:
    """`[1, 1, hidden]`, in the dtype of `residual`: residual plus the weighted sum of the experts' outputs.

    `inner` `[experts_per_token, intermediate]` holds one token's activations in its experts, strongest first, as
    `expert_gate_up` gives them for the same `logits`, float32 `[1, 1, experts]`; the weights are the softmax over the
    chosen experts' logits. `residual` is `[1, 1, hidden]`, in the dtype of `inner`.
    """
    experts, rows, words = down.blocks.shape
    if not fits(inner, logits, down, residual, experts_per_token):
        raise ValueError(f"expert_down does not take {inner.shape} and {down.blocks.shape}")
    return _kernel(
        inner,
        logits,
        down.blocks,
        down.scales,
        down.bias,
        residual,
        template={"T": inner.dtype, "EXPERTS": experts, "CHOICES": experts_per_token, "IN": words * 8, "OUT": rows},
        grid=(rows // _ROWS_A_THREADGROUP * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        shapes=(residual.shape,),
        dtypes=(inner.dtype,),
    )[0]
