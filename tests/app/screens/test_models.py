"""The models screen: what is listed, what can be done."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from gptoss_mlx.app.model_download import ModelDownload
from gptoss_mlx.app.model_entries import ModelEntry, list_entries
from gptoss_mlx.app.screens.models import ModelsScreen
from gptoss_mlx.app.screens.question import Question
from tests.app.screens.around import Work, note, run_screen, said, until
from tests.app.test_model_download import GB, Scripted, working

POCKET = ModelEntry("here", "pocket", "pocket", ("5.3 M",), ("/pocket",), removable=False)
SMALL = ModelEntry("published", "20b", "gpt-oss-20b", ("13.8 GB to get", "fits"), ("from the hub",), removable=False)
LARGE = ModelEntry(
    "published", "120b", "gpt-oss-120b", ("65.2 GB to get", "does not fit"), ("hub", "why"), fits=False, removable=False
)
HERE = ModelEntry("here", "gpt-oss-20b", "gpt-oss-20b", ("20.9 B",), ("/models/gpt-oss-20b",))


def opened(
    entries: list[ModelEntry],
    work: Work,
    download: ModelDownload | None = None,
    loaded: str = "pocket",
    size: tuple[int, int] = (80, 24),
) -> list[object]:
    async def when_listed(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count == len(entries))
        await work(pilot)

    return run_screen(
        lambda: ModelsScreen(loaded, download or ModelDownload(Scripted()), entries=lambda: entries), when_listed, size
    )


async def to_question(pilot: Pilot[None]) -> None:
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, Question))


def test_with_the_pocket_model_alone_20b_is_offered_with_size_and_fit() -> None:
    async def work(pilot: Pilot[None]) -> None:
        assert "The pocket model is on" in said(pilot)
        assert "13.8 GB to get · fits" in said(pilot)
        await to_question(pilot)
        assert "Get gpt-oss-20b? 13.8 GB to get, fits." in said(pilot)

    opened([POCKET, SMALL, LARGE], work)


def test_enter_loads_a_model_that_is_here() -> None:
    async def work(pilot: Pilot[None]) -> None:
        assert "The pocket model is on" not in said(pilot)
        await pilot.press("down", "enter")

    assert opened([POCKET, HERE, LARGE], work) == ["gpt-oss-20b"]


def test_yes_begins_the_download_and_its_progress_is_shown() -> None:
    script = Scripted(working(5 * GB, 2 * GB))
    download = ModelDownload(script)

    async def work(pilot: Pilot[None]) -> None:
        await to_question(pilot)
        # Yes is the default where it fits.
        await pilot.press("enter")
        await until(pilot, lambda: "5.0 of 10.0 GB" in said(pilot))
        assert "35 %" in said(pilot)
        await pilot.press("s")
        await until(pilot, lambda: "stopped; Enter on it goes on" in said(pilot))

    opened([POCKET, SMALL, LARGE], work, download)
    assert script.calls == [("20b", False)]


def test_for_what_does_not_fit_no_is_the_default_and_yes_means_nevertheless() -> None:
    script = Scripted()
    download = ModelDownload(script)

    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("down")
        await to_question(pilot)
        assert "why" in said(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        assert script.calls == []
        await to_question(pilot)
        await pilot.press("y")
        await until(pilot, lambda: script.calls)

    opened([POCKET, SMALL, LARGE], work, download)
    download.close()
    assert script.calls == [("120b", True)]


def test_closing_the_screen_does_not_end_the_download() -> None:
    download = ModelDownload(Scripted(working(GB)))
    download.begin("20b")

    async def work(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "1.0 of 10.0 GB" in said(pilot))
        await pilot.press("escape")

    assert opened([POCKET, SMALL], work, download) == [None]
    assert download.state == "running"
    download.close()


def test_when_a_download_is_done_the_list_is_made_anew() -> None:
    script = Scripted()
    download = ModelDownload(script)
    download.begin("20b")
    entries = [POCKET, SMALL]

    async def work(pilot: Pilot[None]) -> None:
        entries[1] = HERE
        script.go.set()
        await until(pilot, lambda: "20.9 B" in said(pilot))
        assert "is here and verified" in said(pilot)

    opened(entries, work, download)


def test_the_loaded_model_is_marked_and_cannot_be_removed() -> None:
    async def work(pilot: Pilot[None]) -> None:
        assert "▸ gpt-oss-20b" in said(pilot)
        await pilot.press("ctrl+x")
        await until(pilot, lambda: "is loaded; load another model first" in note(pilot))

    opened([POCKET, HERE], work, loaded="gpt-oss-20b")


def test_a_model_is_removed_after_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    folder = tmp_path / "models" / "gpt-oss-20b"
    folder.mkdir(parents=True)
    (folder / "gptoss.json").write_text("{}")

    async def work(pilot: Pilot[None]) -> None:
        await pilot.press("down", "ctrl+x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        assert folder.exists()
        await pilot.press("ctrl+x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: "Removed gpt-oss-20b" in note(pilot))
        assert not folder.exists()

    opened([POCKET, HERE], work)


def test_a_machine_without_models_lists_the_pocket_model_and_openais(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    entries = list_entries()
    assert [(entry.kind, entry.name) for entry in entries] == [
        ("here", "pocket"),
        ("published", "20b"),
        ("published", "120b"),
    ]
    assert "13.8 GB to get" in entries[1].facts
    assert not entries[0].removable


def test_a_stopped_download_can_be_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    (tmp_path / "models" / "gpt-oss-20b.partial" / "download").mkdir(parents=True)
    (tmp_path / "models" / "mine.partial").mkdir()
    kinds = {entry.name: (entry.kind, entry.removable) for entry in list_entries()}
    assert kinds["20b"] == ("stopped", True)
    assert kinds["mine"] == ("leftover", True)
