"""Every implementation of the operations that a processor can run, for tests that hold each against the truth."""

from typing import Any

import pytest

from gptoss_mlx.ops import ReferenceOps


def implementations() -> list[Any]:
    """Parameters for `ops`."""
    return [pytest.param(ReferenceOps(), id="reference")]
