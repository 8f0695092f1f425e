"""Kernels with one barrier taken away: what the race checker must notice.

A kernel's barriers are numbered through its source, included headers first and the launcher's body last:

    @pytest.mark.parametrize("mutation", [m for kernel in KERNELS for m in mutations(kernel)], ids=str)
    def test_every_barrier_is_needed(mutation):
        assert outcome(mutation, LAUNCHERS[mutation.stem]) is Outcome.CAUGHT

Enumerating compiles nothing; an outcome costs two compilations and two launches at least.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

import mlx.core as mx

from gptoss_mlx.metal import library
from tests.simulator.faults import Fault
from tests.simulator.kernel import Options
from tests.simulator.lines import place
from tests.simulator.simulator import Simulator

Change: TypeAlias = Literal["removed", "weakened"]
"""What is done to a barrier: taken away, or left without what it orders."""

_BARRIER: Final = re.compile(r"\b(?P<name>threadgroup_barrier|simdgroup_barrier)\s*\((?P<flags>[^()]*)\)")


class Outcome(Enum):
    """What became of a mutation."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    NOT_REACHED = "not reached"
    """The launcher does not come to this barrier: it says nothing of it."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change to one barrier of one kernel."""

    stem: str
    """The kernel."""
    number: int
    """The barrier, from 0."""
    change: Change
    barrier: str
    """`threadgroup_barrier` or `simdgroup_barrier`."""
    place: tuple[str, int]
    """File and line of the barrier."""

    def __str__(self) -> str:
        return f"{self.stem}-{self.number}-{self.change}"

    def apply(self, header: str, body: str) -> tuple[str, str]:
        """The kernel's header and body with the change."""
        count = len(_BARRIER.findall(header))
        if self.number < count:
            return self._change(header, self.number), body
        return header, self._change(body, self.number - count)

    def _change(self, text: str, number: int) -> str:
        match = list(_BARRIER.finditer(text))[number]
        lines = "\n" * match[0].count("\n")
        changed = "((void)0)" if self.change == "removed" else f"{match['name']}(metal::mem_flags::mem_none)"
        return text[: match.start()] + changed + lines + text[match.end() :]


def mutations(kernel: library.Kernel, changes: Sequence[Change] = ("removed",)) -> list[Mutation]:
    """Every change to every barrier of `kernel`."""
    header = library.read_source(kernel.stem)
    found: list[tuple[str, tuple[str, int]]] = []
    for match in _BARRIER.finditer(header):
        found.append((match["name"], place(header, kernel.stem, header.count("\n", 0, match.start()) + 1)))
    for match in _BARRIER.finditer(kernel.body):
        found.append((match["name"], (f"{kernel.stem} body", kernel.body.count("\n", 0, match.start()) + 1)))
    return [
        Mutation(kernel.stem, number, change, name, where)
        for number, (name, where) in enumerate(found)
        for change in changes
    ]


@contextmanager
def mutated(mutation: Mutation, seed: int = 0) -> Iterator[Simulator]:
    """`simulated()`, with `mutation` in its kernel."""
    simulator = Simulator(Options(seed=seed))

    def maker(*, name: str, header: str, source: str, **rest: Any) -> Callable[..., list[mx.array]]:
        if name == mutation.stem:
            header, source = mutation.apply(header, source)
        return simulator.metal_kernel(name=name, header=header, source=source, **rest)

    with library.made_by(maker):
        yield simulator


def outcome(mutation: Mutation, launch: Callable[[], object], seeds: Sequence[int] = (0, 1)) -> Outcome:
    """Whether `launch`, which launches the mutated kernel among others, faults in any of the lanes' orders.

    It has to run without a fault as long as nothing is changed.
    """
    simulator = Simulator(Options())
    with library.made_by(simulator.metal_kernel):
        launch()
    reached = {at for done in simulator.launches if done.kernel == mutation.stem for at in done.barrier_places}
    if mutation.place not in reached:
        return Outcome.NOT_REACHED
    for seed in seeds:
        try:
            with mutated(mutation, seed):
                launch()
        except Fault:
            return Outcome.CAUGHT
    return Outcome.SURVIVED
