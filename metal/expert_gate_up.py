"""One token's activations inside its experts, in one launch: choice of experts, MXFP4 gate and up, clamped SwiGLU."""

from typing import Final

import mlx.core as mx

from gptoss_mlx.metal import library
from gptoss_mlx.operands import ExpertLinear

_OUTPUTS_A_THREADGROUP: Final = 16
"""GATE_UP_SIMDGROUPS * GATE_UP_PAIRS in the source."""

_THREADS: Final = 256
"""GATE_UP_SIMDGROUPS * 32."""

_CHOSEN_BYTES: Final = 4
"""Threadgroup memory of the chosen expert."""

_MOST_CHOICES: Final = 16
"""Experts per token that `expert_down`, with a lane for each bias of its two rows, can sum up."""

_DTYPES: Final = (mx.bfloat16, mx.float16, mx.float32)
"""What activations may be."""

_kernel = library.Kernel(
    "expert_gate_up",
    inputs=("normed", "logits", "blocks", "scales", "bias", "limit", "alpha"),
    outputs=("inner",),
    body="""
    threadgroup metal::vec<T, 4> planes[IN / 4];
    threadgroup uint chosen[1];
    expert_gate_up<EXPERTS, CHOICES, IN, OUT>(
        normed, logits, blocks, scales, bias, limit, alpha, inner, planes, chosen,
        threadgroup_position_in_grid.y, threadgroup_position_in_grid.x,
        simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
    """,
)


def fits(
    normed: mx.array, logits: mx.array, gate_up: ExpertLinear, experts_per_token: int, limit: float, alpha: float
) -> bool:
    """Whether `launch` takes these: one token, widths in whole groups, a vector that threadgroup memory holds."""
    experts, rows, words = gate_up.blocks.shape
    width = words * 8
    return (
        normed.size == width
        and normed.dtype in _DTYPES
        and logits.size == experts
        and logits.dtype == mx.float32
        and 1 <= experts_per_token <= min(experts, _MOST_CHOICES)
        and width % 32 == 0
        and rows % (2 * _OUTPUTS_A_THREADGROUP) == 0
        and width * normed.dtype.size + _CHOSEN_BYTES <= library.MOST_THREADGROUP_BYTES
    )


def launch(
    normed: mx.array, logits: mx.array, gate_up: ExpertLinear, experts_per_token: int, limit: float, alpha: float
) -> mx.array:
    """`[experts_per_token, intermediate]`, in the dtype of `normed`: the activations in the experts, strongest first.

    `normed` is one token's `[1, 1, hidden]`, `logits` its router logits, float32 `[1, 1, experts]`. Of equal logits the
    lower expert is chosen. `gate_up` has gate in its even rows and up in its odd ones; gate is clamped to at most
    `limit`, up to [-limit, limit], and the result is `gate * sigmoid(alpha * gate) * (up + 1)`.
    """
    experts, rows, words = gate_up.blocks.shape
    if not fits(normed, logits, gate_up, experts_per_token, limit, alpha):
        raise ValueError(f"expert_gate_up does not take {normed.shape} and {gate_up.blocks.shape}")
    return _kernel(
        normed,
        logits,
        gate_up.blocks,
        gate_up.scales,
        gate_up.bias,
        library.constant(limit),
        library.constant(alpha),
        template={"T": normed.dtype, "EXPERTS": experts, "CHOICES": experts_per_token, "IN": words * 8, "OUT": rows},
        grid=(rows // 2 // _OUTPUTS_A_THREADGROUP * _THREADS, experts_per_token, 1),
        threadgroup=(_THREADS, 1, 1),
        shapes=((experts_per_token, rows // 2),),
        dtypes=(normed.dtype,),
    )[0]
