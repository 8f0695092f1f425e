"""`download` against the stand-in: the same bytes as a conversion, or nothing, whatever happens on the way."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gptoss_mlx
from gptoss_mlx.convert import download_plan, remote_shards
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.convert.download import download
from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.fetch import FetchOptions
from gptoss_mlx.convert.landing import DownloadProgress
from gptoss_mlx.convert.verify import verify_model
from gptoss_mlx.errors import (
    Cancelled,
    ChecksumError,
    DownloadError,
    GptOssError,
    NotEnoughDisk,
    NotEnoughMemory,
    UsageError,
    WeightsError,
)
from gptoss_mlx.models import list_models
from gptoss_mlx.settings import models_folder
from tests.hub.conftest import cut_small
from tests.hub.stand_in import COMMIT, FaultKind, StandInHub

QUICK = FetchOptions(stall_seconds=0.4, give_up_seconds=3, first_wait_seconds=0.01, longest_wait_seconds=0.1)
IMPATIENT = FetchOptions(stall_seconds=0.3, give_up_seconds=0.4, first_wait_seconds=0.01, longest_wait_seconds=0.1)
SHARDS = tuple(f"model-0000{n}-of-00002.safetensors" for n in range(3))


@pytest.fixture(autouse=True)
def home(endpoint: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cut_small(monkeypatch)
    monkeypatch.setattr(remote_shards, "FIRST_BYTES", 1000)
    home = tmp_path / "a home with späces"
    monkeypatch.setenv("GPTOSS_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def converted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, dict[str, bytes]]:
    """What the result must be, by dense bits: a conversion out of a folder of the hub's cache."""
    root = tmp_path_factory.mktemp("converted")
    snapshot = fill_cache(root / "hub", published)
    return {bits: content(convert_model(snapshot, root / f"{bits}", dense_bits=bits).folder) for bits in (None, 8)}


def fill_cache(cache: Path, published: Path, names: tuple[str, ...] | None = None) -> Path:
    """A cache as huggingface_hub lays it out, with these files; the snapshot's folder."""
    with StandInHub(published) as hub:
        files = {
            path.name: hub.sha256(path) if hub.is_large(path) else str(hub.entry(path)["oid"])
            for path in hub.files()
            if path.parent == published
        }
    repository = cache / "models--openai--gpt-oss-20b"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name, checksum in files.items():
        if names is None or name in names:
            shutil.copy(published / name, repository / "blobs" / checksum)
            (snapshot / name).symlink_to(f"../../blobs/{checksum}")
    return snapshot


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names() -> list[str]:
    return [model.name for model in list_models()[0]]


def test_a_model_is_pulled_and_is_what_a_conversion_makes(
    hub: StandInHub, published: Path, converted: dict[int | None, dict[str, bytes]], home: Path
) -> None:
    seen: list[DownloadProgress] = []
    plans: list[DownloadPlan] = []
    report = gptoss_mlx.download("20b", options=QUICK, progress=seen.append, planned=plans.append)
    assert report.folder == home / "models" / "gpt-oss-20b"
    assert content(report.folder) == converted[None]
    assert names() == ["pocket", "gpt-oss-20b"]
    assert [path.name for path in report.folder.parent.iterdir()] == ["gpt-oss-20b"]
    assert verify_model(report.folder).total_bytes == report.total_bytes
    assert hub.sent("original/*") == hub.sent("metal/*") == 0
    for shard in SHARDS:
        size = (published / shard).stat().st_size
        assert size <= hub.sent(shard) < size + 20_000
    assert seen[-1].state == "done"
    assert plans[0].fit.result_bytes == sum(len(converted[None][file.name]) for file in plans[0].files)
    # A second call does nothing, and asks nothing.
    hub.forget()
    again = download("20b", options=QUICK)
    assert (again.already_there, again.folder, again.total_bytes) == (True, report.folder, report.total_bytes)
    assert hub.requests == []


def test_dense_bits(converted: dict[int | None, dict[str, bytes]], home: Path) -> None:
    report = download("openai/gpt-oss-20b@main", dense_bits=8, options=QUICK)
    assert report.folder.name == "gpt-oss-20b-8bit"
    assert content(report.folder) == converted[8]


@pytest.mark.parametrize(
    ("kind", "pattern", "details"),
    [
        ("cut", "*.safetensors", {"after": 150_000, "times": 20}),
        ("short file", "*", {"after": 120_000, "times": 9}),
        ("wrong length", "*", {"times": 3}),
        ("status", "*", {"status": 503, "times": 7}),
        ("stall", SHARDS[2], {"after": 90_000, "times": 2}),
        ("no ranges", "*", {"times": 1e9}),
        ("wrong bytes", "tokenizer.json", {}),
        ("wrong bytes", SHARDS[0], {}),
    ],
)
def test_faults_that_pass(
    kind: FaultKind,
    pattern: str,
    details: dict[str, object],
    hub: StandInHub,
    converted: dict[int | None, dict[str, bytes]],
) -> None:
    hub.fail(kind, pattern, **details)
    assert content(download("20b", options=QUICK).folder) == converted[None]


@pytest.mark.parametrize(
    ("kind", "pattern", "details", "error"),
    [
        ("wrong bytes", SHARDS[1], {}, (ChecksumError, WeightsError)),
        ("wrong bytes", "config.json", {}, ChecksumError),
        ("status", SHARDS[2], {"status": 404}, DownloadError),
        ("status", "*", {"status": 500}, DownloadError),
        ("wrong length", "*.safetensors", {}, DownloadError),
        ("stall", "*", {"after": 100}, DownloadError),
    ],
)
def test_faults_that_stay_leave_nothing_listed_and_the_next_try_goes_on(
    kind: FaultKind,
    pattern: str,
    details: dict[str, object],
    error: type[GptOssError] | tuple[type[GptOssError], ...],
    hub: StandInHub,
    converted: dict[int | None, dict[str, bytes]],
) -> None:
    hub.fail(kind, pattern, times=1e9, **details)
    with pytest.raises(error) as caught:
        download("20b", options=IMPATIENT)
    assert "\n" not in str(caught.value)
    assert names() == ["pocket"]
    hub.forget()
    assert content(download("20b", options=QUICK).folder) == converted[None]


def test_files_of_the_hubs_cache_are_used_in_place(
    hub: StandInHub, published: Path, converted: dict[int | None, dict[str, bytes]], tmp_path: Path
) -> None:
    snapshot = fill_cache(tmp_path / "hub cache", published, (SHARDS[0], SHARDS[2], "tokenizer.json"))
    assert content(download("20b", options=QUICK).folder) == converted[None]
    assert hub.sent(SHARDS[0]) == hub.sent(SHARDS[2]) == hub.sent("tokenizer.json") == 0
    assert (snapshot / SHARDS[0]).read_bytes() == (published / SHARDS[0]).read_bytes()


def test_a_damaged_file_of_the_hubs_cache_is_not_used(
    hub: StandInHub, published: Path, converted: dict[int | None, dict[str, bytes]], tmp_path: Path
) -> None:
    snapshot = fill_cache(tmp_path / "hub cache", published)
    for name in (SHARDS[1], "tokenizer.json"):
        damaged = bytearray((snapshot / name).read_bytes())
        damaged[-1000] ^= 1
        (snapshot / name).resolve().write_bytes(damaged)
    assert content(download("20b", options=QUICK).folder) == converted[None]
    assert hub.sent(SHARDS[0]) == 0
    assert hub.sent(SHARDS[1]) >= (published / SHARDS[1]).stat().st_size


def test_offline_with_everything_in_the_cache_there_is_no_request(
    hub: StandInHub,
    published: Path,
    converted: dict[int | None, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set and openai/gpt-oss-20b is not in"):
        download("20b", options=QUICK)
    fill_cache(tmp_path / "hub cache", published)
    assert content(download("20b", options=QUICK).folder) == converted[None]
    assert hub.requests == []


def test_a_stop_is_heard_and_the_next_call_goes_on(
    hub: StandInHub, published: Path, converted: dict[int | None, dict[str, bytes]], home: Path
) -> None:
    hub.fail("slow", SHARDS[1], times=1e9, after=1_000_000)
    stop = threading.Event()

    def stop_later(progress: DownloadProgress) -> None:
        if progress.files and 0 < progress.files[1].done_bytes < progress.files[1].total_bytes:
            stop.set()

    with pytest.raises(Cancelled, match="the same call goes on"):
        download("20b", options=QUICK, progress=stop_later, stop=stop)
    assert names() == ["pocket"]
    first = hub.sent(SHARDS[1])
    assert first > 0
    hub.forget()
    assert content(download("20b", options=QUICK).folder) == converted[None]
    assert hub.sent(SHARDS[1]) <= (published / SHARDS[1]).stat().st_size - first + 8 * 50_000 + 16_000
    assert not any(request.path.startswith("/api/") for request in hub.requests)


def test_two_downloads_of_one_model_one_waits(
    hub: StandInHub, published: Path, converted: dict[int | None, dict[str, bytes]]
) -> None:
    hub.fail("slow", SHARDS[0], times=2, after=2_000_000)
    states: list[str] = []
    reports = []

    def second() -> None:
        reports.append(download("20b", options=QUICK, progress=lambda progress: states.append(progress.state)))

    thread = threading.Thread(target=second)

    def begin_second(progress: DownloadProgress) -> None:
        if progress.state == "working" and thread.ident is None:
            thread.start()
            time.sleep(0.5)

    first = download("20b", options=QUICK, progress=begin_second)
    thread.join(60)
    assert "waiting" in states
    assert reports[0].already_there
    assert content(first.folder) == converted[None]
    assert [path.name for path in first.folder.parent.iterdir()] == ["gpt-oss-20b"]
    for shard in SHARDS:
        assert hub.sent(shard) < (published / shard).stat().st_size + 40_000


def test_a_small_file_that_was_cut_by_a_power_failure_is_brought_again(
    converted: dict[int | None, dict[str, bytes]], home: Path
) -> None:
    stop_early("gpt-oss-20b")
    folder = home / "models" / "gpt-oss-20b.partial" / "download"
    for name in ("config.json", "tokenizer.json"):
        size = (folder / name).stat().st_size if (folder / name).exists() else 100
        (folder / name).write_bytes(bytes(size))
    assert content(download("20b", options=QUICK).folder) == converted[None]


def test_a_disk_that_is_too_small_is_refused_before_a_byte(
    hub: StandInHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_plan, "_free_bytes", lambda folder: 70 << 20)
    with pytest.raises(NotEnoughDisk, match=r"gpt-oss-20b takes .* more of the disk and 73.4 MB are free"):
        download("20b", options=QUICK)
    assert hub.sent("*.safetensors") < 20_000
    assert not home.exists()


def test_memory_that_is_too_small_is_refused_with_advice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from gptoss_mlx.device import this_device

    small = replace(this_device(), memory_bytes=1_000_000, working_set_bytes=2_000_000)
    monkeypatch.setattr(download_plan, "this_device", lambda: small)
    with pytest.raises(NotEnoughMemory, match=r"Metal recommends 2.0 MB; even --dense-bits 4 takes"):
        download("20b", options=QUICK)
    assert not home.exists()
    assert download("20b", options=QUICK, force=True).folder.is_dir()


def test_a_disk_that_fills_up_on_the_way_is_one_sentence(
    hub: StandInHub, converted: dict[int | None, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    left = 2_000_000
    real_pwrite, real_write = os.pwrite, os.write

    def full_pwrite(file: int, data: memoryview, offset: int) -> int:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full_pwrite)
    with pytest.raises(NotEnoughDisk, match="what is finished is kept: free some space"):
        download("20b", options=QUICK)
    monkeypatch.setattr(os, "pwrite", real_pwrite)
    left = 1_000

    def full_write(file: int, data: memoryview) -> int:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(file, data)

    monkeypatch.setattr(os, "write", full_write)
    with pytest.raises(NotEnoughDisk, match="what is finished is kept: free some space"):
        download("20b", options=QUICK)
    monkeypatch.setattr(os, "write", real_write)
    assert names() == ["pocket"]
    assert content(download("20b", options=QUICK).folder) == converted[None]


WITHOUT_PRIVILEGES = """
import ctypes, os, sys
if os.geteuid() == 0:
    # root passes every permission by these two capabilities: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH.
    for capability in (1, 2):
        assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "gptoss_mlx.cli", *sys.argv[1:]])
"""
"""Runs gptoss as somebody who may only do what permissions allow; PR_CAPBSET_DROP is 24."""


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="root passes every permission here")
@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_folder_without_permission_is_refused_in_one_sentence(
    mode: int, hub: StandInHub, tmp_path: Path, converted: dict[int | None, dict[str, bytes]]
) -> None:
    """For real, in a process without root's privileges."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(mode)
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "GPTOSS_HOME": str(closed / "home")}

    def pull(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", WITHOUT_PRIVILEGES, "pull", "20b", *arguments]
        environment = {**os.environ, **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    for arguments in ((), ("--dry-run",)) if mode == 0o000 else ((),):
        refused = pull(*arguments)
        assert refused.returncode == 2, refused.stderr
        error = refused.stderr.splitlines()[-1]
        assert "closed" in error
        said = "cannot be read" if mode == 0o000 else "cannot be written to"
        assert f"{said} (Permission denied); make it" in error
        assert "Traceback" not in refused.stderr
    closed.chmod(0o755)
    assert pull().returncode == 0
    assert content(closed / "home" / "models" / "gpt-oss-20b") == converted[None]


def test_a_place_that_cannot_be_written_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def refuse(path: Path, *arguments: object, **keywords: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match=r"gpt-oss-20b.partial cannot be written to .Permission denied.; make it"):
        download("20b", options=QUICK)


def test_another_model_in_the_place_is_not_touched(home: Path, hub: StandInHub) -> None:
    download("20b", options=QUICK)
    with pytest.raises(UsageError, match=r"holds another model already .openai/gpt-oss-20b at c0ffee.*published"):
        download("20b", path=home / "models" / "gpt-oss-20b", dense_bits=4, options=QUICK)
    assert download("20b@main", options=QUICK).already_there
    assert download(f"20b@{COMMIT[:12]}", options=QUICK).already_there
    (home / "models" / "gpt-oss-20b-8bit").mkdir()
    (home / "models" / "gpt-oss-20b-8bit" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no converted model; remove it yourself"):
        download("20b", dense_bits=8, options=QUICK)
    stop_early("other")
    with pytest.raises(UsageError, match="holds a download that was stopped"):
        convert_model(hub.folder, home / "models" / "other")


def stop_early(name: str) -> None:
    """Leaves a download to `name` that ended in the middle."""
    stop = threading.Event()
    with pytest.raises(Cancelled):
        download(
            "20b",
            path=models_folder() / name,
            options=QUICK,
            stop=stop,
            progress=lambda progress: stop.set(),
        )
