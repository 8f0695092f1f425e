"""How large each machine's share is to be: by its memory, and in the mode that is faster.

Owns: the division, and whether it fits. Does not own: bytes (`sizes`), seconds (`cost`). Knows no MLX.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

from gptoss_mlx.config import MXFP4_GROUP, ModelConfig
from gptoss_mlx.distributed.cost import estimate
from gptoss_mlx.distributed.link import Link
from gptoss_mlx.distributed.plan import MODES, Mode, PipelineShare, Plan, Span, TensorShare
from gptoss_mlx.distributed.sizes import Sizes
from gptoss_mlx.errors import NotEnoughMemory, UsageError

RESERVE_BYTES: Final = 3 << 29
"""What a machine needs besides weights and KV cache: the process, buffers that MLX keeps, activations (1.5 GiB)."""

CONTEXT_TOKENS: Final = 4096
"""Context that is reckoned with when none is given."""


def make_plan(
    config: ModelConfig,
    memories: Sequence[int],
    *,
    mode: Mode | None = None,
    link: Link | None = None,
    bandwidths: Sequence[float | None] | None = None,
    context: int = CONTEXT_TOKENS,
    dense_bits: int | None = None,
    value_bytes: int = 2,
    reserve_bytes: int = RESERVE_BYTES,
) -> Plan:
    """The plan for machines with these bytes of memory for a model (what Metal recommends to use), in order of rank.

    Shares are as large as memories are. Where all `bandwidths` (bytes per second of their memories) are known and the
    model then fits, it is those: tensor shares are as large as they, so that all machines are done at once, and in a
    pipeline the fastest machines have all that they have room for. Without a `mode`, the
    one in which a token is reckoned to take less, with that `link`. `dense_bits` and `value_bytes` are as in `Sizes`.

    Raises `NotEnoughMemory` with figures where the model does not fit with `context` tokens, `UsageError` where it
    cannot be divided among so many.
    """
    sizes = Sizes(config, dense_bits, value_bytes)
    _check(memories, mode, bandwidths, context)
    room = [memory - reserve_bytes for memory in memories]
    found: list[Plan] = []
    errors: list[NotEnoughMemory | UsageError] = []
    for wanted in MODES if mode is None else (mode,):
        try:
            found.append(_plan(sizes, wanted, room, bandwidths, context))
        except (NotEnoughMemory, UsageError) as error:
            errors.append(error)
    if not found:
        # Want of memory says more than want of layers or heads.
        raise min(errors, key=lambda error: not isinstance(error, NotEnoughMemory))
    return min(found, key=lambda plan: estimate(sizes, plan, link, bandwidths).seconds)


def apportion(total: int, weights: Sequence[float], least: int = 1) -> list[int]:
    """`total` things divided as `weights` are, at least `least` each; `total` must be enough for that.

    Each is its exact part rounded down or up, unless that is below `least`.
    """
    assert total >= least * len(weights)
    counts = [least] * len(weights)
    open_to = set(range(len(weights)))
    while open_to:
        left = total - sum(counts[rank] for rank in range(len(weights)) if rank not in open_to)
        whole = sum(weights[rank] for rank in open_to)
        exact = {rank: left * weights[rank] / whole if whole > 0 else left / len(open_to) for rank in open_to}
        if below := {rank for rank, part in exact.items() if part < least}:
            open_to -= below
            continue
        for rank, part in exact.items():
            counts[rank] = int(part)
        rest = left - sum(counts[rank] for rank in open_to)
        for rank in sorted(open_to, key=lambda rank: (int(exact[rank]) - exact[rank], rank))[:rest]:
            counts[rank] += 1
        break
    return counts


def _check(memories: Sequence[int], mode: Mode | None, bandwidths: Sequence[float | None] | None, context: int) -> None:
    if not memories or any(memory <= 0 for memory in memories):
        raise UsageError(f"memories are {list(memories)}; expected bytes of at least one machine, each above 0")
    if mode is not None and mode not in MODES:
        raise UsageError(f"mode is {mode!r}; expected {' or '.join(map(repr, MODES))}")
    if bandwidths is not None and len(bandwidths) != len(memories):
        raise UsageError(f"there are {len(bandwidths)} bandwidths for {len(memories)} machines; expected one each")
    if context < 1:
        raise UsageError(f"context is {context}; expected at least 1")


def _plan(
    sizes: Sizes, mode: Mode, room: Sequence[int], bandwidths: Sequence[float | None] | None, context: int
) -> Plan:
    """The plan of that mode that fits. Raises as `make_plan` does where none does."""
    known = [bandwidth for bandwidth in bandwidths or () if bandwidth is not None]
    fast = None
    if mode == "pipeline":
        plan = _pipeline(sizes, room, context)
        if len(known) == len(room):
            fast = _pipeline(sizes, room, context, known)
    else:
        plan = _tensor(sizes, [max(bytes_left, 0) for bytes_left in room])
        if len(known) == len(room):
            fast = _tensor(sizes, known)
    if fast is not None and _shortage(sizes, fast, room, context) is None:
        return fast
    if (shortage := _shortage(sizes, plan, room, context)) is not None:
        raise NotEnoughMemory(shortage)
    return plan


def _tensor(sizes: Sizes, weights: Sequence[float]) -> Plan:
    """Shares whose bytes are as `weights` are: columns of the experts make up for what heads, which are few, do not."""
    config, ranks = sizes.config, len(weights)
    blocks = config.intermediate_size // MXFP4_GROUP
    for name, count in (("key/value heads", config.num_key_value_heads), ("MXFP4 blocks a row", blocks)):
        if count < ranks:
            raise UsageError(f"the model has {count} {name} and there are {ranks} machines; expected one each at least")
    heads = apportion(config.num_key_value_heads, weights)
    rows = apportion(config.vocab_size, weights)
    total = config.num_key_value_heads * sizes.kv_head + config.vocab_size * 2 * sizes.vocab_row
    total += config.intermediate_size * sizes.inner_column
    whole = sum(weights) or 1.0
    missing = [
        max(total * weight / whole - head * sizes.kv_head - row * 2 * sizes.vocab_row, 0.0)
        for weight, head, row in zip(weights, heads, rows, strict=True)
    ]
    columns = [MXFP4_GROUP * count for count in apportion(blocks, missing)]
    spans = zip(_spans(heads), _spans(columns), _spans(rows), strict=True)
    return Plan(tuple(TensorShare(*three) for three in spans))


def _pipeline(sizes: Sizes, room: Sequence[int], context: int, bandwidths: Sequence[float] | None = None) -> Plan:
    """Whole layers in order, such that the fullest machine is as little full as can be.

    With `bandwidths`, such that all weights are read in as little time as can be, where that fits.
    """
    config, ranks = sizes.config, len(room)
    layers, kinds = config.num_hidden_layers, set(config.layer_types)
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    """For each number of ranks: layers that they have -> what that costs at least, and where the last one's begin."""
    for rank in range(ranks):
        reached: dict[int, tuple[float, int]] = {}
        for begin, (before, _) in best[-1].items():
            for end in range(begin + 1, layers + 1) if rank < ranks - 1 else (layers,):
                if set(config.layer_types[begin:end]) != kinds:
                    continue
                needed, read = _pipeline_bytes(sizes, Span(begin, end), rank, ranks, context)
                if bandwidths is None:
                    cost = max(before, needed / max(room[rank], 1))
                else:
                    cost = before + read / bandwidths[rank] + (math.inf if needed > room[rank] else 0)
                if end not in reached or cost < reached[end][0]:
                    reached[end] = cost, begin
        best.append(reached)
    if layers not in best[-1]:
        raise UsageError(
            f"the model has {layers} layers and there are {ranks} machines; expected a sliding and a full one for "
            "each: use fewer machines, or tensor mode"
        )
    bounds = [layers]
    for reached in reversed(best[1:]):
        bounds.append(reached[bounds[-1]][1])
    return Plan(tuple(PipelineShare(Span(*pair)) for pair in itertools.pairwise(reversed(bounds))))


def _pipeline_bytes(sizes: Sizes, layers: Span, rank: int, ranks: int, context: int) -> tuple[int, int]:
    """What a rank with these layers takes, and what it reads for each token."""
    # In a plan of its own: what a rank holds depends on nobody else's layers.
    before = [PipelineShare(Span(0, layers.start))] if rank else []
    after = [PipelineShare(Span(layers.stop, layers.stop + 1))] if rank < ranks - 1 else []
    plan = Plan((*before, PipelineShare(layers), *after))
    place = len(before)
    return sizes.held(plan, place) + sizes.kv(plan, place, context), sizes.read(plan, place)


def _shortage(sizes: Sizes, plan: Plan, room: Sequence[int], context: int) -> str | None:
    """What there is no room for; None where everything fits."""
    held = [sizes.held(plan, rank) for rank in range(plan.size)]
    kv = [sizes.kv(plan, rank, context) for rank in range(plan.size)]
    over = [rank for rank in range(plan.size) if held[rank] + kv[rank] > room[rank]]
    if not over:
        return None
    rank = max(over, key=lambda rank: held[rank] + kv[rank] - room[rank])
    return (
        f"in {plan.mode} mode rank {rank} would hold {held[rank] / 1e9:.1f} GB of weights and {kv[rank] / 1e9:.1f} GB "
        f"of KV cache for {context:,} tokens, and it has room for {max(room[rank], 0) / 1e9:.1f} GB (all machines: "
        f"{(sum(held) + sum(kv)) / 1e9:.1f} of {sum(max(left, 0) for left in room) / 1e9:.1f} GB); add a machine, "
        "shorten the context, or take weights of fewer bits"
    )


def _spans(counts: Sequence[int]) -> list[Span]:
    bounds = [0, *itertools.accumulate(counts)]
    return [Span(*pair) for pair in itertools.pairwise(bounds)]
