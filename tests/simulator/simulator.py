"""`simulated()`: kernels run on this CPU inside the block, checked, and say what they did."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np

from gptoss_mlx.metal import library
from tests.simulator.counts import Launch, Size
from tests.simulator.kernel import Argument, Options, Source, compiled
from tests.simulator.metal_kernel import (
    INCLUDES,
    TYPES,
    Value,
    check_template,
    check_text,
    clipped,
    function_source,
    read_input,
    shape_arguments,
    signature,
    to_mlx,
)


class Simulator:
    """Makes kernels as `mx.fast.metal_kernel` does, and keeps the record of their launches."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.launches: list[Launch] = []
        """Every launch so far, in order."""

    def metal_kernel(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        compile_options: dict[str, str] | None = None,
    ) -> Callable[..., list[mx.array]]:
        """What `mx.fast.metal_kernel` gives: the same arguments with the same meaning."""
        check_text(name, header, source)
        if compile_options and set(compile_options) - {"math_mode"}:
            raise ValueError(f"compile options {sorted(compile_options)}; MLX has `math_mode` only")

        def launch(
            *,
            inputs: Sequence[mx.array | int | float | bool],
            output_shapes: Sequence[Sequence[int]],
            output_dtypes: Sequence[mx.Dtype],
            grid: Size,
            threadgroup: Size,
            template: Sequence[tuple[str, Value]] | None = None,
            init_value: float | None = None,
            verbose: bool = False,
            stream: Any = None,
        ) -> list[mx.array]:
            if len(inputs) != len(input_names):
                raise ValueError(f"{name} takes {len(input_names)} inputs, not {len(inputs)}")
            if not len(output_shapes) == len(output_dtypes) == len(output_names):
                raise ValueError(f"{name} has {len(output_names)} outputs")
            values = list(template or [])
            check_template(values)
            arrays = [array if isinstance(array, mx.array) else mx.array(array) for array in inputs]
            mx.eval(arrays)
            given = {n: read_input(a, ensure_row_contiguous) for n, a in zip(input_names, arrays, strict=True)}
            made = dict(zip(output_names, output_dtypes, strict=True))
            arguments = signature(given, made, source, atomic_outputs=atomic_outputs)
            text, function, instance = function_source(name, header, source, values, arguments)
            if verbose:
                print(text)
            kernel = compiled(Source(text, function, instance, INCLUDES), self.options.build)
            bound: dict[str, Argument] = {}
            for n, entry in given.items():
                bound[n] = Argument(entry.elements)
                bound.update((k, Argument(v)) for k, v in shape_arguments(n, entry, source).items())
            results: list[np.ndarray] = []
            for n, shape, dtype in zip(output_names, output_shapes, output_dtypes, strict=True):
                results.append(_output(tuple(shape), dtype, init_value))
                bound[n] = Argument(results[-1], is_output=True, is_initialised=init_value is not None)
            self.launches.append(
                kernel.launch(
                    bound,
                    grid=grid,
                    threadgroup=clipped(grid, threadgroup),
                    options=self.options,
                    name=name,
                    template=dict(values),
                )
            )
            return [to_mlx(result, dtype) for result, dtype in zip(results, output_dtypes, strict=True)]

        return launch


def _output(shape: tuple[int, ...], dtype: mx.Dtype, init_value: float | None) -> np.ndarray:
    if init_value is None:
        return np.empty(shape, TYPES[dtype][1])
    filled = mx.full(shape, init_value, dtype)
    return np.array(filled.view(mx.uint16) if dtype == mx.bfloat16 else filled)


@contextmanager
def simulated(
    *,
    seed: int = 0,
    checks: bool = True,
    counting: bool = False,
    divergence_allowed: bool = False,
    partial_outputs_allowed: bool = False,
) -> Iterator[Simulator]:
    """Runs every kernel of the package in the simulator until the block ends.

    `seed` 0 runs lanes in their natural order, any other in a random one. `checks=False` is fast and finds nothing but
    wrong results; `counting` counts transactions. A simdgroup operation that not all lanes come to is a fault unless
    `divergence_allowed`; an output element that is never stored is one unless `partial_outputs_allowed`.
    """
    simulator = Simulator(
        Options(
            seed=seed,
            checks=checks,
            counting=counting,
            divergence_allowed=divergence_allowed,
            partial_outputs_allowed=partial_outputs_allowed,
        )
    )
    with library.made_by(simulator.metal_kernel):
        yield simulator
