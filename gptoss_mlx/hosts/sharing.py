"""Which host gets which part of a model, what that takes of its memory, and how much context it leaves room for.

Owns: the figures of all hosts together. Does not own: how a model is divided (`distributed`), what a model takes on one
machine (`memory`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import mlx.core as mx

from gptoss_mlx.cache import GROWTH_TOKENS
from gptoss_mlx.checkpoint import Checkpoint, open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import Device
from gptoss_mlx.distributed.cost import estimate
from gptoss_mlx.distributed.link import Link
from gptoss_mlx.distributed.load import shard_bytes
from gptoss_mlx.distributed.plan import Mode, PipelineShare, Plan, Share, share_config
from gptoss_mlx.distributed.planning import CONTEXT_TOKENS, make_plan
from gptoss_mlx.distributed.sizes import Sizes
from gptoss_mlx.errors import NotEnoughMemory
from gptoss_mlx.hosts.cluster import Cluster
from gptoss_mlx.hosts.start import HostFacts
from gptoss_mlx.kv_pool import default_limit_bytes
from gptoss_mlx.memory import (
    LEAST_CONTEXT_TOKENS,
    MemoryEstimate,
    Needs,
    gigabytes,
    memory_limit,
)
from gptoss_mlx.weights import FLOAT32_MEMORY_SHARE

MEASURE_SECONDS: Final = 60.0
"""How long measuring the link may take."""


@dataclass(frozen=True, slots=True)
class HostShare:
    """What one rank has of a model."""

    host: str
    rank: int
    part: str
    """Which part, in words."""
    weights_bytes: int
    """Of the part, in memory."""
    memory_bytes: int
    """What a rank may take there."""
    free_bytes: int | None
    """What nobody needed there when it was asked."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """A division of a model among hosts."""

    plan: Plan
    shares: tuple[HostShare, ...]
    """In order of rank."""
    config: ModelConfig
    """The whole model's."""
    needs: tuple[Needs, ...]
    """What each rank's part takes."""
    devices: tuple[Device, ...]
    """What each rank may use: of a host with several ranks, its part."""
    reason: str
    """The link, and what was reckoned of it."""

    @property
    def longest_context(self) -> int:
        """Tokens of context that fit all hosts, at most what the model was made for; 0 when none fit."""
        return min(need.longest_context(device) for need, device in zip(self.needs, self.devices, strict=True))

    def choose_context(self, context: int | None, name: str, *, force: bool) -> int:
        """The context length to load with: `context` if that is given, else the longest that fits all hosts.

        Raises `NotEnoughMemory`, which names the host, when it does not fit; `force` goes on, as on one machine.
        """
        longest = self.longest_context
        chosen = max(longest, min(LEAST_CONTEXT_TOKENS, self.config.max_position_embeddings))
        chosen = chosen if context is None else context
        if force:
            return chosen
        for share, need, device in zip(self.shares, self.needs, self.devices, strict=True):
            estimate = need.estimate(device, chosen)
            if not estimate.fits:
                advice = (
                    f"a context of {longest:,} tokens fits"
                    if longest >= GROWTH_TOKENS
                    else "close what else needs memory there, or let more hosts take part"
                )
                part = f"the part of {name} on {share.host} (rank {share.rank})"
                said = estimate.sentence(part).replace("this machine has", "it has there")
                raise NotEnoughMemory(f"{said}; {advice}, and force (--force) tries nevertheless")
            if share.free_bytes is not None and share.free_bytes < share.weights_bytes:
                raise NotEnoughMemory(
                    f"{share.host} (rank {share.rank}) has {gigabytes(share.free_bytes)} of memory free, and its part "
                    f"of {name} takes {gigabytes(share.weights_bytes)}; close what else runs there, and force "
                    "(--force) tries nevertheless"
                )
        return chosen

    def estimate(self, context: int) -> MemoryEstimate:
        """What all parts take together with so many tokens of context."""
        parts = [need.estimate(device, context) for need, device in zip(self.needs, self.devices, strict=True)]
        return MemoryEstimate(
            context=context,
            prefill_chunk=parts[0].prefill_chunk,
            weights_bytes=sum(part.weights_bytes for part in parts),
            kv_bytes=sum(part.kv_bytes for part in parts),
            activation_bytes=sum(part.activation_bytes for part in parts),
            buffer_bytes=sum(part.buffer_bytes for part in parts),
            limit_bytes=sum(part.limit_bytes for part in parts),
            on_metal=all(part.on_metal for part in parts),
        )

    @property
    def kv_limit_bytes(self) -> int:
        """Bytes of the whole model's KV caches that may be kept between turns: then one host is at its limit."""
        limits = []
        for need, device in zip(self.needs, self.devices, strict=True):
            whole, own = self.config.kv_bytes_per_token(1), need.config.kv_bytes_per_token(1)
            limits.append(default_limit_bytes(device, need.weights_bytes) * whole // max(1, own))
        return min(limits)


def share_model(
    folder: Path, config: ModelConfig, facts: Sequence[HostFacts], link: Link, mode: Mode | None = None
) -> Sharing:
    """How the hosts share the model in `folder`, with a `link` between them; in the faster mode, unless it is given.

    Raises NotEnoughMemory, UsageError.
    """
    devices = own_devices(facts)
    checkpoint = open_checkpoint(folder)
    dense_bits = None if checkpoint.manifest is None else checkpoint.manifest.dense_bits
    value_bytes = 2 if any(device.gpu for device in devices) else 4
    plan = make_plan(
        config,
        [memory_limit(device) for device in devices],
        mode=mode,
        link=link,
        context=min(CONTEXT_TOKENS, config.max_position_embeddings),
        dense_bits=dense_bits,
        value_bytes=value_bytes,
    )
    plan.check(config)
    dtype = _agreed_dtype(checkpoint, plan, devices)
    needs = tuple(
        Needs(share_config(config, plan.shares[rank]), shard_bytes(checkpoint, plan, rank, dtype), dtype.size)
        for rank in range(plan.size)
    )
    shares = tuple(
        HostShare(
            fact.host.name, rank, part_in_words(plan.shares[rank], config), needs[rank].weights_bytes, limit, free
        )
        for rank, (fact, limit, free) in enumerate(
            (fact, memory_limit(device), fact.free_bytes) for fact, device in zip(facts, devices, strict=True)
        )
    )
    reckoned = estimate(Sizes(config, dense_bits, value_bytes), plan, link).sentence()
    reason = f"link measured: {link.sentence()}; {reckoned}"
    return Sharing(plan, shares, config, needs, devices, reason)


def measure(cluster: Cluster) -> Link:
    """The slowest link between the ranks, which have joined. Raises HostLost."""
    answer = cluster.call("measure", limit_seconds=MEASURE_SECONDS)[0]
    return Link(**answer.values)


def own_devices(facts: Sequence[HostFacts]) -> tuple[Device, ...]:
    """Each rank's machine as far as that rank may use it: ranks on one host divide its memory evenly."""
    ranks = Counter(fact.host.address for fact in facts)

    def part(fact: HostFacts) -> Device:
        count, device = ranks[fact.host.address], fact.device
        working_set = device.working_set_bytes
        return replace(
            device,
            memory_bytes=device.memory_bytes // count,
            working_set_bytes=None if working_set is None else working_set // count,
        )

    return tuple(map(part, facts))


def part_in_words(share: Share, config: ModelConfig) -> str:
    """Which part of a model a share is."""
    if isinstance(share, PipelineShare):
        return f"layers {share.layers.start + 1} to {share.layers.stop} of {config.num_hidden_layers}"
    percent = round(100 * share.inner.size / config.intermediate_size)
    return f"{share.kv_heads.size} of {config.num_key_value_heads} heads and {percent} % of the experts of every layer"


def _agreed_dtype(checkpoint: Checkpoint, plan: Plan, devices: Sequence[Device]) -> mx.Dtype:
    """What the ranks will agree to compute in (`load_shard`): float32 where no host has a GPU and all have room."""
    roomy = all(
        not device.gpu and shard_bytes(checkpoint, plan, rank, mx.float32) <= FLOAT32_MEMORY_SHARE * device.memory_bytes
        for rank, device in enumerate(devices)
    )
    return mx.float32 if roomy else mx.bfloat16
