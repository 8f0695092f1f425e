"""Batched generation with the torch network, to measure a model while it trains. The product has its own."""

import copy

import torch
from torch import Tensor

from gptoss_mlx.pocket.network import DecoderLayer, Network, linear, rotate
from gptoss_mlx.pocket.quantise import round_mxfp4


def rounded_copy(network: Network) -> Network:
    """The network as its checkpoint holds it: experts rounded to MXFP4, the rest to bfloat16; float32 tensors."""
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if name.endswith(("experts.gate_up", "experts.down")):
                parameter.copy_(round_mxfp4(parameter))
            else:
                parameter.copy_(parameter.bfloat16().float())
    return rounded


class CachedDecoder:
    """Steps a batch of sequences forward, keys and values kept by position."""

    def __init__(self, network: Network, batch: int, length: int) -> None:
        dims = network.dims
        self.network = network
        shape = (dims.num_layers, batch, dims.num_key_value_heads, length, dims.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)

    def keep(self, rows: Tensor) -> None:
        """Drops every sequence but those."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Hidden states `[batch, seq, hidden]` of the tokens at those positions `[batch, seq]`, without gradients."""
        network = self.network
        angles = positions.float().unsqueeze(-1) * network.frequencies
        cos, sin = (angles.cos() * network.rope_factor).unsqueeze(1), (angles.sin() * network.rope_factor).unsqueeze(1)
        x = network.embedding[ids]
        end = int(positions.max()) + 1
        distance = positions.unsqueeze(-1) - torch.arange(end)
        for index, layer in enumerate(network.layers):
            assert isinstance(layer, DecoderLayer)
            seen = distance >= 0
            if index % 2 == 0:
                seen = seen & (distance < network.dims.sliding_window)
            x = x + self.attend(index, layer, layer.attention_norm(x), positions, cos, sin, seen.unsqueeze(1))
            mixed, _, _ = layer.experts(layer.experts_norm(x).view(-1, x.shape[-1]), None)
            x = x + mixed.view_as(x)
        normed: Tensor = network.norm(x)
        return normed

    def attend(
        self, index: int, layer: DecoderLayer, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, seen: Tensor
    ) -> Tensor:
        """Attention output of one layer; its keys and values go into the cache."""
        dims, attention = self.network.dims, layer.attention
        batch, seq, _ = x.shape
        heads, kv_heads, size = dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim
        qkv = linear(x, attention.qkv).view(batch, seq, heads + 2 * kv_heads, size).transpose(1, 2)
        rotated = rotate(qkv[:, : heads + kv_heads], cos, sin)
        place = positions.view(batch, 1, seq, 1).expand(-1, kv_heads, -1, size)
        self.keys[index].scatter_(2, place, rotated[:, heads:])
        self.values[index].scatter_(2, place, qkv[:, heads + kv_heads :])
        end = seen.shape[-1]
        repeat = heads // kv_heads
        keys = self.keys[index, :, :, :end].repeat_interleave(repeat, 1)
        values = self.values[index, :, :, :end].repeat_interleave(repeat, 1)
        scores = (rotated[:, :heads] @ keys.mT * size**-0.5).masked_fill(~seen, float("-inf"))
        sinks = attention.sinks.view(1, -1, 1, 1).expand(batch, -1, seq, 1)
        weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1]
        return linear((weights @ values).transpose(1, 2).reshape(batch, seq, heads * size), attention.out)


def generate_batch(
    network: Network, prompts: list[list[int]], stop_ids: frozenset[int], max_tokens: int, temperature: float, seed: int
) -> list[list[int]]:
    """The tokens that follow each prompt, the stop token included if one came. Temperature 0 is greedy."""
    with torch.no_grad():
        random = torch.Generator().manual_seed(seed)
        lengths = [len(prompt) for prompt in prompts]
        decoder = CachedDecoder(network, len(prompts), max(lengths) + max_tokens)
        padded = torch.tensor([prompt + [0] * (max(lengths) - len(prompt)) for prompt in prompts])
        hidden = decoder.step(padded, torch.arange(max(lengths)).expand_as(padded))
        last = hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
        made: list[list[int]] = [[] for _ in prompts]
        active = list(range(len(prompts)))
        for _ in range(max_tokens):
            logits = last @ network.head.T
            if temperature > 0:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=random).squeeze(1)
            else:
                chosen = logits.argmax(-1)
            kept = []
            for row, (prompt, token) in enumerate(zip(active, chosen.tolist(), strict=True)):
                made[prompt].append(token)
                if token not in stop_ids:
                    kept.append(row)
            if not kept:
                break
            if len(kept) < len(active):
                rows = torch.tensor(kept)
                decoder.keep(rows)
                chosen = chosen[rows]
                active = [active[row] for row in kept]
            positions = torch.tensor([[lengths[prompt] + len(made[prompt]) - 1] for prompt in active])
            last = decoder.step(chosen.unsqueeze(1), positions)[:, 0]
        return made
