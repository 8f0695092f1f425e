"""A folder of notes."""

from pathlib import Path

import pytest

from tests.tools.browser.conversations import TRIP


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "trip.md").write_text(TRIP)
    (folder / "long.txt").write_text("\n".join(f"entry {number}" for number in range(3000)))
    return folder
