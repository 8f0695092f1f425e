"""What common pairs of Macs can be expected to do together, as a Markdown table: computed, from `cost`.

    python -m gptoss_mlx.distributed.expected

Knows no MLX, and no machine that it was measured on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gptoss_mlx.config import PRESETS
from gptoss_mlx.distributed.cost import (
    ETHERNET_1G,
    ETHERNET_10G,
    THUNDERBOLT_4,
    THUNDERBOLT_5,
    THUNDERBOLT_5_RDMA,
    estimate,
)
from gptoss_mlx.distributed.link import Link
from gptoss_mlx.distributed.planning import make_plan
from gptoss_mlx.distributed.sizes import Sizes
from gptoss_mlx.errors import NotEnoughMemory

WORKING_SET_SHARE: Final = 0.75
"""Of a Mac's memory, what is assumed that Metal recommends to use at most."""


@dataclass(frozen=True, slots=True)
class Mac:
    """A Mac as far as it matters here."""

    name: str
    memory_gib: int
    bandwidth: float
    """Bytes per second of its memory, as Apple's technical specifications say."""
    links: tuple[str, ...]
    """Of `LINKS`, what connects two of them."""


LINKS: Final[Mapping[str, Link]] = MappingProxyType(
    {
        "TB5 RDMA": THUNDERBOLT_5_RDMA,
        "TB5": THUNDERBOLT_5,
        "TB4": THUNDERBOLT_4,
        "10GbE": ETHERNET_10G,
        "1GbE": ETHERNET_1G,
    }
)
"""Thunderbolt and Ethernet at their raw rates. The first is what MLX's jaccl back-end uses, which was not tried."""

_FOUR: Final = ("TB4", "10GbE", "1GbE")
_FIVE: Final = ("TB5 RDMA", "TB5", *_FOUR)

_ALIKE: Final = (
    Mac("M4, 16 GB", 16, 120e9, _FOUR),
    Mac("M4, 32 GB", 32, 120e9, _FOUR),
    Mac("M4 Pro, 48 GB", 48, 273e9, _FIVE),
    Mac("M4 Max, 64 GB", 64, 546e9, _FIVE),
    Mac("M2 Ultra, 64 GB", 64, 800e9, _FOUR),
    Mac("M3 Ultra, 96 GB", 96, 819e9, _FIVE),
)

PAIRS: Final[Sequence[tuple[Mac, Mac]]] = (
    *((mac, mac) for mac in _ALIKE),
    (Mac("M4 Max, 36 GB", 36, 410e9, _FIVE), Mac("M4 Pro, 64 GB", 64, 273e9, _FIVE)),
)
"""Common pairs."""


def expected_table(model: str = "20b", pairs: Sequence[tuple[Mac, Mac]] = PAIRS) -> str:
    """At most so many tokens per second of `20b` or `120b`, for each pair and link, as Markdown; with the mode."""
    sizes = Sizes(PRESETS[model])
    lines = [
        f"| gpt-oss-{model}, tok/s at most (computed) | one alone | {' | '.join(LINKS)} |",
        f"|---|---|{'---|' * len(LINKS)}",
    ]
    for pair in pairs:
        first, second = pair
        name = f"2 × {first.name}" if first == second else f"{first.name} + {second.name}"
        alone = _expected(sizes, [max(pair, key=lambda mac: mac.bandwidth)], None)
        cells = [
            _expected(sizes, pair, LINKS[link]) if all(link in mac.links for mac in pair) else "" for link in LINKS
        ]
        lines.append(f"| {name} | {alone} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _expected(sizes: Sizes, macs: Sequence[Mac], link: Link | None) -> str:
    memories = [round(mac.memory_gib * WORKING_SET_SHARE * 2**30) for mac in macs]
    bandwidths = [mac.bandwidth for mac in macs]
    try:
        plan = make_plan(sizes.config, memories, link=link, bandwidths=bandwidths)
    except NotEnoughMemory:
        return "does not fit"
    rate = f"{estimate(sizes, plan, link, bandwidths).tokens_per_second:.0f}"
    return rate if len(macs) == 1 else f"{rate} {plan.mode}"


if __name__ == "__main__":
    for preset in PRESETS:
        print(expected_table(preset), end="\n\n")  # noqa: T201
