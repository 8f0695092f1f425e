"""A kernel with a fault planted in each of its cases, and one that is right beside it."""

from collections.abc import Mapping
from typing import Final

import mlx.core as mx
import numpy as np

from tests.simulator import Simulator

THREADS: Final = 64
"""Threads of the threadgroup; there are two threadgroups."""

DECLARATIONS: Final = """
threadgroup float shared[64];
threadgroup float beside[64];
uint i = thread_position_in_grid.x;
uint t = thread_index_in_threadgroup;
uint lane = thread_index_in_simdgroup;
y[i] = 0;
device float* out = y + 128;
"""
"""Names for the cases: `x` [128] and `c` [4] are inputs, `y` [256] the output, whose first half is filled already."""


class Planted:
    """The cases of one kernel, each under a name. A launch chooses one, so that all are compiled once."""

    def __init__(self, cases: Mapping[str, str]) -> None:
        self.names = list(cases)
        lines = [DECLARATIONS]
        self.lines: dict[str, int] = {}
        """The line of the body that each case's first line is."""
        for number, (name, text) in enumerate(cases.items()):
            before = "\n".join(lines).count("\n")
            self.lines[name] = before + 3
            lines.append(f"if (chosen == {number}) {{\n{text.strip()}\n}} else")
        lines.append("{ out[i] = 1; }")
        self._body = "\n".join(lines)

    def launch(self, simulator: Simulator, name: str, *, threads: int = 2 * THREADS) -> np.ndarray:
        """The second half of the output."""
        kernel = simulator.metal_kernel(
            name="planted", input_names=["x", "c", "zero", "chosen"], output_names=["y"], source=self._body
        )
        inputs = [
            mx.arange(128, dtype=mx.float32),
            mx.arange(4, dtype=mx.float32),
            mx.array(0, mx.int32),
            mx.array(self.names.index(name), mx.int32),
        ]
        (y,) = kernel(
            inputs=inputs,
            grid=(threads, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(256,)],
            output_dtypes=[mx.float32],
            # Here an element that is left out is no fault: most cases fill a part.
            init_value=0,
        )
        return np.array(y)[128:]
