"""How full the disk gets during a download, measured after every step that changes it, against what the plan said."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.convert import remote_shards
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.convert.destination import SPARE_BYTES
from gptoss_mlx.convert.download import download
from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.fetch import FetchOptions
from gptoss_mlx.convert.landing import DownloadProgress
from gptoss_mlx.errors import Cancelled
from tests.hub.conftest import cut_small
from tests.hub.stand_in import StandInHub

QUICK = FetchOptions(stall_seconds=0.4, give_up_seconds=3, first_wait_seconds=0.01, longest_wait_seconds=0.1)
NOTES_BYTES = 300_000
"""Journals, headers, and that each file ends in a block that is not full."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cut_small(monkeypatch)
    monkeypatch.setattr(remote_shards, "FIRST_BYTES", 1000)
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@contextmanager
def serve(folder: Path, repository: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[StandInHub]:
    from huggingface_hub import constants

    with StandInHub(folder, repository) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        yield hub


class Watch:
    """The most bytes of disk that a folder took."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.most = 0
        self._lock = threading.Lock()
        for name in ("pwrite", "ftruncate"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))
        for name in ("rename", "unlink"):
            monkeypatch.setattr(Path, name, self._watched(getattr(Path, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            # Before too: what goes away was there.
            with self._lock:
                self.most = max(self.most, used(self.folder))
            result = function(*arguments, **keywords)
            with self._lock:
                self.most = max(self.most, used(self.folder))
            return result

        return call


def used(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


@pytest.mark.parametrize(
    ("layout", "dense_bits", "beside"),
    [
        # Everything goes straight to its place.
        ("published", None, 0),
        # The dense weights wait to be quantised; 1.0: as much as the largest shard.
        ("published", 8, 1.0),
        # Gate and up, three quarters of all, wait to be dealt out.
        ("published_mlx", None, 1.0),
    ],
)
def test_the_disk_holds_the_result_and_a_shard_at_most(
    layout: str,
    dense_bits: int | None,
    beside: float,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    folder: Path = request.getfixturevalue(layout)
    largest = max(path.stat().st_size for path in folder.glob("*.safetensors"))
    small = sum(path.stat().st_size for path in folder.glob("*.json"))
    whole = convert_model(folder, tmp_path / "whole", dense_bits=dense_bits)
    plans: list[DownloadPlan] = []
    with serve(folder, "someone/a-gpt-oss", monkeypatch, tmp_path / "cache"):
        watch = Watch(home, monkeypatch)
        report = download("someone/a-gpt-oss", dense_bits=dense_bits, options=QUICK, planned=plans.append)
        monkeypatch.undo()
    for path in whole.folder.glob("*.safetensors"):
        assert (report.folder / path.name).read_bytes() == path.read_bytes()
    planned = plans[0].fit.disk_needed_bytes - SPARE_BYTES
    weights = sum(file.nbytes for file in plans[0].files)
    # The figures of the plan hold, and promise no more than they must.
    assert watch.most <= planned + NOTES_BYTES
    assert planned <= weights + beside * largest + 2 * small
    assert weights <= watch.most
    if beside == 0:
        assert planned <= watch.most + small


def test_what_a_stopped_download_left_is_counted(
    published_mlx: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in each of the shards: what the plan asks for and what is there come to no more than a fresh plan's."""
    stop = threading.Event()

    def stop_in(shard: int) -> Callable[[DownloadProgress], None]:
        def watch(progress: DownloadProgress) -> None:
            if progress.files and progress.files[shard].state != "waiting":
                stop.set()

        return watch

    plans: list[DownloadPlan] = []
    with serve(published_mlx, "someone/a-gpt-oss", monkeypatch, tmp_path / "cache") as hub:
        hub.fail("slow", "*.safetensors", times=1e9, after=3_000_000)
        for shard in (0, 1, 2):
            stop.clear()
            with pytest.raises(Cancelled):
                download("someone/a-gpt-oss", options=QUICK, planned=plans.append, progress=stop_in(shard), stop=stop)
        before = used(home)
        report = download("someone/a-gpt-oss", options=QUICK, planned=plans.append)
        sent = sum(hub.sent(path.name) for path in published_mlx.glob("*.safetensors"))
    whole = convert_model(published_mlx, tmp_path / "whole").folder
    for path in whole.glob("*.safetensors"):
        assert (report.folder / path.name).read_bytes() == path.read_bytes()
    # 50 000 bytes of each connection, three times, and headers.
    size = sum(path.stat().st_size for path in published_mlx.glob("*.safetensors"))
    assert sent <= size + 3 * (4 * 50_000 + 200_000)
    first, last = plans[0].fit.disk_needed_bytes, plans[-1].fit.disk_needed_bytes
    assert last <= first - before + NOTES_BYTES
