"""Every implementation of the operations that a processor can run, for tests that hold each against the truth."""

from typing import Any

import pytest

from gptoss_mlx.ops import CpuOps, ReferenceOps

BLAS_ALWAYS = CpuOps(blas_from_products=1, expand_from_rows=1, expand_from_pairs=1)
"""Everything through numpy, which small sizes do not reach otherwise."""

STREAMS_ALWAYS = CpuOps(
    streams=3, blas_from_products=1 << 60, expand_from_rows=1 << 60, expand_from_pairs=1 << 60, split_from_products=1
)
"""Everything that MLX multiplies shared among three streams."""


def implementations() -> list[Any]:
    """Parameters for `ops`."""
    return [
        pytest.param(ReferenceOps(), id="reference"),
        pytest.param(CpuOps(), id="cpu"),
        pytest.param(BLAS_ALWAYS, id="cpu-blas"),
        pytest.param(STREAMS_ALWAYS, id="cpu-streams"),
    ]
