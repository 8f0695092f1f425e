"""What all tests share: the pocket model's tokenizer and folder."""

from collections.abc import Iterator

import pytest

from gptoss_mlx import GptOss, load
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def pocket_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(POCKET_FOLDER / "tokenizer.json")


@pytest.fixture(scope="session")
def pocket() -> Iterator[GptOss]:
    with load("pocket", date="2026-01-31") as model:
        yield model
