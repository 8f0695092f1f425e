"""What the tests of the app share: a home of their own, so that no test meets the user's files."""

from pathlib import Path

import pytest

from gptoss_mlx.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`GPTOSS_HOME`, not in the test's own folder."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("GPTOSS_HOME", str(folder))
    return folder


@pytest.fixture
def tokenizer(pocket_tokenizer: Tokenizer) -> Tokenizer:
    """The scripted models' tokenizer."""
    return pocket_tokenizer
