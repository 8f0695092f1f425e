"""How long a token takes on several machines, reckoned: what decides between tensor and pipeline mode.

    tensor    the slowest machine's share of the weights, read from its memory, and 2 sums a layer over the wire
    pipeline  all machines' shares, one after the other, and one hop from each to the next

Decoding one token is reckoned, at the full bandwidth of every machine's memory: nothing is as fast as that, so what
comes out is the most that can be, and good for comparing. Knows no MLX.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.link import Link, Traffic, gather_traffic, sum_traffic
from gptoss_mlx.distributed.plan import Mode, Plan
from gptoss_mlx.distributed.sizes import Sizes

THUNDERBOLT_LATENCY_S: Final = 0.2e-3
"""A hop of TCP/IP over Thunderbolt. Half of the shortest round trip (0.38 to 0.95 ms) between Mac Studios in use, which
https://github.com/exo-explore/exo/issues/2295 reports; Ethernet is assumed to be the same, since TCP is."""

THUNDERBOLT_5: Final = Link(THUNDERBOLT_LATENCY_S, 80e9 / 8)
"""The raw 80 Gb/s: what IP over it reaches is not known here, and matters little beside latency."""

THUNDERBOLT_5_RDMA: Final = Link(THUNDERBOLT_LATENCY_S / 10, 80e9 / 8)
"""Without TCP: "an order of magnitude lower" latency, as MLX's documentation says of its jaccl back-end
(https://ml-explore.github.io/mlx/build/html/usage/distributed.html)."""

THUNDERBOLT_4: Final = Link(THUNDERBOLT_LATENCY_S, 40e9 / 8)
"""The raw 40 Gb/s; what is assumed of a link that nobody measured."""

ETHERNET_10G: Final = Link(THUNDERBOLT_LATENCY_S, 10e9 / 8)

ETHERNET_1G: Final = Link(THUNDERBOLT_LATENCY_S, 1e9 / 8)

ASSUMED_BANDWIDTH: Final = 100e9
"""Bytes per second of a memory whose bandwidth nobody gave: Apple's M2 and M3."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one decoded token takes. Computed, not measured."""

    mode: Mode
    ranks: int
    weights_s: float
    """Reading weights from memory."""
    wire_s: float
    """Waiting for other machines' bytes."""
    traffic: Traffic
    """What the busiest rank sends."""

    @property
    def seconds(self) -> float:
        """Both."""
        return self.weights_s + self.wire_s

    @property
    def tokens_per_second(self) -> float:
        """At most."""
        return 1 / self.seconds

    def sentence(self) -> str:
        """The figures for people."""
        return (
            f"{self.mode} mode on {self.ranks} machines: at most {self.tokens_per_second:.0f} tok/s (computed: "
            f"{self.weights_s * 1e3:.1f} ms to read weights, {self.wire_s * 1e3:.1f} ms for {self.traffic.hops} "
            f"messages in a row and {self.traffic.sent_bytes / 1e3:.0f} kB)"
        )


def token_traffic(config: ModelConfig, plan: Plan, value_bytes: int = 2, tokens: int = 1) -> Traffic:
    """What the busiest rank sends when `tokens` are read and the most probable next one is wanted."""
    ranks, x = plan.size, config.hidden_size * value_bytes * tokens
    if ranks == 1:
        return Traffic(0, 0)
    if plan.mode == "tensor":
        # The embedding's rows and two sums a layer; each rank's best token and its logit.
        sums = sum_traffic(x, ranks).times(2 * config.num_hidden_layers + 1)
        return sums.plus(gather_traffic(8, ranks))
    # Rank 0 sends the residual stream, and the token on unless the next rank is the last, which has it.
    return Traffic(x + (4 if ranks > 2 else 0), ranks)


def sent_bytes(config: ModelConfig, plan: Plan, value_bytes: int = 2, tokens: int = 1) -> int:
    """Bytes that all ranks together send for that."""
    if plan.mode == "tensor":
        return plan.size * token_traffic(config, plan, value_bytes, tokens).sent_bytes
    # The residual stream from each rank to the next, the token from the last to all others.
    return (plan.size - 1) * (config.hidden_size * value_bytes * tokens + 4)


def least_traffic(config: ModelConfig, plan: Plan, value_bytes: int = 2, tokens: int = 1) -> int:
    """Bytes that all ranks together must send for that, at the least, however it is done.

    A sum that all ranks are to have takes 2 (n - 1) arrays in all, whatever the algorithm; what one rank has and all
    are to have, n - 1.
    """
    ranks, x = plan.size, config.hidden_size * value_bytes * tokens
    if plan.mode == "tensor":
        sums = 2 * config.num_hidden_layers * 2 * (ranks - 1) * x
        return sums + (ranks - 1) * x + 2 * (ranks - 1) * 8
    return (ranks - 1) * (x + 4)


def traffic_report(config: ModelConfig, plan: Plan, value_bytes: int = 2, *, counted_bytes: float | None = None) -> str:
    """Bytes of one token on the wire beside the least that the plan's mode needs, for people.

    `counted_bytes` are what all ranks' `Wire.sent_bytes` grew by for a token; None says what is reckoned.
    """
    how, sent = ("counted", counted_bytes) if counted_bytes is not None else ("computed", None)
    sent = sent_bytes(config, plan, value_bytes) if sent is None else sent
    least, hops = least_traffic(config, plan, value_bytes), token_traffic(config, plan, value_bytes).hops
    ratio = f", {sent / least:.2f} times the {least / 1e3:.1f} kB that it needs at least" if least else ""
    return (
        f"{plan.mode} mode on {plan.size} machines sends {sent / 1e3:.1f} kB for a token ({how}, all machines "
        f"together){ratio}; {hops} messages wait for one another"
    )


def estimate(
    sizes: Sizes, plan: Plan, link: Link | None = None, bandwidths: Sequence[float | None] | None = None
) -> Estimate:
    """What one decoded token takes.

    `bandwidths` are bytes per second of each rank's memory; None, of all or of one, is `ASSUMED_BANDWIDTH`. A link of
    None is `THUNDERBOLT_4`.
    """
    link = link or THUNDERBOLT_4
    known = bandwidths or [None] * plan.size
    shares = [sizes.read(plan, rank) / (known[rank] or ASSUMED_BANDWIDTH) for rank in range(plan.size)]
    config, traffic = sizes.config, token_traffic(sizes.config, plan, sizes.value_bytes)
    if plan.mode == "tensor":
        return Estimate("tensor", plan.size, max(shares), link.seconds(traffic), traffic)
    # Every rank but the last sends the residual stream, and the last one its token to the first.
    handed_on = Traffic(config.hidden_size * sizes.value_bytes, 1).times(plan.size - 1).plus(Traffic(4, 1))
    wire = link.seconds(handed_on) if plan.size > 1 else 0.0
    return Estimate("pipeline", plan.size, sum(shares), wire, traffic)
