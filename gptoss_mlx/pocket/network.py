"""The gpt-oss network in torch, written for fast training on a CPU.

Owns the trainable weights of the pocket model and their forward pass on packed rows. The same numbers as transformers'
`GptOssForCausalLM`. Does not own the optimiser (`optimiser`), the data (`corpus`) or the file layout (`export`).
"""

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gptoss_mlx.pocket.dimensions import Dimensions

FUSE = os.environ.get("POCKET_FUSE", "0") == "1"
"""Whether torch.compile fuses the elementwise steps (needs a C++ compiler; about twice as fast)."""

WeightTransform = Callable[[Tensor], Tensor]
"""Maps an expert weight `[experts, out, in]` to the one used in the forward pass (identity, or MXFP4 rounding)."""


def yarn_frequencies(dims: Dimensions) -> tuple[Tensor, float]:
    """The rotary frequencies `[head_dim / 2]` float32 (radians a position) and the factor on cos and sin.

    Source: YaRN, arXiv 2309.00071, section 3.2, with the correction range not rounded (`truncate: false`).
    """
    exponent = torch.arange(0, dims.head_dim, 2, dtype=torch.float64) / dims.head_dim
    frequencies = dims.rope_theta**-exponent

    def dimension_of(rotations: float) -> float:
        turns = dims.initial_context_length / (rotations * 2 * math.pi)
        return dims.head_dim * math.log(turns) / (2 * math.log(dims.rope_theta))

    low, high = max(dimension_of(dims.rope_beta_fast), 0.0), min(dimension_of(dims.rope_beta_slow), dims.head_dim - 1.0)
    ramp = ((torch.arange(dims.head_dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    mixed = frequencies * (1 - ramp) + frequencies / dims.rope_factor * ramp
    return mixed.float(), 0.1 * math.log(dims.rope_factor) + 1.0


class SinkAttention(torch.autograd.Function):
    """Masked attention whose softmax denominator also holds one sink logit per head.

    torch's CPU flash kernels know no sinks; but `softmax with sink = softmax * exp(lse - lse_with_sink)`, and their
    backward pass is right as it stands when it is given the output and the log-sum-exp *with* the sink.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor, scale: float) -> Tensor:
        """Output `[batch, heads, seq, head_dim]` of q, k, v of that shape, sinks `[heads]` and an additive mask."""
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=mask, scale=scale
        )
        sink = sinks.float().view(1, -1, 1)
        with_sink = torch.logaddexp(lse, sink)
        out = out * (lse - with_sink).exp().unsqueeze(-1).to(out.dtype)
        ctx.save_for_backward(q, k, v, out, with_sink, sinks, mask)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and the sinks."""
        q, k, v, out, with_sink, sinks, mask = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_q, grad_k, grad_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, with_sink, 0.0, False, attn_mask=mask, scale=ctx.scale
        )
        weight = (sinks.float().view(1, -1, 1) - with_sink).exp()
        grad_sinks = -(weight * (grad.float() * out.float()).sum(-1)).sum((0, 2))
        return grad_q, grad_k, grad_v, grad_sinks.to(sinks.dtype), None, None


class Dispatch(torch.autograd.Function):
    """Copies each token's vector to its experts' rows; the backward pass gathers and adds instead of scattering."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, inverse: Tensor) -> Tensor:
        """Rows `[tokens * active, hidden]` sorted by expert, of x `[tokens, hidden]`."""
        ctx.save_for_backward(inverse)
        ctx.tokens = x.shape[0]
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x."""
        (inverse,) = ctx.saved_tensors
        rows = grads[0].index_select(0, inverse)
        return rows.view(ctx.tokens, -1, rows.shape[-1]).sum(1), None, None


class Reorder(torch.autograd.Function):
    """A permutation of rows whose backward pass is the inverse permutation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """`x[inverse]`."""
        ctx.save_for_backward(order)
        return x.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x."""
        (order,) = ctx.saved_tensors
        return grads[0].index_select(0, order), None, None


class GroupedLinear(torch.autograd.Function):
    """Each expert's linear map on its own run of rows, written straight into one output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, split: list[int]) -> Tensor:
        """Rows `[rows, out]` of x `[rows, in]` sorted by expert, weight `[experts, out, in]`, bias `[experts, out]`."""
        out = x.new_empty(x.shape[0], weight.shape[1])
        start = 0
        for expert, count in enumerate(split):
            part = slice(start, start + count)
            torch.addmm(bias[expert], x[part], weight[expert].T, out=out[part])
            start += count
        ctx.save_for_backward(x, weight)
        ctx.split = split
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the rows, the weight and the bias."""
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        grad_bias = grad.new_empty(weight.shape[:2])
        start = 0
        for expert, count in enumerate(ctx.split):
            part = slice(start, start + count)
            torch.mm(grad[part], weight[expert], out=grad_x[part])
            torch.mm(grad[part].T, x[part], out=grad_weight[expert])
            grad_bias[expert] = torch.mm(grad.new_ones(1, count), grad[part])[0]
            start += count
        return grad_x, grad_weight, grad_bias, None


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x, same shape and dtype."""
        return normalise(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with sinks and rotary positions."""

    def __init__(self, dims: Dimensions) -> None:
        super().__init__()
        self.dims = dims
        heads, kv_heads, size = dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim
        self.qkv = nn.Linear(dims.hidden_size, (heads + 2 * kv_heads) * size)
        self.out = nn.Linear(heads * size, dims.hidden_size)
        self.sinks = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Attention output `[batch, seq, hidden]`; cos and sin are `[batch, 1, seq, head_dim / 2]`."""
        batch, seq, _ = x.shape
        heads, kv_heads, size = self.dims.num_attention_heads, self.dims.num_key_value_heads, self.dims.head_dim
        qkv = linear(x, self.qkv).view(batch, seq, heads + 2 * kv_heads, size).transpose(1, 2)
        rotated = rotate(qkv[:, : heads + kv_heads], cos, sin)
        repeat = heads // kv_heads
        q = rotated[:, :heads].contiguous()
        k = rotated[:, heads:].repeat_interleave(repeat, 1)
        v = qkv[:, heads + kv_heads :].repeat_interleave(repeat, 1)
        out = SinkAttention.apply(q, k, v, self.sinks, mask, size**-0.5)
        return linear(out.transpose(1, 2).reshape(batch, seq, heads * size), self.out)


class Experts(nn.Module):
    """The router and its experts: top-k of n, clamped SwiGLU."""

    def __init__(self, dims: Dimensions) -> None:
        super().__init__()
        self.dims = dims
        experts, hidden, inner = dims.num_experts, dims.hidden_size, dims.intermediate_size
        self.router = nn.Linear(hidden, experts)
        self.gate_up = nn.Parameter(torch.randn(experts, 2 * inner, hidden) * hidden**-0.5)
        self.gate_up_bias = nn.Parameter(torch.zeros(experts, 2 * inner))
        self.down = nn.Parameter(torch.randn(experts, hidden, inner) * inner**-0.5 / math.sqrt(2 * dims.num_layers))
        self.down_bias = nn.Parameter(torch.zeros(experts, hidden))

    def forward(self, x: Tensor, transform: WeightTransform | None) -> tuple[Tensor, Tensor, Tensor]:
        """The mixture `[tokens, hidden]`, the router logits `[tokens, experts]` float32 and the rows of each expert."""
        dims = self.dims
        logits = torch.nn.functional.linear(x.float(), self.router.weight, self.router.bias)
        top, chosen = logits.topk(dims.experts_per_token, -1)
        weights = top.softmax(-1)
        flat = chosen.reshape(-1)
        order = flat.argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel())
        counts = torch.bincount(flat, minlength=dims.num_experts)
        rows = Dispatch.apply(x, order // dims.experts_per_token, inverse)
        gate_up = self.gate_up if transform is None else transform(self.gate_up)
        down = self.down if transform is None else transform(self.down)
        gate_up, down = gate_up.to(x.dtype), down.to(x.dtype)
        gate_up_bias, down_bias = self.gate_up_bias.to(x.dtype), self.down_bias.to(x.dtype)
        split = counts.tolist()
        wide = GroupedLinear.apply(rows, gate_up, gate_up_bias, split)
        out = GroupedLinear.apply(clamped_swiglu(wide, dims.swiglu_limit), down, down_bias, split)
        back = Reorder.apply(out, order, inverse).view(x.shape[0], dims.experts_per_token, -1)
        return weighted_sum(back, weights), logits, counts


class DecoderLayer(nn.Module):
    """Attention and experts, each behind a norm and added to the residual stream."""

    def __init__(self, dims: Dimensions) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dims.hidden_size, dims.rms_norm_eps)
        self.attention = Attention(dims)
        self.experts_norm = RMSNorm(dims.hidden_size, dims.rms_norm_eps)
        self.experts = Experts(dims)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, transform: WeightTransform | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The new residual stream, the router logits and the load."""
        x = x + self.attention(self.attention_norm(x), cos, sin, mask)
        flat = self.experts_norm(x).view(-1, x.shape[-1])
        mixed, logits, counts = self.experts(flat, transform)
        return x + mixed.view_as(x), logits, counts


class Network(nn.Module):
    """The whole model: token ids in, logits out."""

    def __init__(self, dims: Dimensions) -> None:
        super().__init__()
        self.dims = dims
        self.embedding = nn.Parameter(torch.randn(dims.vocab_size, dims.hidden_size))
        self.layers = nn.ModuleList(DecoderLayer(dims) for _ in range(dims.num_layers))
        self.norm = RMSNorm(dims.hidden_size, dims.rms_norm_eps)
        # The head starts near the embedding, so that one attention head learns to copy all tokens at once.
        self.head = nn.Parameter(0.06 * self.embedding.detach() + 0.02 * torch.randn(dims.vocab_size, dims.hidden_size))
        self.frequencies, self.rope_factor = yarn_frequencies(dims)
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            self.reset(layer)
        look_back(self.layers[0], self.frequencies)

    def reset(self, layer: DecoderLayer) -> None:
        """Draws the starting weights of one layer."""
        width, depth = self.dims.hidden_size**-0.5, (2 * self.dims.num_layers) ** -0.5
        nn.init.normal_(layer.attention.qkv.weight, std=width)
        nn.init.zeros_(layer.attention.qkv.bias)
        nn.init.normal_(layer.attention.out.weight, std=width * depth)
        nn.init.zeros_(layer.attention.out.bias)
        nn.init.normal_(layer.experts.router.weight, std=0.5 * width)
        nn.init.zeros_(layer.experts.router.bias)

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        masks: tuple[Tensor, Tensor],
        dtype: torch.dtype = torch.bfloat16,
        transform: WeightTransform | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The normed last hidden state `[batch, seq, hidden]`, and per layer the router logits and the load.

        ids and positions are `[batch, seq]`; masks are the additive masks of the sliding and of the full layers.
        """
        angles = positions.float().unsqueeze(-1) * self.frequencies
        cos = (angles.cos() * self.rope_factor).unsqueeze(1).to(dtype)
        sin = (angles.sin() * self.rope_factor).unsqueeze(1).to(dtype)
        x = self.embedding[ids].to(dtype)
        logits: list[Tensor] = []
        loads: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x, router, load = layer(x, cos, sin, masks[index % 2], transform)
            logits.append(router)
            loads.append(load)
        return self.norm(x), logits, loads


def look_back(layer: DecoderLayer, frequencies: Tensor, pairs: int = 6, strength: float = 24.0) -> None:
    """Starts a layer's first two heads (of one key head) as looking one and two tokens back.

    Copying needs such a head, and a small model takes millions of tokens to find it. The biases alone do it: a pair of
    them turned by `-delta` positions against its key scores `strength * cos(frequency * (distance - delta))`.
    """
    dims, attention = layer.attention.dims, layer.attention
    size, half, key = dims.head_dim, dims.head_dim // 2, dims.num_attention_heads * dims.head_dim
    with torch.no_grad():
        attention.qkv.weight[: 2 * size] *= 0.1
        attention.qkv.weight[key : key + size] *= 0.1
        for pair in range(pairs):
            attention.qkv.bias[key + pair] = strength**0.5
            for head, delta in ((0, 1), (1, 2)):
                angle = delta * float(frequencies[pair])
                attention.qkv.bias[head * size + pair] = strength**0.5 * math.cos(angle)
                attention.qkv.bias[head * size + half + pair] = -(strength**0.5) * math.sin(angle)


def linear(x: Tensor, module: nn.Linear) -> Tensor:
    """The linear map of `module` in x's dtype (master weights stay float32)."""
    return torch.nn.functional.linear(x, module.weight.to(x.dtype), module.bias.to(x.dtype))


@torch.compile(disable=not FUSE, dynamic=False)
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x `[batch, heads, seq, head_dim]` with the pairs (d, d + head_dim / 2) turned by the position's angles."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@torch.compile(disable=not FUSE, dynamic=False)
def normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x divided by its root mean square over the last axis, times weight; computed in float32, in x's dtype."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


@torch.compile(disable=not FUSE, dynamic=False)
def clamped_swiglu(wide: Tensor, limit: float) -> Tensor:
    """`gate * sigmoid(1.702 gate) * (up + 1)` `[rows, inner]` of the halves of wide, gate <= limit, |up| <= limit."""
    gate, up = wide.chunk(2, -1)
    gate, up = gate.float().clamp(max=limit), up.float().clamp(-limit, limit)
    return (gate * torch.sigmoid(1.702 * gate) * (up + 1)).to(wide.dtype)


@torch.compile(disable=not FUSE, dynamic=False)
def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """`[tokens, hidden]`: rows `[tokens, active, hidden]` times weights `[tokens, active]`, added over the experts."""
    return (rows.float() * weights.unsqueeze(-1)).sum(1).to(rows.dtype)
