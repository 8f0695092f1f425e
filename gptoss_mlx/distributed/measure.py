"""The link between the machines of a group, measured."""

import time
from statistics import median
from typing import Final

import mlx.core as mx

from gptoss_mlx.distributed.link import Link
from gptoss_mlx.distributed.wire import Wire
from gptoss_mlx.errors import UsageError

SMALL_ROUNDS: Final = 50
"""Messages that latency is the median of."""

LARGE_ROUNDS: Final = 5

LARGE_BYTES: Final = 4 << 20
"""A message that takes much longer than a hop's latency."""


def measure_link(group: mx.distributed.Group) -> Link:
    """The slowest link of a ring of at least two; all ranks call this, and get the same. Takes about a second, or three
    on 1 Gb Ethernet.
    """
    wire = Wire(group)
    if wire.size < 2:
        raise UsageError("a group of one rank has no link to measure; expected at least two")
    hop = _seconds(wire, mx.zeros(4), SMALL_ROUNDS) / (wire.size - 1)
    large = _seconds(wire, mx.zeros(LARGE_BYTES // 4), LARGE_ROUNDS) / (wire.size - 1)
    # In ns: what is agreed upon goes over the wire as whole numbers.
    found = wire.gather_ints([round(hop * 1e9), round(max(large - hop, large / 100) * 1e9)])
    slowest = [max(numbers) / 1e9 for numbers in zip(*found, strict=True)]
    return Link(latency_s=slowest[0], bytes_per_s=LARGE_BYTES / slowest[1])


def _seconds(wire: Wire, message: mx.array, rounds: int) -> float:
    """The median of what it takes until every rank has every rank's message."""
    taken = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        mx.eval(*wire.gather(message))
        # The first one waits for ranks that come late.
        taken += [time.perf_counter() - begin] if number else []
    return median(taken)
