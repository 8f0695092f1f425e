"""What a message between two machines costs: a hop's latency and a link's bytes per second, for sums over a ring of n.

    all_sum      2 (n - 1) hops   each rank sends 2 (n - 1) / n of the array, the least that is possible
    all_gather       n - 1 hops   each rank sends n - 1 arrays, and adds them up itself

For two ranks the second is the same bytes in half the hops. For more it is the better one for small arrays, such as one
token's: with 0.2 ms a hop and 1 GB/s up to 600 KB for three ranks and 400 KB for four.

Owns: the arithmetic. Knows no MLX; `measure` measures a link.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

GATHERED_BYTES: Final = 128 << 10
"""Up to this many bytes more than two ranks gather the parts of a sum: 22 tokens of the 20b in bfloat16."""


@dataclass(frozen=True, slots=True)
class Link:
    """What connects a machine with its neighbour."""

    latency_s: float
    """From sending few bytes to having them, in seconds, in one direction."""
    bytes_per_s: float
    """Of many bytes, in one direction."""

    def sentence(self) -> str:
        """The figures for people."""
        return f"{self.bytes_per_s / 1e9:.2f} GB/s, {self.latency_s * 1e3:.2f} ms one way"

    def seconds(self, traffic: "Traffic") -> float:
        """What so much takes when each hop waits for the one before."""
        return traffic.hops * self.latency_s + traffic.sent_bytes / self.bytes_per_s


class Traffic(NamedTuple):
    """What one rank sends."""

    sent_bytes: int
    hops: int
    """Messages that wait for each other, of which this is the longest row."""

    def plus(self, other: "Traffic") -> "Traffic":
        """Both, one after the other."""
        return Traffic(self.sent_bytes + other.sent_bytes, self.hops + other.hops)

    def times(self, count: int) -> "Traffic":
        """This so many times."""
        return Traffic(self.sent_bytes * count, self.hops * count)


def gathers(nbytes: int, ranks: int) -> bool:
    """Whether the parts of a sum are gathered, each of so many bytes."""
    return ranks <= 2 or nbytes <= GATHERED_BYTES


def gather_traffic(nbytes: int, ranks: int) -> Traffic:
    """What a rank sends for all to have all parts, each of so many bytes."""
    return Traffic((ranks - 1) * nbytes, ranks - 1)


def sum_traffic(nbytes: int, ranks: int) -> Traffic:
    """What a rank sends for a sum of parts of so many bytes."""
    if gathers(nbytes, ranks):
        return gather_traffic(nbytes, ranks)
    return Traffic(2 * (ranks - 1) * nbytes // ranks, 2 * (ranks - 1))
