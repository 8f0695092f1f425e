"""How long Python takes to put a decode step together, before anything of it is computed.

A GPU that is faster than this waits for the host. Ours is measured as it runs on Metal: recorded and replayed. Where
there is no Metal, a custom kernel cannot be called, so a node of the same inputs and results stands in for each
(`mx.depends`), and likewise for MLX's fast operations, which a processor takes apart. What replaying costs does not
depend on which node it is: it is a look-up for each input and a new array for each result. Where kernels are called one
by one, as they are the first time, a stand-in is cheaper than the kernel that it stands for.

Owns: this measure. Does not own: which step (`shapes`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from statistics import median
from typing import Any, Final, cast

import mlx.core as mx

from gptoss_mlx.bench.graph import Lengths, single_nodes
from gptoss_mlx.bench.shapes import Stepping, blank
from gptoss_mlx.device import this_device
from gptoss_mlx.metal import library
from gptoss_mlx.ops import KernelOps, use_ops

STEPS: Final = 40
"""Steps that are timed; the first ones are not, in which ours is recorded."""

WARM_UP_STEPS: Final = 3
"""Steps before those."""


def build_times(makers: Sequence[Callable[[], Stepping]], *, steps: int = STEPS) -> list[dict[str, float]]:
    """Seconds to build one step of each model: median, least and most. The models take turns, step by step."""
    with _stand_ins(), use_ops(KernelOps(records=True)):
        models = [make() for make in makers]
        tokens = [mx.zeros((1, 1), dtype=mx.uint32) for _ in models]
        times: list[list[float]] = [[] for _ in models]
        for number in range(WARM_UP_STEPS + steps):
            for index, model in enumerate(models):
                start = time.perf_counter()
                results = model.step(tokens[index])
                seconds = time.perf_counter() - start
                tokens[index] = results[0]
                if number >= WARM_UP_STEPS:
                    times[index].append(seconds)
    return [{"median": median(one), "min": min(one), "max": max(one)} for one in times]


def uses_stand_ins() -> bool:
    """Whether something stands in for the kernels here."""
    return not this_device().metal


@contextmanager
def _stand_ins() -> Iterator[None]:
    with ExitStack() as stack:
        if uses_stand_ins():
            stack.enter_context(library.made_by(_stand_in_maker))
            stack.enter_context(single_nodes(_stand_in, compiled=False))
        yield


def _stand_in_maker(**_: Any) -> Callable[..., list[mx.array]]:
    """Makes something to launch in place of a kernel."""

    def launch(
        *, inputs: list[mx.array], output_shapes: list[Lengths], output_dtypes: list[mx.Dtype], **_: Any
    ) -> list[mx.array]:
        results = [_blank(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]
        return cast(list[mx.array], mx.depends(results, inputs))

    return launch


def _stand_in(name: str, inputs: Sequence[mx.array], shape: Lengths, dtype: mx.Dtype) -> mx.array:
    return cast(list[mx.array], mx.depends([_blank(shape, dtype)], list(inputs)))[0]


@cache
def _blank(shape: Lengths, dtype: mx.Dtype) -> mx.array:
    return blank(*shape, dtype=dtype)
