"""A damaged model is mended by the same call that made it: to the same bytes, with no more than is needed."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_mlx.convert import remote_shards
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.convert.destination import SPARE_BYTES
from gptoss_mlx.convert.download import download
from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.fetch import FetchOptions
from gptoss_mlx.convert.landing import DownloadProgress
from gptoss_mlx.convert.verify import verify_model
from gptoss_mlx.errors import Cancelled, ChecksumError, DownloadError, UsageError
from gptoss_mlx.models import list_models
from tests.hub.conftest import cut_small
from tests.hub.stand_in import StandInHub

QUICK = FetchOptions(stall_seconds=0.4, give_up_seconds=3, first_wait_seconds=0.01, longest_wait_seconds=0.1)
SHARDS = tuple(f"model-0000{n}-of-00002.safetensors" for n in range(3))
HEADERS = 3 * 10_000
"""What the shards' headers take."""


@pytest.fixture(autouse=True)
def home(endpoint: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cut_small(monkeypatch)
    monkeypatch.setattr(remote_shards, "FIRST_BYTES", 1000)
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def model(home: Path, hub: StandInHub) -> Path:
    folder = download("20b", options=QUICK).folder
    hub.forget()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path: Path, position: int = -1000) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "fault", "files"),
    [
        (lambda folder: (folder / "layer-03.safetensors").unlink(), "layer-03.safetensors is missing", ["layer-03"]),
        (lambda folder: cut(folder / "layer-00.safetensors"), "layer-00.safetensors has", ["layer-00"]),
        (lambda folder: flip(folder / "head.safetensors"), "head.safetensors is not as it was written", ["head"]),
        # On the border of two shards.
        (lambda folder: flip(folder / "layer-02.safetensors"), "layer-02.safetensors is not", ["layer-02"]),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing", []),
        (lambda folder: flip(folder / "config.json", 20), "config.json is not as it was written", []),
        (lambda folder: (folder / "generation_config.json").write_text("{}"), "generation_config.json has 2 of", []),
    ],
)
def test_what_is_damaged_comes_again_and_nothing_else(
    damage: Callable[[Path], object], fault: str, files: list[str], model: Path, hub: StandInHub, published: Path
) -> None:
    whole = content(model)
    damage(model)
    plans: list[DownloadPlan] = []
    report = download("20b", options=QUICK, verify=True, planned=plans.append)
    assert content(model) == whole
    assert fault in report.mended[0]
    assert len(report.mended) == 1
    weights = sum(len(whole[f"{name}.safetensors"]) for name in files)
    assert hub.sent("*.safetensors") <= weights + HEADERS
    if "tokenizer.json" not in fault:
        assert hub.sent("tokenizer.json") == 0
    # And no more of the disk than that.
    small = sum(path.stat().st_size for path in published.glob("*.json"))
    assert plans[0].fit.disk_needed_bytes <= weights + 2 * small + SPARE_BYTES
    assert plans[0].fit.download_bytes <= weights + HEADERS
    assert [path.name for path in model.parent.iterdir()] == [model.name]
    assert download("20b", options=QUICK, verify=True).already_there


def test_without_verify_only_what_shows_is_mended(model: Path, hub: StandInHub) -> None:
    whole = content(model)
    flip(model / "layer-01.safetensors")
    assert download("20b", options=QUICK).already_there
    assert hub.requests == []
    with pytest.raises(ChecksumError, match=r"expected .*; gptoss pull 20b gets what is damaged anew"):
        verify_model(model)
    # What shows makes everything looked at.
    (model / "layer-04.safetensors").unlink()
    assert len(download("20b", options=QUICK).mended) == 2
    assert content(model) == whole


@pytest.mark.parametrize("lost", [False, True])
def test_a_manifest_that_is_damaged_is_made_anew_from_the_files(lost: bool, model: Path, hub: StandInHub) -> None:
    whole = content(model)
    manifest = model / "gptoss.json"
    manifest.unlink() if lost else manifest.write_bytes(whole["gptoss.json"][:-10])
    report = download("20b", options=QUICK)
    assert content(model) == whole
    assert ("gptoss.json is missing" if lost else "gptoss.json is not JSON") in report.mended[0]
    assert hub.sent("*.safetensors") <= HEADERS
    assert hub.sent("tokenizer.json") == 0


def test_without_a_manifest_what_is_not_the_hubs_is_not_taken_over(
    model: Path, hub: StandInHub, published: Path
) -> None:
    whole = content(model)
    (model / "gptoss.json").unlink()
    flip(model / "layer-00.safetensors")
    report = download("20b", options=QUICK)
    assert content(model) == whole
    assert "layer-00.safetensors is not known to be good" in report.mended
    assert "layer-05.safetensors is not known to be good" not in report.mended
    assert hub.sent(SHARDS[2]) <= HEADERS
    assert hub.sent(SHARDS[0]) >= (published / SHARDS[0]).stat().st_size


def test_quantised_weights_come_again_where_they_must(home: Path, hub: StandInHub, published: Path) -> None:
    folder = download("20b", dense_bits=8, options=QUICK).folder
    whole = content(folder)
    flip(folder / "layer-05.safetensors")
    hub.forget()
    download("20b", dense_bits=8, options=QUICK, verify=True)
    assert content(folder) == whole
    assert hub.sent(SHARDS[0]) <= HEADERS
    assert hub.sent(SHARDS[2]) < (published / SHARDS[2]).stat().st_size + HEADERS
    (folder / "gptoss.json").unlink()
    download("20b", dense_bits=8, options=QUICK)
    assert content(folder) == whole


def test_a_conversion_of_a_folder_is_mended_from_the_hub(
    home: Path, hub: StandInHub, published: Path, tmp_path: Path
) -> None:
    """Its manifest knows of no commit, so the hub's checksums decide what of it is good."""
    folder = convert_model(published).folder
    before = content(folder)
    flip(folder / "layer-05.safetensors")
    download("20b", options=QUICK, verify=True)
    after = content(folder)
    assert {name for name in before if before[name] != after[name]} == {"gptoss.json"}
    assert hub.sent(SHARDS[0]) <= HEADERS


def test_a_stopped_mending_leaves_what_was_there_and_goes_on(model: Path, hub: StandInHub) -> None:
    whole = content(model)
    flip(model / "layer-03.safetensors")
    (model / "layer-05.safetensors").unlink()
    damaged = content(model)
    hub.fail("slow", "*.safetensors", times=1e9, after=500_000)
    stop = threading.Event()

    def stop_later(progress: DownloadProgress) -> None:
        if progress.files and any(0 < file.done_bytes < file.total_bytes for file in progress.files):
            stop.set()

    with pytest.raises(Cancelled):
        download("20b", options=QUICK, progress=stop_later, stop=stop)
    assert content(model) == damaged
    hub.forget()
    hub.fail("status", "*.safetensors", times=1e9, status=404)
    with pytest.raises(DownloadError):
        download("20b", options=QUICK)
    assert content(model) == damaged
    hub.forget()
    download("20b", options=QUICK)
    assert content(model) == whole


def test_wrong_bytes_while_mending_do_not_touch_what_was_good(model: Path, hub: StandInHub) -> None:
    whole = content(model)
    (model / "layer-03.safetensors").unlink()
    damaged = content(model)
    with pytest.raises(ChecksumError):
        # After the headers.
        download("20b", options=QUICK, planned=lambda plan: hub.fail("wrong bytes", SHARDS[1], times=1e9))
    assert content(model) == damaged
    hub.forget()
    download("20b", options=QUICK)
    assert content(model) == whole


def test_a_disk_without_links_gets_copies(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("Operation not supported")

    whole = content(model)
    (model / "layer-03.safetensors").unlink()
    monkeypatch.setattr(os, "link", refuse)
    download("20b", options=QUICK)
    assert content(model) == whole


def test_what_is_no_model_or_another_one_is_not_mended(model: Path, home: Path, published: Path) -> None:
    (model / "layer-03.safetensors").unlink()
    with pytest.raises(UsageError, match="holds another model already"):
        download("20b", path=model, dense_bits=4, options=QUICK)
    with pytest.raises(UsageError, match="holds another model already"):
        download("someone/another", path=model, options=QUICK)
    shutil.copytree(published, home / "models" / "mine")
    with pytest.raises(UsageError, match="is no converted model; remove it yourself"):
        download("20b", path=home / "models" / "mine", options=QUICK)
    (model / "gptoss.json").unlink()
    (model / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no converted model; remove it yourself"):
        download("20b", options=QUICK)


@pytest.mark.slow
def test_the_command_says_what_was_wrong(
    model: Path, hub: StandInHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def pull(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gptoss_mlx.cli", "pull", "20b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    flip(model / "layer-01.safetensors")
    (model / "layer-02.safetensors").unlink()
    assert [listed.name for listed in list_models()[0]] == ["pocket"]
    said = (
        "gpt-oss-20b is damaged: layer-01.safetensors is not as it was written; layer-02.safetensors is missing; mend"
    )
    dry = pull("--dry-run")
    assert (dry.returncode, said in dry.stdout) == (0, True)
    assert not (model / "layer-02.safetensors").exists()
    done = pull()
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert ": mended in " in done.stdout
    assert "every byte of it; nothing to do" in pull().stdout
    verify_model(model)
