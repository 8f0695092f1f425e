"""What holds for every kernel of the package: found by its files, so that a new one cannot be left out."""

from importlib import import_module
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import library
from tests.metal.small_launches import SMALL_LAUNCHES
from tests.simulator import simulated
from tests.simulator.mutation import Mutation, Outcome, mutations, outcome

FOLDER = Path(library.__file__).parent
STEMS = sorted(path.stem for path in FOLDER.glob("*.metal"))


def _kernel(stem: str) -> library.Kernel:
    """The kernel that the launcher of this name holds."""
    held = vars(import_module(f"gptoss_mlx.metal.{stem}")).values()
    (kernel,) = (value for value in held if isinstance(value, library.Kernel))
    return kernel


MUTATIONS = [mutation for stem in STEMS for mutation in mutations(_kernel(stem))]
"""Every barrier of every kernel, each left out once."""


def test_every_kernel_has_a_launcher_and_a_small_launch():
    assert list(SMALL_LAUNCHES) == STEMS
    assert all((FOLDER / f"{stem}.py").is_file() for stem in STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_any_order_of_lanes_gives_the_same_bits(stem: str):
    results = []
    for seed in (0, 1, 2):
        with simulated(seed=seed) as simulator:
            results.append([_bytes(array) for array in SMALL_LAUNCHES[stem]()])
        assert stem in {launch.kernel for launch in simulator.launches}
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("stem", STEMS)
def test_a_source_says_what_it_computes_before_anything_else(stem: str):
    opening = (FOLDER / f"{stem}.metal").read_text("ascii").split("#include")[0]
    lines = [line for line in opening.splitlines() if line]
    assert all(line.startswith("//") for line in lines)
    assert len(lines) >= 8
    for word in ("Assumes", "Numerics"):
        assert word in opening


def _bytes(array: mx.array) -> bytes:
    return np.array(array.view(mx.uint8)).tobytes()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_no_barrier_can_be_left_out(mutation: Mutation):
    found = outcome(mutation, SMALL_LAUNCHES[mutation.stem])
    # A header may bring a function that this kernel does not call.
    assert found is Outcome.CAUGHT or (found is Outcome.NOT_REACHED and mutation.place[0].endswith(".h"))


def test_every_barrier_is_reached_by_some_kernel():
    with simulated() as simulator:
        for launch in dict.fromkeys(SMALL_LAUNCHES.values()):
            launch()
    reached = {place for launch in simulator.launches for place in launch.barrier_places}
    assert reached == {mutation.place for mutation in MUTATIONS}
