"""The parts of a model that take part in collectives: the halves of a decoder layer in tensor mode, and the ends of a
model in either mode.

    tensor    attention of some heads ── o_proj's part ── (sum) ── experts' columns ── down's part ── (sum)
    pipeline  (from the rank before) ── whole layers ── (to the rank after); from the last, the result to all

Owns: where in a model something goes over the wire. Does not own: how (`wire`), nor what a layer computes.
"""

from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.attention import Attention
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.distributed.plan import Plan, Span, TensorShare
from gptoss_mlx.distributed.wire import Wire
from gptoss_mlx.ends import Wanted, WholeEnds, last_where_wanted
from gptoss_mlx.moe import Experts
from gptoss_mlx.ops import Norm, Projection, current_ops


@dataclass(frozen=True, slots=True)
class AttentionPart(Attention):
    """Some heads of one decoder layer's attention."""

    wire: Wire

    def finish(self, attended: mx.array, x: mx.array) -> mx.array:
        part = current_ops().linear_residual(attended, self.output, self.wire.nothing(x))
        return self.wire.add_parts(x, part)


@dataclass(frozen=True, slots=True)
class ExpertsPart(Experts):
    """Some columns of each of one decoder layer's experts, and all of the router."""

    wire: Wire

    def __call__(self, x: mx.array) -> mx.array:
        return self.wire.add_parts(x, self.add_to(self.wire.nothing(x), x))


def part_of(layer: DecoderLayer, wire: Wire) -> DecoderLayer:
    """`layer`, which holds one rank's part of a decoder layer, as one that adds up with the other ranks'."""
    attention, experts = layer.attention, layer.experts
    return DecoderLayer(
        AttentionPart(attention.norm, attention.qkv, attention.output, attention.sinks, attention.heads, wire=wire),
        ExpertsPart(
            experts.norm,
            experts.router,
            experts.gate_up,
            experts.down,
            experts.experts_per_token,
            experts.swiglu_limit,
            experts.swiglu_alpha,
            wire=wire,
        ),
    )


@dataclass(frozen=True, slots=True)
class TensorEnds:
    """The ends of a model whose embedding and lm_head lie in parts on all ranks, some rows on each."""

    embedding: Projection
    norm: Norm
    lm_head: Projection
    dtype: mx.Dtype
    vocab: tuple[Span, ...]
    """Every rank's rows."""
    wire: Wire

    def embed(self, tokens: mx.array) -> mx.array:
        """As in a whole model: who has the row sends it, the others zeros."""
        own = self.vocab[self.wire.rank]
        mine = mx.logical_and(tokens >= own.start, tokens < own.stop)
        rows = current_ops().embed(mx.where(mine, tokens - own.start, 0), self.embedding, self.dtype)
        return self.wire.sum_of(mx.where(mine[..., None], rows, mx.zeros((), dtype=self.dtype)))

    def finish(self, x: mx.array, wanted: Wanted) -> mx.array:
        """As in a whole model; logits are put together from all ranks', of tokens only the best of each rank."""
        if wanted == "nothing":
            return x
        x, ops = last_where_wanted(x, wanted), current_ops()
        if wanted in ("tokens", "last_token"):
            return self._best(*ops.norm_lm_head_best(x, self.norm, self.lm_head))
        logits = ops.norm_lm_head(x, self.norm, self.lm_head)
        # Whoever has fewer rows fills up: parts that are gathered are alike.
        room = max(span.size for span in self.vocab) - logits.shape[-1]
        parts = self.wire.gather(mx.pad(logits, [(0, 0), (0, 0), (0, room)]) if room else logits)
        own = [part[0, ..., : span.size] for part, span in zip(parts, self.vocab, strict=True)]
        return mx.concatenate(own, axis=-1) if len(own) > 1 else logits

    def _best(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Of every rank's most probable tokens, numbered from its first row, and their logits: the best of all."""
        pair = mx.stack([logits.view(mx.uint32), tokens.astype(mx.uint32) + self.vocab[self.wire.rank].start])
        parts = [part.reshape(pair.shape) for part in self.wire.gather(pair)]
        # The first of equal ones: ranks have their rows in order.
        best = mx.argmax(mx.stack([part[0].view(mx.float32) for part in parts]), axis=0, keepdims=True)
        return mx.take_along_axis(mx.stack([part[1] for part in parts]), best, axis=0)[0]


@dataclass(frozen=True, slots=True)
class PipelineEnds:
    """The ends of some whole layers: ranks hand on the residual stream, and the last one's result goes round."""

    whole: WholeEnds
    """Of the model; embedding and lm_head have no rows where another rank has them."""
    hidden_size: int
    vocab_size: int
    wire: Wire

    def embed(self, tokens: mx.array) -> mx.array:
        """The residual stream before this rank's layers."""
        if self.wire.rank == 0:
            return self.whole.embed(tokens)
        return self.wire.receive((*tokens.shape, self.hidden_size), self.whole.dtype, self.wire.rank - 1)

    def finish(self, x: mx.array, wanted: Wanted) -> mx.array:
        """As in a whole model, on every rank; for nothing, the residual stream after this rank's layers.

        What is sent is queued at once: the next rank waits for it, and this one may not look at it.
        """
        rank, last = self.wire.rank, self.wire.size - 1
        if rank < last:
            x = self.wire.send(x, rank + 1)
            mx.async_eval(x)  # type: ignore[no-untyped-call]
        if wanted == "nothing" or last == 0:
            return self.whole.finish(x, wanted)
        if rank == last:
            result = self.whole.finish(x, wanted)
        else:
            seq = 1 if wanted in ("last_logits", "last_token") else x.shape[1]
            tokens = wanted in ("tokens", "last_token")
            shape = (x.shape[0], seq) if tokens else (x.shape[0], seq, self.vocab_size)
            result = self.wire.receive(shape, mx.uint32 if tokens else mx.float32, (rank - 1) % self.wire.size)
        # The last rank's right neighbour is the first, which needs the result before all others.
        if rank != last - 1:
            result = self.wire.send(result, (rank + 1) % self.wire.size)
        mx.async_eval(result)  # type: ignore[no-untyped-call]
        return result


def tensor_ends(whole: WholeEnds, plan: Plan, wire: Wire) -> TensorEnds:
    """The ends of a tensor plan, of one rank's rows."""
    vocab = tuple(share.vocab for share in plan.shares if isinstance(share, TensorShare))
    return TensorEnds(whole.embedding, whole.norm, whole.lm_head, whole.dtype, vocab, wire)
