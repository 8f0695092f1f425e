"""One decoder layer: its two halves in order."""

from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.cache import FullLayerCache, SlidingLayerCache
from gptoss_mlx.moe import Experts
from gptoss_mlx.ops import Place


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention, then experts, each added to the residual stream."""

    attention: Attention
    experts: Experts

    def __call__(self, x: mx.array, cache: FullLayerCache | SlidingLayerCache, place: Place) -> mx.array:
        """The residual stream `[batch, seq, hidden]` after this layer."""
        return self.experts(self.attention(x, cache, place))
