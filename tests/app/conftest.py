"""What the tests of the app share: a home of their own, so that no test meets the user's files."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`GPTOSS_HOME`."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "gptoss"))
    (tmp_path / "gptoss").mkdir()
    return tmp_path / "gptoss"
