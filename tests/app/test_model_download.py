"""The download of a model beside the app."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.app.model_download import ModelDownload
from gptoss_mlx.app.widgets.download_line import describe
from gptoss_mlx.convert.download import DownloadReport
from gptoss_mlx.convert.landing import DownloadProgress
from gptoss_mlx.errors import Cancelled, DownloadError, NotEnoughMemory

GB = 10**9


def working(downloaded: int, converted: int = 0) -> DownloadProgress:
    return DownloadProgress("working", (), downloaded, 10 * GB, converted, 10 * GB)


class Scripted:
    """Stands in for `gptoss_mlx.download`: reports what it is told to, until it is stopped or let go."""

    def __init__(self, *reports: DownloadProgress, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.go = threading.Event()
        self._reports = reports
        self._error = error

    def __call__(
        self, model: str, *, force: bool, progress: Callable[[DownloadProgress], None], stop: threading.Event
    ) -> DownloadReport:
        self.calls.append((model, force))
        for report in self._reports:
            progress(report)
        while not self.go.wait(0.005):
            if stop.is_set():
                raise Cancelled("stopped")
        if self._error is not None:
            raise self._error
        return DownloadReport(Path("gpt-oss-20b"), "openai/gpt-oss-20b", None, 10 * GB, 1.0)


def wait_for(download: ModelDownload, state: str) -> None:
    end = time.monotonic() + 10
    while download.state != state:
        assert time.monotonic() < end, f"it is {download.state}, not {state}"
        time.sleep(0.005)


def test_it_runs_beside_its_caller_and_tells_of_every_change() -> None:
    script = Scripted(working(2 * GB, GB), working(4 * GB, 2 * GB))
    download = ModelDownload(script)
    changes: list[str] = []
    download.on_change = lambda: changes.append(download.state)
    assert download.begin("20b")
    script.go.set()
    wait_for(download, "done")
    assert script.calls == [("20b", False)]
    assert changes[0] == "running"
    assert changes[-1] == "done"


def test_while_one_runs_no_other_begins() -> None:
    script = Scripted()
    download = ModelDownload(script)
    download.begin("20b")
    assert not download.begin("120b")
    download.close()
    assert download.model == "20b"


def test_stopped_it_can_be_gone_on_with() -> None:
    script = Scripted(working(GB))
    download = ModelDownload(script)
    download.begin("20b")
    download.stop()
    wait_for(download, "stopped")
    script.go.set()
    assert download.begin("20b")
    wait_for(download, "done")
    assert len(script.calls) == 2


@pytest.mark.parametrize(
    ("error", "does_not_fit"),
    [(NotEnoughMemory("too large"), True), (DownloadError("no network"), False), (RuntimeError("odd"), False)],
)
def test_what_went_wrong_is_one_sentence(error: Exception, does_not_fit: bool) -> None:
    script = Scripted(error=error)
    script.go.set()
    download = ModelDownload(script)
    download.begin("20b")
    wait_for(download, "failed")
    assert download.does_not_fit is does_not_fit
    assert str(error) in (download.error or "")
    assert str(error) in describe(download).plain


def test_leaving_the_app_ends_it() -> None:
    download = ModelDownload(Scripted())
    download.begin("20b")
    download.close()
    assert download.state == "stopped"


def test_before_any_nothing_is_said() -> None:
    assert describe(ModelDownload()).plain == ""


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (None, ["asking the hub"]),
        (DownloadProgress("waiting", (), 0, 0, 0, 0), ["another process"]),
        (working(5 * GB, 2 * GB), ["35 %", "5.0 of 10.0 GB", "2.0 GB ready"]),
        (DownloadProgress("working", (), 0, 0, 0, 0), ["0 %"]),
    ],
)
def test_how_far_it_is_is_said_in_figures(progress: DownloadProgress | None, words: list[str]) -> None:
    script = Scripted(*([] if progress is None else [progress]))
    download: Any = ModelDownload(script)
    download.begin("20b")
    end = time.monotonic() + 10
    while download.progress is not progress and time.monotonic() < end:
        time.sleep(0.005)
    text = describe(download).plain
    download.close()
    for word in words:
        assert word in text
