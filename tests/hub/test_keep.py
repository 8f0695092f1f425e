"""What `keep_download` leaves in the hub's cache is what huggingface_hub itself would have left there."""

import shutil
import threading
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache

from gptoss_mlx.convert import download_plan, remote_shards
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.convert.destination import SPARE_BYTES
from gptoss_mlx.convert.download import download
from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.fetch import FetchOptions
from gptoss_mlx.convert.landing import DownloadProgress
from gptoss_mlx.errors import Cancelled, NotEnoughDisk, UsageError
from gptoss_mlx.models import remove_model
from tests.hub.conftest import cut_small
from tests.hub.stand_in import COMMIT, StandInHub

QUICK = FetchOptions(stall_seconds=0.4, give_up_seconds=3, first_wait_seconds=0.01, longest_wait_seconds=0.1)
REPOSITORY = "openai/gpt-oss-20b"
SHARDS = tuple(f"model-0000{n}-of-00002.safetensors" for n in range(3))


@pytest.fixture(autouse=True)
def home(endpoint: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cut_small(monkeypatch)
    monkeypatch.setattr(remote_shards, "FIRST_BYTES", 1000)
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub cache"


def needed(published: Path) -> list[Path]:
    return [path for path in published.iterdir() if path.is_file() and path.name != "README.md"]


def check_cache(cache: Path, published: Path) -> None:
    """As huggingface_hub itself reads it, without a request."""
    snapshot = Path(snapshot_download(REPOSITORY, cache_dir=cache, local_files_only=True))
    assert snapshot.name == COMMIT
    for path in needed(published):
        found = try_to_load_from_cache(REPOSITORY, path.name, cache_dir=cache)
        assert found == str(snapshot / path.name)
        assert (snapshot / path.name).is_symlink()
        assert not Path(snapshot / path.name).readlink().is_absolute()
        assert (snapshot / path.name).read_bytes() == path.read_bytes()
    scanned = scan_cache_dir(cache)
    assert not scanned.warnings
    (repository,) = scanned.repos
    assert repository.refs.keys() == {"main"}
    assert repository.size_on_disk == sum(path.stat().st_size for path in needed(published))


def test_what_is_kept_is_found_by_huggingface_hub(hub: StandInHub, published: Path, cache: Path) -> None:
    report = download("20b", keep_download=True, options=QUICK)
    check_cache(cache, published)
    sent = hub.sent()
    # The hub itself would not send a byte of it again.
    for path in needed(published):
        hf_hub_download(REPOSITORY, path.name, cache_dir=cache, endpoint=hub.url)
    assert hub.sent() == sent
    # And the model is what it is without, down to the manifest.
    kept = {path.name: path.read_bytes() for path in report.folder.iterdir()}
    remove_model("20b")
    shutil.rmtree(cache)
    again = download("20b", options=QUICK)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == kept
    assert not (cache / "models--openai--gpt-oss-20b" / "blobs").exists()


def test_with_dense_bits_the_same_files_are_kept(published: Path, cache: Path, tmp_path: Path) -> None:
    report = download("20b", dense_bits=8, keep_download=True, options=QUICK)
    check_cache(cache, published)
    whole = convert_model(published, tmp_path / "whole", dense_bits=8).folder
    for path in whole.glob("*.safetensors"):
        assert (report.folder / path.name).read_bytes() == path.read_bytes()


def test_a_stopped_download_goes_on_and_keeps_all_of_it(hub: StandInHub, published: Path, cache: Path) -> None:
    stop = threading.Event()

    def stop_later(progress: DownloadProgress) -> None:
        if progress.files and 0 < progress.files[1].done_bytes < progress.files[1].total_bytes:
            stop.set()

    hub.fail("slow", SHARDS[1], times=1e9, after=1_000_000)
    with pytest.raises(Cancelled):
        download("20b", keep_download=True, options=QUICK, progress=stop_later, stop=stop)
    hub.forget()
    download("20b", keep_download=True, options=QUICK)
    check_cache(cache, published)
    assert hub.sent(SHARDS[0]) == 0


def test_a_damaged_file_of_the_cache_is_replaced(hub: StandInHub, published: Path, cache: Path) -> None:
    download("20b", keep_download=True, options=QUICK)
    remove_model("20b")
    snapshot = cache / "models--openai--gpt-oss-20b" / "snapshots" / COMMIT
    for name in (SHARDS[1], "tokenizer.json"):
        damaged = bytearray((snapshot / name).read_bytes())
        damaged[-1000] ^= 1
        (snapshot / name).resolve().write_bytes(damaged)
    (snapshot / SHARDS[2]).unlink()
    hub.forget()
    download("20b", keep_download=True, options=QUICK)
    check_cache(cache, published)
    assert hub.sent(SHARDS[0]) == hub.sent(SHARDS[2]) == 0


def test_the_plan_counts_what_is_kept(
    hub: StandInHub, published: Path, cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[DownloadPlan] = []
    shards = sum((published / name).stat().st_size for name in SHARDS)
    small = sum(path.stat().st_size for path in needed(published) if path.suffix != ".safetensors")
    download("20b", keep_download=True, options=QUICK, planned=plans.append)
    fit = plans[0].fit
    assert fit.kept_bytes == shards
    assert fit.disk_needed_bytes == fit.result_bytes + shards + 3 * small + SPARE_BYTES
    assert any(line.startswith("hub's cache") for line in fit.lines())
    remove_model("20b")
    download("20b", keep_download=True, options=QUICK, planned=plans.append)
    assert plans[1].fit.kept_bytes == 0
    # A cache on another disk has a need of its own.
    remove_model("20b")
    shutil.rmtree(cache)
    monkeypatch.setattr(download_plan, "_is_elsewhere", lambda folder, repository: True)
    real = download_plan._free_bytes
    monkeypatch.setattr(
        download_plan, "_free_bytes", lambda path: 1_000_000 if "hub cache" in str(path) else real(path)
    )
    with pytest.raises(
        NotEnoughDisk, match=r"the hub's cache would get 9.2 MB and its disk has 1.0 MB free; free some"
    ):
        download("20b", keep_download=True, options=QUICK, planned=plans.append)
    assert plans[2].fit.disk_needed_bytes < fit.disk_needed_bytes
    assert not home.joinpath("models").exists() or not list(home.joinpath("models").iterdir())


def test_a_model_that_is_here_cannot_bring_its_download_back(published: Path, cache: Path) -> None:
    download("20b", options=QUICK)
    with pytest.raises(UsageError, match="get that with `hf download openai/gpt-oss-20b`, or remove the model first"):
        download("20b", keep_download=True, options=QUICK)
    remove_model("20b")
    download("20b", keep_download=True, options=QUICK)
    assert download("20b", keep_download=True, options=QUICK).already_there


def test_another_disk_gets_a_copy(published: Path, cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.is_relative_to(home) and Path(target).is_relative_to(cache):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    download("20b", keep_download=True, options=QUICK)
    check_cache(cache, published)
