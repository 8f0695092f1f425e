"""DEV version."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.hosts.cluster import Cluster
from gptoss_mlx.hosts.start import HostFacts
from gptoss_mlx.memory import MemoryEstimate, Needs
from gptoss_mlx.weights import needs_of


@dataclass(frozen=True, slots=True)
class HostShare:
    """What one rank has of a model."""

    host: str
    rank: int
    part: str
    """Which part, in words."""
    weights_bytes: int
    memory_bytes: int
    """What a model may take there."""
    free_bytes: int | None
    """What nobody needed there when it was asked."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which host gets what of a model, and what that leaves room for."""

    plan: Any
    shares: tuple[HostShare, ...]
    needs: Needs
    devices: Any

    def choose_context(self, context: int | None, name: str, *, force: bool) -> int:
        return self.needs.choose_context(self.devices[0], context, name, force=force)

    def estimate(self, context: int) -> MemoryEstimate:
        return self.needs.estimate(self.devices[0], context)

    @property
    def kv_limit_bytes(self) -> int:
        return 1 << 30


def share_model(cluster: Cluster, folder: Path, config: ModelConfig, facts: Sequence[HostFacts]) -> Sharing:
    n = len(facts)
    needs = needs_of(open_checkpoint(folder), facts[0].device)
    shares = tuple(
        HostShare(f.host.name, r, "all", needs.weights_bytes, f.device.memory_bytes, f.free_bytes)
        for r, f in enumerate(facts)
    )
    return Sharing({"mode": "tensor", "size": n}, shares, needs, [f.device for f in facts])


def plan_of(values: dict[str, Any]) -> Any:
    from gptoss_mlx.distributed import Plan

    return Plan(**values)
