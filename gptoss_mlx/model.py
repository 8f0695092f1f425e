"""gpt-oss: token ids in, logits out.

Owns: the stack of decoder layers between the embedding and lm_head. Does not own: reading weights (`weights`), choosing
tokens (`generate`), or text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.cache import FullLayerCache, KVCache, SlidingLayerCache
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import ContextOverflow
from gptoss_mlx.moe import Experts
from gptoss_mlx.ops import Norm, Projection, Rotation, current_ops
from gptoss_mlx.rope import YarnRope


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention, then experts, each added to the residual stream."""

    attention: Attention
    experts: Experts

    def __call__(self, x: mx.array, cache: FullLayerCache | SlidingLayerCache, rotation: Rotation) -> mx.array:
        """The residual stream `[batch, seq, hidden]` after this layer."""
        return self.experts(self.attention(x, cache, rotation))


class Model:
    """A gpt-oss of any size with its weights."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        embedding: Projection,
        layers: Sequence[DecoderLayer],
        norm: Norm,
        lm_head: Projection,
        dtype: mx.Dtype,
    ) -> None:
        self.config = config
        """The model's shape."""
        self.embedding = embedding
        """`[vocab, hidden]`, no bias."""
        self.layers = list(layers)
        """The decoder layers, first to last."""
        self.norm = norm
        """The last RMSNorm."""
        self.lm_head = lm_head
        """`[vocab, hidden]`, no bias."""
        self.dtype = dtype
        """The dtype of activations and of the KV cache."""
        self._rope = YarnRope(config.head_dim, config.rope)

    @property
    def runs_apart(self) -> bool:
        """Whether calling the model queues the work and comes back at once, rather than when it is done."""
        return current_ops().runs_apart(self.lm_head)

    def make_cache(self) -> KVCache:
        """An empty KV cache for this model."""
        return KVCache(self.config)

    def __call__(self, tokens: mx.array, cache: KVCache | None = None, *, last_only: bool = False) -> mx.array:
        """Logits, float32 `[batch, seq, vocab]`, or `[batch, 1, vocab]` of the last position with `last_only`.

        `tokens` are integers `[batch, seq]` below `vocab_size`, at the positions from `cache.offset` on; the cache
        takes them in. Where the model runs apart, nothing is computed before the result, or `cache.arrays`, is
        evaluated. Raises `ContextOverflow` when they would pass `max_position_embeddings`.
        """
        cache = self.make_cache() if cache is None else cache
        offset, seq = cache.offset, tokens.shape[1]
        if offset + seq > self.config.max_position_embeddings:
            raise ContextOverflow(offset + seq, self.config.max_position_embeddings)
        before = cache.snapshot()
        try:
            rotation = self._rope.rotation(offset, seq)
            x = current_ops().embed(tokens, self.embedding, self.dtype)
            for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
                x = layer(x, layer_cache, rotation)
            return current_ops().norm_lm_head(x[:, -1:] if last_only else x, self.norm, self.lm_head)
        except BaseException:
            # Some layers have taken the tokens in and others not: none may have.
            cache.restore(before)
            raise
