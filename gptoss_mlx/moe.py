"""The mixture-of-experts half of a decoder layer: which operations, in which order.

Owns: the way from the residual stream through router and experts back to it. Does not own: how each is computed
(`ops`).
"""

from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.ops import ExpertLinear, Norm, Projection, Routing, current_ops


@dataclass(frozen=True, slots=True)
class Experts:
    """One decoder layer's router and experts with their weights."""

    norm: Norm
    """`post_attention_layernorm`."""
    router: Projection
    """`[experts, hidden]`."""
    gate_up: ExpertLinear
    """`[experts, 2 * intermediate, hidden]`; even rows gate, odd rows up."""
    down: ExpertLinear
    """`[experts, hidden, intermediate]`."""
    experts_per_token: int
    swiglu_limit: float
    swiglu_alpha: float

    def __call__(self, x: mx.array) -> mx.array:
        """`x` `[batch, seq, hidden]` plus its experts' weighted outputs."""
        return self.add_to(x, x)

    def add_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """`residual` plus the weighted outputs of the experts of `x`, both `[batch, seq, hidden]`."""
        ops = current_ops()
        normed, logits = ops.norm_router(x, self.norm, self.router)
        routing = Routing(logits, self.experts_per_token)
        inner = ops.expert_gate_up(normed, routing, self.gate_up, self.swiglu_limit, self.swiglu_alpha)
        return ops.expert_down(inner, routing, self.down, residual)
