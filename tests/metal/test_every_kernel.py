"""What holds for every kernel of the package: found by its files, so that a new one cannot be left out."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import library
from tests.metal.small_launches import SMALL_LAUNCHES
from tests.simulator import simulated

FOLDER = Path(library.__file__).parent
STEMS = sorted(path.stem for path in FOLDER.glob("*.metal"))


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
