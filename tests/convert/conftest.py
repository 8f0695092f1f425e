"""The same random weights in every layout, made once a session."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.weights import load_model
from tests.layout_writers import write_mlx, write_original
from tests.random_checkpoint import random_tensors, tiny_config, write_checkpoint

VOCABULARY = 3021
"""The pocket model's, whose tokenizer stands beside these weights."""

PROMPT = mx.array([[1, 5, 9, 2, 3020, 77]])


def logits(folder: Path) -> np.ndarray:
    """Float32 logits `[tokens, vocab]` of the model in `folder` after each token of a prompt."""
    return np.array(load_model(folder, dtype=mx.float32)(PROMPT)[0])


def shape_of_layouts() -> dict[str, Any]:
    return tiny_config(vocab_size=VOCABULARY, num_hidden_layers=2)


@dataclass
class Layouts:
    """Folders with the same weights."""

    root: Path
    config: dict[str, Any] = field(default_factory=shape_of_layouts)

    def __post_init__(self) -> None:
        self.tensors = random_tensors(self.config, seed=11)

    def folder(self, layout: str) -> Path:
        """The checkpoint in `layout`: huggingface, original, mlx, q8 or q4; never to be written to."""
        folder = self.root / ("gpt-oss-tiny/original" if layout == "original" else f"{layout}-tiny")
        if folder.is_dir():
            return folder
        match layout:
            case "huggingface":
                write_checkpoint(folder, self.config, self.tensors, shards=3)
            case "original":
                write_original(folder, self.config, self.tensors, files=2)
            case "mlx":
                write_mlx(folder, self.config, self.tensors)
            case _:
                made = self.root / "mlx-lm"
                if not made.is_dir():
                    self._run_mlx_lm(made)
                shutil.copytree(made / layout, folder)
        beside = folder.parent if layout == "original" else folder
        shutil.copy(POCKET_FOLDER / "tokenizer.json", beside)
        return folder

    def _run_mlx_lm(self, destination: Path) -> None:
        command = [sys.executable, "-m", "tests.mlx_community", self.folder("huggingface"), destination, "8", "4"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    return Layouts(tmp_path_factory.mktemp("layouts"))


@pytest.fixture
def source(layouts: Layouts, tmp_path: Path) -> Path:
    """A copy of Hugging Face's layout that a test may change."""
    return Path(shutil.copytree(layouts.folder("huggingface"), tmp_path / "gpt-oss-tiny"))
