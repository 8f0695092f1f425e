"""Barriers taken away: numbered, changed, and noticed."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from gptoss_mlx.metal import library
from tests.simulator import lines, unsupported
from tests.simulator.mutation import Outcome, mutations, outcome

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=unsupported() or "")

SOURCE = """#include <metal_stdlib>
using namespace metal;
inline void unused(threadgroup float* shared) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
}
inline void exchange(threadgroup float* shared, uint t) {
    shared[t] = t;
    threadgroup_barrier(
        mem_flags::mem_threadgroup);
}
"""
BODY = """threadgroup float shared[64];
uint t = thread_index_in_threadgroup;
exchange(shared, t);
float v = shared[63 - t];
threadgroup_barrier(mem_flags::mem_threadgroup);
shared[t] = v;
simdgroup_barrier(mem_flags::mem_threadgroup);
y[t] = shared[t ^ 1];
threadgroup_barrier(mem_flags::mem_threadgroup);
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[library.Kernel]:
    monkeypatch.setattr(library, "_read", lambda name: {"changing.metal": SOURCE}[name])
    library.read_source.cache_clear()
    lines._places.cache_clear()
    yield library.Kernel("changing", inputs=[], outputs=["y"], body=BODY)
    library.read_source.cache_clear()
    lines._places.cache_clear()


def test_every_barrier_is_listed_with_its_place(kernel: library.Kernel) -> None:
    found = mutations(kernel, ("removed", "weakened"))
    assert [(m.number, m.barrier, m.place) for m in found if m.change == "removed"] == [
        (0, "threadgroup_barrier", ("changing.metal", 4)),
        (1, "threadgroup_barrier", ("changing.metal", 8)),
        (2, "threadgroup_barrier", ("changing body", 5)),
        (3, "simdgroup_barrier", ("changing body", 7)),
        (4, "threadgroup_barrier", ("changing body", 9)),
    ]
    assert str(found[3]) == "changing-1-weakened"


def test_a_change_keeps_every_line(kernel: library.Kernel) -> None:
    header = library.read_source("changing")
    for mutation in mutations(kernel, ("removed", "weakened")):
        changed_header, changed_body = mutation.apply(header, kernel.body)
        assert (changed_header + changed_body).count("\n") == (header + kernel.body).count("\n")
        assert (changed_header != header) + (changed_body != kernel.body) == 1


def test_a_barrier_that_is_needed_is_missed_and_one_that_is_not_is_not(kernel: library.Kernel) -> None:
    def launch() -> object:
        return kernel(template={}, grid=(64, 1, 1), threadgroup=(64, 1, 1), shapes=[(64,)], dtypes=[mx.float32])

    outcomes = [outcome(mutation, launch) for mutation in mutations(kernel)]
    needed, not_reached, spare = Outcome.CAUGHT, Outcome.NOT_REACHED, Outcome.SURVIVED
    assert outcomes == [not_reached, needed, needed, needed, spare]
    weakened = [outcome(mutation, launch) for mutation in mutations(kernel, ("weakened",))]
    assert weakened == outcomes
