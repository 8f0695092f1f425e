"""Which part of each of our tensors a rank reads.

Owns: from a share to rows and columns of tensors, and to bytes. Does not own: reading them (`shard_source`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.config import MXFP4_GROUP, ModelConfig
from gptoss_mlx.distributed.plan import PipelineShare, Plan, Span, TensorShare
from gptoss_mlx.errors import UsageError
from gptoss_mlx.layouts import OURS, WORD_BITS, Recipe


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of one tensor: some spans along one axis, everything along the others."""

    axis: int
    spans: tuple[Span, ...]

    @property
    def count(self) -> int:
        """Places along the axis that are left."""
        return sum(span.size for span in self.spans)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the part of a tensor of this shape."""
        return (*shape[: self.axis], self.count, *shape[self.axis + 1 :])

    def takes_columns(self, shape: tuple[int, ...]) -> bool:
        """Whether rows are cut inside, so that the part is strewn over all of the tensor's bytes."""
        return self.axis > 0 and self.axis == len(shape) - 1


def make_cuts(checkpoint: Checkpoint, plan: Plan, rank: int) -> dict[str, Cut | None]:
    """What `rank` reads: the cut of each of our tensors that it needs, by name; None for a whole one.

    Raises `UsageError` where a quantised o_proj has groups of columns that lie on two ranks.
    """
    share = plan.shares[rank]
    if isinstance(share, PipelineShare):
        return _whole_layers(checkpoint.recipes, share.layers, first=rank == 0, last=rank == plan.size - 1)
    return _part_of_layers(checkpoint, share, first=rank == 0)


def _whole_layers(recipes: Mapping[str, Recipe], layers: Span, *, first: bool, last: bool) -> dict[str, Cut | None]:
    starts = [OURS.layer.format(number) for number in range(layers.start, layers.stop)]
    starts += [f"{OURS.embedding}."] if first else []
    starts += [f"{OURS.lm_head}."] if last else []
    return {name: None for name in recipes if name == OURS.norm or name.startswith(tuple(starts))}


def _part_of_layers(checkpoint: Checkpoint, share: TensorShare, *, first: bool) -> dict[str, Cut | None]:
    config = checkpoint.config
    cuts: dict[str, Cut | None] = dict.fromkeys(checkpoint.recipes)
    rows = Cut(0, (share.vocab,))
    for projection in (OURS.embedding, OURS.lm_head):
        cuts |= {name: rows for name in cuts if name.startswith(f"{projection}.")}
    qkv, query = Cut(0, _qkv_rows(config, share.kv_heads)), _query_heads(config, share.kv_heads)
    words, groups = MXFP4_GROUP // 4 // 2, MXFP4_GROUP
    assert words * 8 == groups, "a block of MXFP4 is four words"
    for number in range(config.num_hidden_layers):
        prefix = OURS.layer.format(number)
        for name in [name for name in cuts if name.startswith(f"{prefix}{OURS.qkv[0]}.")]:
            cuts[name] = qkv
        cuts[prefix + OURS.sinks] = Cut(0, (query,))
        cuts |= _output_cuts(checkpoint, prefix + OURS.output, query.times(config.head_dim))
        for name in (*OURS.gate_up.blocks, *OURS.gate_up.scales, *OURS.gate_up.bias):
            # gate and up by turns: a pair of rows for each column inside.
            cuts[prefix + name] = Cut(1, (share.inner.times(2),))
        blocks = Span(share.inner.start // MXFP4_GROUP, share.inner.stop // MXFP4_GROUP)
        cuts[prefix + OURS.down.blocks[0]] = Cut(2, (blocks.times(words),))
        cuts[prefix + OURS.down.scales[0]] = Cut(2, (blocks,))
        if not first:
            # Added once, by rank 0.
            del cuts[prefix + OURS.down.bias[0]], cuts[f"{prefix}{OURS.output}.bias"]
    return cuts


def _output_cuts(checkpoint: Checkpoint, name: str, columns: Span) -> dict[str, Cut | None]:
    """The cuts of o_proj, whose columns are what the heads attended to."""
    affine = checkpoint.affine_of(name)
    if affine is None:
        return {f"{name}.weight": Cut(1, (columns,))}
    if columns.start % affine.group_size or columns.stop % affine.group_size:
        raise UsageError(
            f"{name} is quantised in groups of {affine.group_size} columns and the plan cuts it at {columns.start} "
            f"and {columns.stop}; expected multiples of the group: use pipeline mode, or weights with smaller groups"
        )
    words = Span(*(column * affine.bits // WORD_BITS for column in columns))
    groups = Span(*(column // affine.group_size for column in columns))
    return {
        f"{name}.weight": Cut(1, (words,)),
        f"{name}.scales": Cut(1, (groups,)),
        f"{name}.biases": Cut(1, (groups,)),
    }


def _query_heads(config: ModelConfig, kv_heads: Span) -> Span:
    return kv_heads.times(config.num_attention_heads // config.num_key_value_heads)


def _qkv_rows(config: ModelConfig, kv_heads: Span) -> tuple[Span, Span, Span]:
    """Rows of q, k and v, stacked in this order."""
    query, kv = config.num_attention_heads, config.num_key_value_heads
    own = _query_heads(config, kv_heads)
    spans = (own, Span(query + kv_heads.start, query + kv_heads.stop), Span(*(query + kv + head for head in kv_heads)))
    first, second, third = (span.times(config.head_dim) for span in spans)
    return first, second, third


def cut_values(recipe: Recipe, cut: Cut | None) -> int:
    """Values of the part of a tensor, in items of our tensor's dtype."""
    return math.prod(recipe.shape if cut is None else cut.shape(recipe.shape))
