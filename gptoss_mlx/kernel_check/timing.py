"""How long one call of a kernel takes on this machine, beside the stock path's.

A single small call cannot be timed: waiting for the GPU alone costs about 250 us. So a sample is a chain of calls, each
of which waits for the one before, as in a model; samples of the kernel and of the stock path take turns, and what
counts is the median of the pairs' ratios, so that a machine that is getting slower is slower for both.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx

from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.kernel_check.trials import Arrays, Case
from gptoss_mlx.ops import Ops

SAMPLE_SECONDS: Final = 5e-3
"""A sample of the slower of the two is at least this long where `MOST_CALLS` allow: twenty times what waiting costs."""

MOST_CALLS: Final = 256
"""Calls in one sample."""

FEWEST_PAIRS: Final = 3
"""Pairs of samples that a median is taken of, where there is time."""

MOST_PAIRS: Final = 9
"""No more are taken, however much time there is."""

HOPELESS: Final = 2.0
"""A first pair in which the kernel takes this many times as long as the stock path is enough."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs and times the trials: MLX and the clock, or what a test puts there."""

    evaluate: Callable[[Sequence[mx.array]], None]
    """Computes the arrays, and comes back when they are there."""
    clock: Callable[[], float]
    """Seconds."""


def evaluate_and_wait(arrays: Sequence[mx.array]) -> None:
    """Computes the arrays, and comes back when they are there."""
    mx.eval(list(arrays))
    mx.synchronize()


THIS_MACHINE: Final = Machine(evaluate_and_wait, time.perf_counter)
"""MLX on its default device."""


def time_pairs(
    case: Case,
    kernel: Ops,
    stock: Ops,
    layers: Sequence[DecoderLayer],
    machine: Machine,
    *,
    share_ends: float,
    time_ends: float,
) -> list[tuple[float, float]]:
    """Pairs of times of one call of `case`, the kernel's and the stock path's: seconds.

    Calls go round the `layers`, so that weights come from memory as in a model. After `share_ends` on the machine's
    clock no more than `FEWEST_PAIRS` are taken, after `time_ends` none; there may be none at all.
    """

    def sample(ops: Ops, calls: int) -> float:
        inputs: Arrays = case.inputs
        results: Arrays = ()
        for number in range(calls):
            results = case.call(ops, layers[number % len(layers)], inputs)
            inputs = case.next_inputs(inputs, results)
        # The last inputs wait for all of the last results, and those for everything before.
        start = machine.clock()
        machine.evaluate(inputs)
        return (machine.clock() - start) / calls

    def samples(calls: int, *, kernel_first: bool) -> tuple[float, float]:
        if kernel_first:
            mine = sample(kernel, calls)
            return mine, sample(stock, calls)
        theirs = sample(stock, calls)
        return sample(kernel, calls), theirs

    calls = _warm_up(sample, kernel, stock, machine, time_ends)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < MOST_PAIRS:
        now = machine.clock()
        if now > time_ends or (now > share_ends and len(pairs) >= FEWEST_PAIRS):
            break
        pairs.append(samples(calls, kernel_first=len(pairs) % 2 == 0))
        if len(pairs) == 1 and pairs[0][0] > HOPELESS * pairs[0][1]:
            break
    return pairs


def _warm_up(sample: Callable[[Ops, int], float], kernel: Ops, stock: Ops, machine: Machine, time_ends: float) -> int:
    """Runs both until a sample of the slower one is long enough, which also warms them up; how many calls that is."""
    calls = 1
    while machine.clock() <= time_ends:
        seconds = calls * max(sample(stock, calls), sample(kernel, calls))
        if seconds >= SAMPLE_SECONDS or calls == MOST_CALLS:
            break
        # Short samples are mostly waiting, which says little of how many calls are needed: never straight to the end.
        wanted = calls * SAMPLE_SECONDS / max(seconds, 1e-9)
        calls = min(MOST_CALLS, max(2 * calls, min(16 * calls, round(wanted))))
    return calls
