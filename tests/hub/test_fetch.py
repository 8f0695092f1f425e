"""The download engine against every fault of the stand-in's schedule: the right bytes, or a clear refusal."""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from gptoss_mlx.convert.fetch import FetchOptions, Limiter, Stopped, fetch_file, fetch_range
from gptoss_mlx.convert.hub import Listing, RemoteFile, list_repository, split_name
from gptoss_mlx.convert.part import Part, Writer
from gptoss_mlx.errors import Cancelled, ChecksumError, DownloadError, ModelNotFound, UsageError
from tests.hub.conftest import cut_small
from tests.hub.stand_in import COMMIT, FaultKind, StandInHub

SHARD = "model-00001-of-00002.safetensors"
QUICK = FetchOptions(stall_seconds=0.4, give_up_seconds=4, first_wait_seconds=0.01, longest_wait_seconds=0.1)
IMPATIENT = FetchOptions(stall_seconds=0.3, give_up_seconds=0.5, first_wait_seconds=0.01, longest_wait_seconds=0.1)
REPOSITORY = "openai/gpt-oss-20b"


@pytest.fixture(autouse=True)
def small_pieces(endpoint: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


def get(folder: Path, name: str = SHARD, options: FetchOptions = QUICK, stopped: Stopped | None = None) -> Path:
    listing = list_repository(REPOSITORY, None)
    file = listing.file(name)
    assert file is not None
    folder.mkdir(exist_ok=True)
    return fetch_file(
        listing.url(file), folder, file, options, Limiter(None), stopped or Stopped(), begun=lambda part: None
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_what_a_model_needs_is_listed(hub: StandInHub) -> None:
    listing = list_repository(REPOSITORY, None)
    assert listing.commit == COMMIT
    assert [file.name for file in listing.files] == [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        *(f"model-0000{n}-of-00002.safetensors" for n in range(3)),
    ]
    assert Listing.from_json(listing.to_json()) == listing
    assert len(hub.requests) == 1


def test_a_file_arrives_and_is_verified(hub: StandInHub, published: Path, tmp_path: Path) -> None:
    target = get(tmp_path / "here")
    assert target.read_bytes() == (published / SHARD).read_bytes()
    assert names(tmp_path / "here") == [SHARD]
    assert hub.sent(SHARD) == target.stat().st_size
    assert get(tmp_path / "here", "config.json").read_bytes() == (published / "config.json").read_bytes()
    before = hub.sent()
    get(tmp_path / "here")
    assert hub.sent() == before


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("cut", {"after": 0}),
        ("cut", {"after": 123_457, "times": 5}),
        ("short file", {"after": 99_999, "times": 3}),
        ("wrong length", {"times": 3}),
        ("status", {"status": 429, "retry_after": "0.1"}),
        ("status", {"status": 500, "times": 3}),
        ("status", {"status": 503, "times": 6}),
        ("stall", {"after": 70_000, "times": 2}),
        ("redirect", {}),
        ("slow", {"after": 4_000_000, "times": 9}),
        ("no ranges", {"times": 1e9}),
        ("no ranges", {"times": 1}),
        ("wrong bytes", {}),
    ],
)
def test_a_fault_that_passes_is_survived(
    kind: FaultKind, details: dict[str, object], hub: StandInHub, published: Path, tmp_path: Path
) -> None:
    hub.fail(kind, SHARD, **details)
    target = get(tmp_path / "here")
    assert target.read_bytes() == (published / SHARD).read_bytes()
    assert names(tmp_path / "here") == [SHARD]


@pytest.mark.parametrize(
    ("kind", "details", "message", "left"),
    [
        ("wrong bytes", {}, "arrived with wrong bytes twice", []),
        ("wrong length", {}, "sends the range .* expected it to begin at", [".journal", ".part"]),
        ("cut", {"after": 0}, "the (connection failed|hub ends after 0)", [".journal", ".part"]),
        ("stall", {"after": 0}, "connection failed .nothing came for a while", [".journal", ".part"]),
        ("status", {"status": 404}, "no longer on the hub", [".journal", ".part"]),
        ("status", {"status": 403}, "the hub refuses it", [".journal", ".part"]),
        ("status", {"status": 429}, "wants fewer requests", [".journal", ".part"]),
        ("status", {"status": 503}, "answers HTTP 503", [".journal", ".part"]),
        ("redirect", {}, "sends in circles", [".journal", ".part"]),
    ],
)
def test_a_fault_that_stays_is_one_clear_error(
    kind: FaultKind, details: dict[str, object], message: str, left: list[str], hub: StandInHub, tmp_path: Path
) -> None:
    hub.fail(kind, SHARD, times=1e9, **details)
    expected = ChecksumError if kind == "wrong bytes" else DownloadError
    with pytest.raises(expected, match=message) as caught:
        get(tmp_path / "here", options=IMPATIENT)
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "here") == [SHARD + suffix for suffix in left]


def test_what_was_there_is_not_fetched_again(hub: StandInHub, published: Path, tmp_path: Path) -> None:
    size = (published / SHARD).stat().st_size
    fail_after(hub, 4)
    with pytest.raises(DownloadError):
        get(tmp_path / "here", options=IMPATIENT)
    first = hub.sent(SHARD)
    assert 0 < first < size
    hub.forget()
    assert get(tmp_path / "here").read_bytes() == (published / SHARD).read_bytes()
    assert hub.sent(SHARD) <= size - first + 4 * 50_000


def fail_after(hub: StandInHub, requests: int) -> None:
    """After so many requests of the shard, the hub is down."""
    hub.forget()
    hub.fail("cut", SHARD, times=requests, after=100_000)
    hub.fail("status", SHARD, times=1e9, status=503)


def test_a_part_whose_bytes_changed_on_the_disk_is_mended(hub: StandInHub, published: Path, tmp_path: Path) -> None:
    """As after a power cut: the journal knows of bytes that never reached the disk."""
    fail_after(hub, 6)
    with pytest.raises(DownloadError):
        get(tmp_path / "here", options=IMPATIENT)
    path = tmp_path / "here" / (SHARD + ".part")
    data = bytearray(path.read_bytes())
    data[10_000:10_100] = bytes(100)
    path.write_bytes(data)
    with (tmp_path / "here" / (SHARD + ".journal")).open("a") as journal:
        journal.write("12 nonsense\n99999999999 999999999999 00000000\n17 20")
    hub.forget()
    assert get(tmp_path / "here").read_bytes() == (published / SHARD).read_bytes()


def test_the_part_of_another_file_is_not_used(hub: StandInHub, published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    old = Part(folder, RemoteFile(SHARD, 100_000, "0" * 64, ""))
    writer = Writer(old, 0)
    writer.write(memoryview(bytes(100_000)))
    writer.close()
    old.close()
    assert get(folder).read_bytes() == (published / SHARD).read_bytes()


def test_a_stop_keeps_what_came(hub: StandInHub, published: Path, tmp_path: Path) -> None:
    stopped = Stopped()
    hub.fail("slow", SHARD, times=1e9, after=500_000)
    threading.Timer(0.6, stopped.set).start()
    with pytest.raises(Cancelled):
        get(tmp_path / "here", stopped=stopped)
    first = hub.sent(SHARD)
    hub.forget()
    get(tmp_path / "here")
    assert hub.sent(SHARD) <= (published / SHARD).stat().st_size - first + 4 * 50_000


def test_random_moments_and_any_number_of_faults(hub: StandInHub, published: Path, tmp_path: Path) -> None:
    choice = random.Random(int(os.environ.get("SEED", "5")))
    kinds: list[FaultKind] = ["cut", "short file", "wrong length", "status", "stall", "redirect", "no ranges"]
    for _ in range(30):
        hub.fail(choice.choice(kinds), SHARD, after=choice.randrange(0, 400_000))
    options = FetchOptions(stall_seconds=0.1, give_up_seconds=20, first_wait_seconds=0.01, longest_wait_seconds=0.05)
    assert get(tmp_path / "here", options=options).read_bytes() == (published / SHARD).read_bytes()


def test_the_limit_is_kept(tmp_path: Path, hub: StandInHub) -> None:
    listing = list_repository(REPOSITORY, None)
    file = listing.file(SHARD)
    assert file is not None
    started = time.monotonic()
    fetch_file(listing.url(file), tmp_path, file, QUICK, Limiter(file.size / 0.8), Stopped(), lambda part: None)
    assert 0.6 < time.monotonic() - started < 3


def test_a_range_of_a_file(hub: StandInHub, published: Path) -> None:
    listing = list_repository(REPOSITORY, None)
    file = listing.file(SHARD)
    assert file is not None
    hub.fail("cut", SHARD, after=500)
    hub.fail("no ranges", SHARD)
    got = fetch_range(listing.url(file), file, 100, 2000, QUICK, Stopped())
    assert got == (published / SHARD).read_bytes()[100:2000]


def test_a_hub_that_is_busy_is_asked_again(hub: StandInHub) -> None:
    hub.fail("status", "/api/*", times=2)
    assert list_repository(REPOSITORY, None).commit == COMMIT


def test_what_is_not_there_is_a_clear_error(hub: StandInHub) -> None:
    with pytest.raises(ModelNotFound, match="has no repository openai/other that you may read"):
        list_repository("openai/other", None)
    with pytest.raises(ModelNotFound, match="has no revision 'nowhere'"):
        list_repository(REPOSITORY, "nowhere")
    hub.gated = True
    with pytest.raises(DownloadError, match="is gated; ask for access"):
        list_repository(REPOSITORY, None)
    with pytest.raises(UsageError, match="is no model on the hub"):
        split_name("gpt-oss-20b")
    assert split_name("20b@v1") == (REPOSITORY, "v1")
    hub.close()
    with pytest.raises(DownloadError, match="cannot be reached"):
        list_repository(REPOSITORY, None, give_up_seconds=0.1)


def test_the_token_goes_to_the_hub_and_not_beyond(
    hub: StandInHub, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(ModelNotFound, match="set HF_TOKEN"):
        list_repository(REPOSITORY, None)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.forget()
    assert get(tmp_path / "here").read_bytes() == (published / SHARD).read_bytes()
    seen = {(request.host.split(":")[0], request.authorization) for request in hub.requests}
    assert seen == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}
