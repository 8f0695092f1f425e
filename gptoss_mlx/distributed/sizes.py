"""What a share is in bytes, from a model's shape alone: to hold, and to read for each token.

Owns: bytes of what plans divide, for weights as published or with quantised dense ones. Does not own: a checkpoint's
own sizes to the byte (`load.shard_bytes`). Knows no MLX.
"""

from dataclasses import dataclass
from typing import Final

from gptoss_mlx.config import MXFP4_GROUP, ModelConfig
from gptoss_mlx.distributed.plan import PipelineShare, Plan, share_config

AFFINE_GROUP: Final = 64
"""Values that share a scale and an offset in quantised dense weights, as `convert` makes them."""

EXPERT_BYTES: Final = 1 / 2 + 1 / MXFP4_GROUP
"""Of a value in MXFP4."""

KV_SPARE_TOKENS: Final = 384
"""Positions that a KV cache has room for beside those it holds, at most."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of everything that plans divide, in a model of this shape."""

    config: ModelConfig
    dense_bits: int | None = None
    """Bits of dense weights where they are quantised; None as published."""
    value_bytes: int = 2
    """Of activations, KV cache and dense weights that are not quantised: 2, or 4 for float32."""

    @property
    def kv_head(self) -> float:
        """One key/value head of every layer, with the query heads that it serves."""
        config = self.config
        group = config.num_attention_heads // config.num_key_value_heads
        rows = (group + 2) * config.head_dim
        weights = self._dense * (rows * config.hidden_size + config.hidden_size * group * config.head_dim)
        return config.num_hidden_layers * (weights + self.value_bytes * (rows + group))

    @property
    def inner_column(self) -> float:
        """One column inside every expert of every layer."""
        config = self.config
        return (
            config.num_hidden_layers
            * config.num_experts
            * (3 * config.hidden_size * EXPERT_BYTES + 2 * self.value_bytes)
        )

    @property
    def vocab_row(self) -> float:
        """One row of lm_head; one of the embedding is as many bytes."""
        return self._dense * self.config.hidden_size

    @property
    def everywhere(self) -> float:
        """What every rank of a tensor plan holds: norms and routers; and biases that are added once, or their zeros."""
        config = self.config
        layer = self.value_bytes * 2 * config.hidden_size + config.num_experts * (
            self._dense * config.hidden_size + self.value_bytes
        )
        return config.num_hidden_layers * layer + self.value_bytes * config.hidden_size

    @property
    def first(self) -> float:
        """What the first rank of a tensor plan holds besides: biases that are added once."""
        config = self.config
        return config.num_hidden_layers * self.value_bytes * config.hidden_size * (1 + config.num_experts)

    @property
    def others(self) -> float:
        """What every other rank holds in their place."""
        return self.value_bytes * self.config.num_experts * self.config.hidden_size

    @property
    def layer(self) -> float:
        """One whole decoder layer."""
        config = self.config
        divided = config.num_key_value_heads * self.kv_head + config.intermediate_size * self.inner_column
        norm = self.value_bytes * config.hidden_size
        return (divided + self.everywhere - norm + self.first) / config.num_hidden_layers

    def held(self, plan: Plan, rank: int) -> int:
        """Bytes of the weights of `rank`."""
        share, config = plan.shares[rank], self.config
        if isinstance(share, PipelineShare):
            ends = (rank == 0) + (rank == plan.size - 1)
            norm = self.value_bytes * config.hidden_size
            return round(share.layers.size * self.layer + ends * config.vocab_size * self.vocab_row + norm)
        return round(
            share.kv_heads.size * self.kv_head
            + share.inner.size * self.inner_column
            + share.vocab.size * 2 * self.vocab_row
            + self.everywhere
            + (self.others if rank else self.first)
        )

    def read(self, plan: Plan, rank: int) -> int:
        """Bytes of weights that `rank` reads for each token: of the experts those that it visits, of the embedding a
        row at most.
        """
        share, config = plan.shares[rank], self.config
        own = share_config(config, share)
        experts = own.num_hidden_layers * own.intermediate_size * self.inner_column / config.num_hidden_layers
        asleep = experts * (1 - config.num_experts_per_tok / config.num_experts)
        if isinstance(share, PipelineShare):
            return round(self.held(plan, rank) - asleep - (rank == 0) * config.vocab_size * self.vocab_row)
        return round(self.held(plan, rank) - asleep - share.vocab.size * self.vocab_row)

    def kv(self, plan: Plan, rank: int, context: int) -> int:
        """Bytes of the KV cache of `rank`, with room for `context` tokens."""
        own = share_config(self.config, plan.shares[rank])
        tokens = context + KV_SPARE_TOKENS
        return own.kv_bytes_per_token(self.value_bytes) * tokens + own.kv_window_bytes(self.value_bytes)

    @property
    def _dense(self) -> float:
        """Bytes of a dense weight's value."""
        return self.value_bytes if self.dense_bits is None else self.dense_bits / 8 + 4 / AFFINE_GROUP
