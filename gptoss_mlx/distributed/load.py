"""A rank's share of a model, read from its own copy of the checkpoint.

Owns: the order of loading, what ranks agree on first, and that the failure of one is the failure of all. Does not own:
which bytes are read (`cuts`, `shard_source`), what becomes of them (`model_parts`, `parts`).
"""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import mlx.core as mx
import numpy as np

from gptoss_mlx.checkpoint import Checkpoint, open_checkpoint
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.distributed.cuts import Cut, make_cuts
from gptoss_mlx.distributed.parts import part_of
from gptoss_mlx.distributed.plan import PipelineShare, Plan, share_config
from gptoss_mlx.distributed.shard_source import ShardSource
from gptoss_mlx.distributed.sharded_model import ShardedModel
from gptoss_mlx.distributed.wire import Wire
from gptoss_mlx.errors import NotEnoughMemory, PeerFailed, UsageError, WeightsError
from gptoss_mlx.layouts import OURS, Recipe
from gptoss_mlx.memory import Needs
from gptoss_mlx.model_parts import EMBEDDING, PartReader, Progress
from gptoss_mlx.ops import Heads, Linear, Norm, Projection
from gptoss_mlx.tensor_file import TensorReader
from gptoss_mlx.tensor_source import TensorSource
from gptoss_mlx.weights import COMPUTE_DTYPES, choose_dtype, loaded_bytes

_Made = TypeVar("_Made")

_TELLING: Final = (OURS.norm, OURS.attention_norm, OURS.sinks, OURS.experts_norm, f"{OURS.router}.bias")
"""Small tensors, whose bytes tell one model from another."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a rank knows before it reads its share."""

    checkpoint: Checkpoint
    cuts: dict[str, Cut | None]
    dtype: mx.Dtype
    identity: int


def load_shard(
    folder: str | Path,
    plan: Plan,
    rank: int,
    group: mx.distributed.Group,
    *,
    dtype: mx.Dtype | None = None,
    wire_dtype: mx.Dtype | None = None,
    progress: Progress | None = None,
) -> ShardedModel:
    """The share of `rank` in the model that all ranks load together; each calls this, with its own `folder`.

    `folder` may be in another layout than other ranks', and holds the same model, all of it or at least the headers
    with this rank's bytes. `dtype` is as for `load_model`: None chooses by the machines, bfloat16 where they differ.
    `wire_dtype` is what parts of sums are sent in, by default that of the activations. `progress` is called with the
    bytes of this rank's share that were read, and all of them. The calling thread is the one to run the model.

    Raises what `load_model` raises, `UsageError` where plan, group and model do not belong together, and `PeerFailed`
    where another rank raised something; then all ranks do, and the group can still be used.
    """
    wire = Wire(group, dtype=wire_dtype)
    opened = _together(wire, lambda: _open(folder, plan, rank, wire, dtype))
    codes = [code for (code,) in wire.gather_ints([COMPUTE_DTYPES.index(opened.dtype)])]
    agreed = COMPUTE_DTYPES[codes[0]] if len(set(codes)) == 1 else mx.bfloat16
    identities = [identity for (identity,) in wire.gather_ints([opened.identity])]
    if len(set(identities)) > 1:
        other = next(number for number, identity in enumerate(identities) if identity != identities[0])
        raise WeightsError(
            f"rank {other} has another model than rank 0 (here it is {folder}); expected the same checkpoint on all "
            "machines: copy it from one of them"
        )
    parts = _together(wire, lambda: _read(opened, plan, rank, agreed, progress))
    embedding, layers, norm, lm_head = parts
    config = opened.checkpoint.config
    if plan.mode == "tensor":
        layers = [part_of(layer, wire) for layer in layers]
    return ShardedModel(
        config, plan, wire, embedding=embedding, layers=layers, norm=norm, lm_head=lm_head, dtype=agreed
    )


def shard_bytes(checkpoint: Checkpoint, plan: Plan, rank: int, dtype: mx.Dtype) -> int:
    """Bytes that the weights of `rank` take in memory when the model computes in `dtype`."""
    cuts, config = make_cuts(checkpoint, plan, rank), checkpoint.config
    # In place of the experts' biases that rank 0 adds, one array of zeros.
    zeros = config.num_experts * config.hidden_size * dtype.size if plan.mode == "tensor" and rank > 0 else 0
    return _loaded_bytes(checkpoint, cuts, dtype) + zeros


def shard_needs(
    checkpoint: Checkpoint, plan: Plan, rank: int, device: Device, *, dtype: mx.Dtype | None = None
) -> Needs:
    """What `rank` takes of the memory of `device`, its machine, for any length; of weights only headers were read."""
    cuts = make_cuts(checkpoint, plan, rank)
    dtype = dtype or choose_dtype(_cut_recipes(checkpoint, cuts), device)
    weights_bytes = shard_bytes(checkpoint, plan, rank, dtype)
    return Needs(share_config(checkpoint.config, plan.shares[rank]), weights_bytes, dtype.size)


def read_bytes(checkpoint: Checkpoint, plan: Plan, rank: int) -> int:
    """Bytes of tensors that `rank` reads from its files: its share, and all of tensors that are cut by columns."""
    source = ShardSource(checkpoint, cuts := make_cuts(checkpoint, plan, rank))
    whole = TensorSource(checkpoint).tensors
    return sum(
        whole[name].nbytes
        if (cut := cuts[name]) is not None and cut.takes_columns(whole[name].shape)
        else tensor.nbytes
        for name, tensor in source.tensors.items()
    )


def _together(wire: Wire, work: Callable[[], _Made]) -> _Made:
    """What `work` gives, once all ranks have done theirs. Raises its error, or `PeerFailed` when it was another's."""
    made: _Made | None = None
    error: Exception | None = None
    try:
        made = work()
    except Exception as raised:
        error = raised
    failed = [rank for rank, (fault,) in enumerate(wire.gather_ints([int(error is not None)])) if fault]
    if error is not None:
        raise error
    if failed:
        raise PeerFailed(
            f"rank {failed[0]} could not load its part of the model; what went wrong is said on that machine: put it "
            "right there and start again"
        )
    assert made is not None
    return made


def _open(folder: str | Path, plan: Plan, rank: int, wire: Wire, dtype: mx.Dtype | None) -> _Opened:
    if (rank, plan.size) != (wire.rank, wire.size):
        raise UsageError(
            f"rank {rank} of a plan for {plan.size} is rank {wire.rank} of a group of {wire.size}; expected the same"
        )
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise UsageError(f"dtype is {dtype}; expected mlx.core.float32, bfloat16 or float16")
    checkpoint, device = open_checkpoint(folder), this_device()
    plan.check(checkpoint.config)
    cuts = make_cuts(checkpoint, plan, rank)
    dtype = dtype or choose_dtype(_cut_recipes(checkpoint, cuts), device)
    needed = _loaded_bytes(checkpoint, cuts, dtype)
    if needed > device.memory_bytes:
        raise NotEnoughMemory(
            f"the share of rank {rank} in {folder} takes {needed / 2**30:.1f} GiB and this machine has "
            f"{device.memory_bytes / 2**30:.1f} GiB of memory; give it a smaller share or use another machine more"
        )
    return _Opened(checkpoint, cuts, dtype, _identity(checkpoint))


def _read(
    opened: _Opened, plan: Plan, rank: int, dtype: mx.Dtype, progress: Progress | None
) -> tuple[Projection, list[DecoderLayer], Norm, Projection]:
    checkpoint, config, device = opened.checkpoint, opened.checkpoint.config, this_device()
    share = plan.shares[rank]
    layers = share.layers if isinstance(share, PipelineShare) else None
    own = share_config(config, share)
    heads = Heads(own.num_attention_heads, own.num_key_value_heads, own.head_dim)
    source = ShardSource(checkpoint, opened.cuts)
    nothing = Linear(mx.zeros((0, config.hidden_size), dtype=dtype))
    with closing(
        TensorReader(source, float32=dtype == mx.float32, as_stored=frozenset({EMBEDDING}), on_gpu=device.gpu)
    ) as reader:
        parts = PartReader(checkpoint, reader, dtype, progress)
        embedding = parts.embedding() if layers is None or rank == 0 else nothing
        if layers is None or rank == plan.size - 1:
            norm, lm_head = parts.norm_and_head()
        else:
            norm, lm_head = parts.norm(), nothing
        numbers = range(config.num_hidden_layers) if layers is None else range(*layers)
        return embedding, [parts.layer(number, heads) for number in numbers], norm, lm_head


def _cut_recipes(checkpoint: Checkpoint, cuts: dict[str, Cut | None]) -> dict[str, Recipe]:
    """The recipes of the tensors that are read, with the shapes that they then have; their parts stay whole."""
    recipes = checkpoint.recipes
    return {
        name: recipes[name] if cut is None else Recipe(recipes[name].parts, "copy", cut.shape(recipes[name].shape))
        for name, cut in cuts.items()
    }


def _loaded_bytes(checkpoint: Checkpoint, cuts: dict[str, Cut | None], dtype: mx.Dtype) -> int:
    return loaded_bytes(_cut_recipes(checkpoint, cuts), dtype)


def _identity(checkpoint: Checkpoint) -> int:
    """A number that is the same for the same model in any layout, and hardly for another: 62 bits of a sha256.

    Of config, shapes, and the bytes of some small tensors of every layer.
    """
    source = TensorSource(checkpoint)
    # What ends a sequence is not said in every layout.
    digest = hashlib.sha256(repr(replace(checkpoint.config, eos_token_ids=())).encode())
    try:
        for name, tensor in sorted(source.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            if name.endswith(_TELLING):
                data = np.empty(tensor.nbytes, dtype=np.uint8)
                source.read(name, 0, data)
                digest.update(data.tobytes())
    finally:
        source.close()
    return int.from_bytes(digest.digest()[:8], "little") >> 2
