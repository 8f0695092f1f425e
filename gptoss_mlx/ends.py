"""What comes before a model's first decoder layer and after its last: from token ids to the residual stream, and from
there to what is wanted.

Owns: that interface, and how a whole model does it. Does not own: what a machine that holds a part of a model does
instead (`distributed`), nor the layers between.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import mlx.core as mx

from gptoss_mlx.ops import Norm, Projection, current_ops

Wanted: TypeAlias = Literal["logits", "last_logits", "tokens", "last_token", "nothing"]
"""What of a pass is wanted: logits after every token or after the last one, the most probable token after every token
or after the last one, or no more than that the tokens are read."""


class Ends(Protocol):
    """The two ends of a model."""

    def embed(self, tokens: mx.array) -> mx.array:
        """The residual stream `[batch, seq, hidden]` before the first layer, of integers `tokens` `[batch, seq]`."""
        ...

    def finish(self, x: mx.array, wanted: Wanted) -> mx.array:
        """What is wanted of the residual stream `x` after the last layer.

        Logits are float32 `[batch, seq or 1, vocab]`, tokens uint32 `[batch, seq or 1]`, of equals the lowest; for
        nothing, `x`.
        """
        ...


@dataclass(frozen=True, slots=True)
class WholeEnds:
    """The ends of a model that lies in this process as a whole."""

    embedding: Projection
    """`[vocab, hidden]`."""
    norm: Norm
    lm_head: Projection
    """`[vocab, hidden]`."""
    dtype: mx.Dtype
    """Of the residual stream."""

    def embed(self, tokens: mx.array) -> mx.array:
        return current_ops().embed(tokens, self.embedding, self.dtype)

    def finish(self, x: mx.array, wanted: Wanted) -> mx.array:
        if wanted == "nothing":
            return x
        x = last_where_wanted(x, wanted)
        if wanted in ("tokens", "last_token"):
            return current_ops().norm_lm_head_argmax(x, self.norm, self.lm_head)
        return current_ops().norm_lm_head(x, self.norm, self.lm_head)


def last_where_wanted(x: mx.array, wanted: Wanted) -> mx.array:
    """`x` `[batch, seq, hidden]`, only its last position where nothing is wanted of the others."""
    return x[:, -1:] if wanted in ("last_logits", "last_token") and x.shape[1] > 1 else x
