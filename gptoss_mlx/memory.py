"""What a model takes of this machine's memory, reckoned before it is taken; one reckoning for all who ask.

    weights ── as they will lie in memory
    KV cache ── of so many tokens: full layers grow, sliding layers do not
    activations ── of one prefill chunk: what a decoder layer makes, and a full layer's rows while their array grows
    buffers ── what MLX keeps of freed memory, up to `cache_limit`
    process ── Python, MLX, the tokenizer

Their sum is held against `memory_limit`: what Metal recommends to use, or without Metal the machine's memory. Of a long
prompt, only the chunk can be made smaller: `fitting_chunk` halves it while it does not fit. The bytes of activations
are derived from the operations (`ops`): on a processor arrays are freed as soon as nobody needs them, and what remains
was measured; on a GPU a command buffer keeps what it works on, so everything that a decoder layer makes is counted.

Owns: the numbers. Does not own: MLX's settings and what happens when memory is short after all (`memory_limits`), the
bytes of weights (`weights`).
"""

from dataclasses import dataclass
from typing import Final

from gptoss_mlx.cache import GROWTH_TOKENS, RECENT_TOKENS
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import Device
from gptoss_mlx.errors import NotEnoughMemory

PREFILL_CHUNK_TOKENS: Final = 512
"""Prompt tokens read in one evaluation by default."""

LEAST_CHUNK_TOKENS: Final = 32
"""The prefill chunk is not made smaller than this for want of memory: below, reading takes ever longer and saves
little."""

LEAST_CONTEXT_TOKENS: Final = 4096
"""A context length that is not asked for is at least this (or the model's own, if that is less): a machine that has no
room for it has none for the model."""

RESERVE_BYTES: Final = 8 << 30
"""What is never wired, at the least."""

RESERVE_SHARE: Final = 0.35
"""The same as a share of the memory; the larger counts. Macs froze when more was wired."""

CACHE_SHARE: Final = 1 / 16
"""What MLX may keep of freed memory, as a share of the machine's."""

MOST_CACHE_BYTES: Final = 1 << 30
"""The same at most: several times what a prefill chunk makes."""

PROCESS_BYTES: Final = 256 << 20
"""Python, its modules, MLX and a tokenizer of 200,000 words, with room to spare."""

EXPANDED_BYTES: Final = 8 << 20
"""What a thread of the processor's products holds at most: rows of a weight, their codes, and their product."""

SCORES_BYTES: Final = 2 << 24
"""What a thread of the processor's attention holds at most: scores as float32, and a copy of a part."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a model takes with so many tokens of context, in bytes, and what there is. Computed, not measured."""

    context: int
    """Tokens that `kv_bytes` is for."""
    prefill_chunk: int
    """Tokens that `activation_bytes` is for."""
    weights_bytes: int
    kv_bytes: int
    activation_bytes: int
    buffer_bytes: int
    """What MLX may keep of freed memory, and the process itself."""
    limit_bytes: int
    """What Metal recommends to use; without Metal, what the machine has."""
    on_metal: bool
    """Whether `limit_bytes` is Metal's figure."""

    @property
    def needed_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.activation_bytes + self.buffer_bytes

    @property
    def fits(self) -> bool:
        """Whether it is at most the limit."""
        return self.needed_bytes <= self.limit_bytes

    def sentence(self, name: str) -> str:
        """The figures for an error or a line of a table; `name` says whose they are."""
        limit = "Metal recommends" if self.on_metal else "this machine has"
        return (
            f"{name} takes {gigabytes(self.needed_bytes)} of memory with {self.context:,} tokens of context "
            f"({gigabytes(self.weights_bytes)} weights, {gigabytes(self.kv_bytes)} KV cache, "
            f"{gigabytes(self.activation_bytes + self.buffer_bytes)} activations and buffers) and {limit} "
            f"{gigabytes(self.limit_bytes)}"
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """A model as far as memory goes: reckons for any length."""

    config: ModelConfig
    weights_bytes: int
    """As they lie in memory."""
    value_bytes: int
    """Bytes of one value of activations and KV cache: 2, or 4 for float32."""

    def estimate(self, device: Device, context: int, prefill_chunk: int = PREFILL_CHUNK_TOKENS) -> MemoryEstimate:
        """What it takes on `device` with a KV cache of `context` tokens, read `prefill_chunk` at a time."""
        return MemoryEstimate(
            context=context,
            prefill_chunk=prefill_chunk,
            weights_bytes=self.weights_bytes,
            kv_bytes=kv_bytes(self.config, context, self.value_bytes),
            activation_bytes=activation_bytes(self.config, device, self.value_bytes, prefill_chunk, context),
            buffer_bytes=cache_limit(device) + PROCESS_BYTES,
            limit_bytes=memory_limit(device),
            on_metal=device.working_set_bytes is not None,
        )

    def longest_context(self, device: Device) -> int:
        """Tokens of context that fit `device`, at most what the model was made for.

        A multiple of 256, or the model's own; 0 when none fit.
        """
        longest = self.config.max_position_embeddings
        if self.estimate(device, longest).fits:
            return longest
        least, most = 0, longest // GROWTH_TOKENS
        # The largest number of steps that fits lies in [least, most).
        while most - least > 1:
            middle = (least + most) // 2
            fits = self.estimate(device, middle * GROWTH_TOKENS).fits
            least, most = (middle, most) if fits else (least, middle)
        return least * GROWTH_TOKENS

    def choose_context(self, device: Device, context: int | None, name: str, *, force: bool = False) -> int:
        """The context length to load with: `context` if that is given, else the longest that fits.

        Raises `NotEnoughMemory`, with figures and advice, when it does not fit; `force` goes on: then what is not given
        is `LEAST_CONTEXT_TOKENS`, or the model's own length if that is less.
        """
        longest = self.longest_context(device)
        least = min(LEAST_CONTEXT_TOKENS, self.config.max_position_embeddings)
        chosen = max(longest, least) if context is None else context
        estimate = self.estimate(device, chosen)
        if force or estimate.fits:
            return chosen
        advice = (
            f"a context of {longest:,} tokens fits"
            if longest >= GROWTH_TOKENS
            else "close what else needs memory, or take a smaller model or dense weights of fewer bits"
        )
        raise NotEnoughMemory(f"{estimate.sentence(name)}; {advice}, and force (--force) tries nevertheless")


def memory_limit(device: Device) -> int:
    """Bytes that a model may take: what Metal recommends to keep resident; without Metal, the machine's memory."""
    return device.memory_bytes if device.working_set_bytes is None else device.working_set_bytes


def wired_limit(device: Device) -> int:
    """Bytes that may be wired at most, so that the system and other programs keep a reserve; 0: none.

    The reserve is 8 GiB or 35 % of the memory, whichever is larger.
    """
    reserve = max(RESERVE_BYTES, round(RESERVE_SHARE * device.memory_bytes))
    return max(0, min(device.memory_bytes - reserve, memory_limit(device)))


def cache_limit(device: Device) -> int:
    """Bytes that MLX may keep of freed memory: 1/16 of the machine's, at most 1 GiB; without a GPU it keeps none."""
    if not device.gpu:
        return 0
    return min(MOST_CACHE_BYTES, round(CACHE_SHARE * device.memory_bytes))


def kv_bytes(config: ModelConfig, tokens: int, value_bytes: int) -> int:
    """Bytes of a KV cache that holds `tokens`, with the room that is kept ahead of them."""
    positions = -(-tokens // GROWTH_TOKENS) * GROWTH_TOKENS + RECENT_TOKENS
    return config.kv_bytes_per_token(value_bytes) * positions + config.kv_window_bytes(value_bytes)


def activation_bytes(config: ModelConfig, device: Device, value_bytes: int, chunk: int, context: int) -> int:
    """Bytes that reading `chunk` tokens takes besides weights and KV cache, at most, `context` being there in the end.

    Derived from the operations of a decoder layer; see the module's text.
    """
    hidden, inner, pairs = config.hidden_size, config.intermediate_size, config.num_experts_per_tok
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    full_layers = max(1, config.layer_types.count("full_attention"))
    # A full layer's rows are there twice while the array that holds them grows.
    growing = config.kv_bytes_per_token(value_bytes) // full_layers * context
    if device.gpu:
        # Of each pair: its token, gate and up three times, six times the activation inside, its outputs six times.
        expert_values = pairs * (hidden + 6 * inner + 6 * inner + 6 * hidden)
        # Rotated in float32, which counts twice; queries and outputs again for attention.
        attention_values = 5 * (query + 2 * kv) + 3 * query + 4 * hidden
        return chunk * value_bytes * (expert_values + attention_values) + growing
    # In float32 whatever the model's dtype is. Products come out of numpy and are copied.
    experts = 4 * chunk * (pairs * (2 * hidden + 6 * inner) + 3 * hidden)
    attention = 4 * chunk * (4 * (query + 2 * kv) + 3 * hidden)
    group = config.num_attention_heads // config.num_key_value_heads
    threads = min(device.cpu_cores, config.num_key_value_heads)
    scores = threads * min(SCORES_BYTES, 8 * group * chunk * context)
    # A key/value head at a time is copied where it is not float32 already.
    heads = threads * 2 * 4 * config.head_dim * context
    return max(experts, attention + scores + heads) + device.cpu_cores * EXPANDED_BYTES + growing


def fitting_chunk(
    needs: Needs,
    device: Device,
    *,
    wanted: int,
    offset: int,
    active_bytes: int,
    held_bytes: int,
    logits: bool = False,
) -> int:
    """Tokens to read next, `offset` being read: `wanted`, halved while they do not fit, at least 32.

    `active_bytes` are what MLX holds now, of which this KV cache's `held_bytes`; with `logits` those of every token are
    made, too, twice.
    """
    logit_bytes = 2 * 4 * needs.config.vocab_size if logits else 0
    chunk = wanted
    while chunk > LEAST_CHUNK_TOKENS:
        reached = offset + chunk
        grown = max(0, kv_bytes(needs.config, reached, needs.value_bytes) - held_bytes)
        activations = activation_bytes(needs.config, device, needs.value_bytes, chunk, reached)
        activations += chunk * logit_bytes
        if active_bytes + grown + activations + PROCESS_BYTES <= memory_limit(device):
            break
        chunk = max(LEAST_CHUNK_TOKENS, chunk // 2)
    return chunk


def gigabytes(number: int) -> str:
    """Bytes for people who compare them with a disk or a download: in 10^9, or 10^6 when there are few."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
