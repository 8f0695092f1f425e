"""How kernels are timed: in turns with the stock path, in samples long enough, and no longer than there is time."""

import mlx.core as mx
import pytest

from gptoss_mlx.kernel_check.timing import (
    FEWEST_PAIRS,
    HOPELESS,
    MOST_CALLS,
    MOST_PAIRS,
    SAMPLE_SECONDS,
    Machine,
    time_pairs,
)
from gptoss_mlx.kernel_check.trials import Arrays, Case
from gptoss_mlx.ops import Ops, ReferenceOps

WAIT = 250e-6
"""What each evaluation costs beside its calls."""


class Timed:
    """Two implementations whose calls take so long, on a clock of their own."""

    def __init__(self, kernel: float, stock: float) -> None:
        self.kernel, self.stock = ReferenceOps(), ReferenceOps()
        self._seconds = {id(self.kernel): kernel, id(self.stock): stock}
        self.now = self._pending = 0.0
        self.samples: list[tuple[str, int]] = []
        """Whose calls, and how many, in the order of evaluation."""
        self.layers_called: list[object] = []
        self._calls = 0

    def call(self, ops: Ops, layer: object, inputs: Arrays) -> Arrays:
        self._pending += self._seconds[id(ops)]
        self._whose = "kernel" if ops is self.kernel else "stock"
        self._calls += 1
        self.layers_called.append(layer)
        return (inputs[0] + 1,)

    def evaluate(self, arrays: object) -> None:
        self.samples.append((self._whose, self._calls))
        self.now += self._pending + WAIT
        self._pending, self._calls = 0.0, 0

    def run(self, share: float = 1e9, total: float = 1e9, layers: int = 1) -> list[tuple[float, float]]:
        case = Case(1, (mx.zeros((1, 1, 4)),), self.call)
        machine = Machine(self.evaluate, lambda: self.now)
        named = [f"layer {number}" for number in range(layers)]
        return time_pairs(case, self.kernel, self.stock, named, machine, share_ends=share, time_ends=total)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [1e-6, 2e-5, 3e-4, 4e-3, 0.1])
def test_samples_are_long_enough_or_as_many_calls_as_are_allowed(seconds: float):
    timed = Timed(seconds / 2, seconds)
    pairs = timed.run()
    calls = timed.samples[-1][1]
    assert calls * seconds + WAIT >= SAMPLE_SECONDS or calls == MOST_CALLS
    # Not so many that it takes for ever.
    assert calls == 1 or calls * seconds < 20 * SAMPLE_SECONDS
    mine, theirs = pairs[0]
    assert mine / theirs == pytest.approx(0.5, abs=0.05 if calls < MOST_CALLS else 0.5)


def test_samples_take_turns_and_the_order_of_a_pair_too():
    timed = Timed(1e-3, 2e-3)
    assert len(timed.run()) == MOST_PAIRS
    order = [whose for whose, _ in timed.samples][-2 * MOST_PAIRS :]
    assert order[:8] == ["kernel", "stock", "stock", "kernel", "kernel", "stock", "stock", "kernel"]
    assert len({calls for _, calls in timed.samples[-2 * MOST_PAIRS :]}) == 1


def test_both_are_warm_before_they_are_timed():
    timed = Timed(1.0, 1.0)
    timed.run()
    assert sorted(whose for whose, _ in timed.samples[:2]) == ["kernel", "stock"]
    assert len(timed.samples) == 2 + 2 * MOST_PAIRS


def test_a_share_that_is_spent_ends_with_the_fewest_pairs():
    assert len(Timed(1.0, 1.0).run(share=0.1)) == FEWEST_PAIRS
    assert len(Timed(1e-3, 1e-3).run(share=0.1)) < MOST_PAIRS


def test_time_that_is_up_ends_at_once():
    assert Timed(1.0, 1.0).run(total=-1.0) == []
    assert Timed(1.0, 1.0).run(total=0.5) == []
    assert len(Timed(1.0, 1.0).run(total=3.0)) == 1


def test_a_hopeless_kernel_is_timed_once():
    assert len(Timed(HOPELESS + 1, 1.0).run()) == 1


def test_calls_go_round_the_layers():
    timed = Timed(1e-3, 1e-3)
    timed.run(layers=3)
    assert timed.layers_called[-5:] == ["layer 0", "layer 1", "layer 2", "layer 0", "layer 1"]
