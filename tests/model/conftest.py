"""Models for these tests: loaded once a session, because their checkpoints are written from seeds."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.model import Model
from gptoss_mlx.weights import load_model
from tests.golden.cases import CASES, GoldenCase
from tests.random_checkpoint import Tensors, random_tensors
from tests.reference import ReferenceModel


@dataclass
class LoadedCase:
    """A golden case with everything to hold against each other."""

    case: GoldenCase
    model: Model
    """Ours, in float32."""

    @cached_property
    def tensors(self) -> Tensors:
        return random_tensors(self.case.config(), self.case.seed)

    @cached_property
    def reference(self) -> np.ndarray:
        """float64 numpy's logits at every position."""
        return ReferenceModel(self.case.config(), self.tensors).logits(self.case.prompt())

    @cached_property
    def logits(self) -> np.ndarray:
        """Our logits at every position, the prompt read at once."""
        return np.array(self.model(self.prompt)[0])

    @cached_property
    def golden(self) -> np.ndarray:
        """transformers' logits at `case.positions`."""
        with np.load(self.case.file) as arrays:
            return arrays["logits"]

    @property
    def prompt(self) -> mx.array:
        """`[1, tokens]`."""
        return mx.array(self.case.prompt())[None]


@pytest.fixture(scope="session")
def loaded_cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedCase]:
    folder: Path = tmp_path_factory.mktemp("golden")
    return {
        case.name: LoadedCase(case, load_model(case.write_checkpoint(folder / case.name), dtype=mx.float32))
        for case in CASES
    }


@pytest.fixture(params=[case.name for case in CASES])
def loaded(request: pytest.FixtureRequest, loaded_cases: dict[str, LoadedCase]) -> LoadedCase:
    """Each golden case in turn."""
    return loaded_cases[request.param]


@pytest.fixture(scope="session")
def plain(loaded_cases: dict[str, LoadedCase]) -> LoadedCase:
    return loaded_cases["plain"]


@pytest.fixture(scope="session")
def long(loaded_cases: dict[str, LoadedCase]) -> LoadedCase:
    return loaded_cases["long"]
