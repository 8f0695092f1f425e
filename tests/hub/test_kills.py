"""`gptoss pull` killed at any moment: never half a model, and the next pull goes on to the same bytes.

Of each kill, no more than 16 MiB come from the hub a second time.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx.models import list_models
from tests.hub.stand_in import StandInHub

LOST_BYTES = 16 << 20
"""What a kill may cost."""

STEPS = 1000
"""About as many as a pull takes."""

KILLED_AT = """
import os, shutil, sys
from pathlib import Path
from gptoss_mlx.cli import main
from gptoss_mlx.convert import fetch, part

fetch.SMALL_BYTES, part.EXTENT_BYTES = 200_000, 50_000
left = int(sys.argv[1])

def counted(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*arguments, **keywords)
    return call

# Every way in which a download changes the disk: the process dies just before the n-th of these calls.
for name in ("fsync", "write", "pwrite", "ftruncate", "truncate", "link"):
    setattr(os, name, counted(getattr(os, name)))
Path.rename, Path.unlink, Path.mkdir = map(counted, (Path.rename, Path.unlink, Path.mkdir))
shutil.rmtree = counted(shutil.rmtree)
sys.exit(main(["pull", "20b"]))
"""
"""Pulls 20b; the process dies at the argv[1]-th step that changes the disk."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StandInHub:
    hub = StandInHub(folder)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return hub


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def pull() -> subprocess.Popen[bytes]:
    return start("-m", "gptoss_mlx.cli", "pull", "20b")


def finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error.decode()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_listed(home: Path, whole: dict[str, bytes]) -> None:
    """What is listed is whole."""
    target = home / "models" / "gpt-oss-20b"
    assert [model.name for model in list_models()[0]] == ["pocket", *(["gpt-oss-20b"] if target.exists() else [])]
    if target.exists():
        found = content(target)
        assert {name: found.get(name) for name in whole} == whole


def die_at_steps(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, *, kills: int, seed: int) -> None:
    choice = random.Random(seed)
    target = home / "models" / "gpt-oss-20b"
    with serve(folder, monkeypatch):
        finish(pull())
        whole = content(target)
        shutil.rmtree(target)
        died = 0
        while died < kills:
            process = start(
                "-c", KILLED_AT, str(int(540 ** choice.random() * 1.5) if died % 2 else choice.randrange(500))
            )
            _, error = process.communicate(timeout=60)
            assert process.returncode in (0, 9), error.decode()
            died += process.returncode == 9
            check_listed(home, whole)
            finish(pull())
            assert content(target) == whole
            shutil.rmtree(target)
            assert list((home / "models").iterdir()) == []


def test_death_at_a_step(published: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die_at_steps(published, home, monkeypatch, kills=1, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_death_at_sixty_steps(published: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die_at_steps(published, home, monkeypatch, kills=60, seed=2)


def die_mending(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, *, kills: int, seed: int) -> None:
    """A model is damaged, and pulls that mend it die; what was there stays until it is whole."""
    choice = random.Random(seed)
    target = home / "models" / "gpt-oss-20b"
    with serve(folder, monkeypatch):
        finish(pull())
        whole = content(target)
        died = 0
        while died < kills:
            (target / "layer-03.safetensors").unlink()
            (target / "layer-00.safetensors").write_bytes(bytes(len(whole["layer-00.safetensors"])))
            damaged = content(target)
            process = start("-c", KILLED_AT, str(choice.randrange(120)))
            _, error = process.communicate(timeout=60)
            assert process.returncode in (0, 9), error.decode()
            died += process.returncode == 9
            if target.exists():
                found = content(target)
                assert found == damaged or {name: found.get(name) for name in whole} == whole
            finish(pull())
            assert content(target) == whole
            assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_death_while_a_model_is_mended(published: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die_mending(published, home, monkeypatch, kills=1, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_death_at_thirty_steps_of_mending(published: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die_mending(published, home, monkeypatch, kills=30, seed=4)


def kill_at_bytes(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, *, kills: int, seed: int) -> list[int]:
    """What each kill cost: bytes that the hub sent a second time."""
    choice = random.Random(seed)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    target = home / "models" / "gpt-oss-20b"
    costs = []
    with serve(folder, monkeypatch) as hub:
        finish(pull())
        whole = content(target)
        shutil.rmtree(target)
        hub.rate = 60e6
        while len(costs) < kills:
            hub.forget()
            moment = choice.randrange(size)
            process = pull()
            while hub.sent("*.safetensors") < moment and process.poll() is None:
                time.sleep(0.001)
            time.sleep(choice.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            check_listed(home, whole)
            finish(pull())
            costs.append(hub.sent("*.safetensors") - size)
            assert content(target) == whole
            shutil.rmtree(target)
    return costs


@pytest.mark.slow
def test_kill_at_random_bytes(larger: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = time.time_ns() if os.environ.get("RANDOM") else 1
    assert max(kill_at_bytes(larger, home, monkeypatch, kills=2, seed=seed)) <= LOST_BYTES


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kill_at_forty_random_bytes(larger: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = kill_at_bytes(larger, home, monkeypatch, kills=40, seed=2)
    print(f"bytes sent twice: {max(costs) / 1e6:.1f} MB at most, {sum(costs) / len(costs) / 1e6:.1f} MB in the mean")
    assert max(costs) <= LOST_BYTES


@pytest.mark.slow
def test_kill_again_and_again_comes_to_an_end(larger: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt keeps what the ones before it brought."""
    size = sum(path.stat().st_size for path in larger.glob("*.safetensors"))
    with serve(larger, monkeypatch) as hub:
        hub.rate = 60e6
        kills = 0
        while kills < 3:
            before = hub.sent("*.safetensors")
            process = pull()
            while hub.sent("*.safetensors") < before + size // 4:
                assert process.poll() is None
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        finish(pull())
        assert hub.sent("*.safetensors") <= size + kills * LOST_BYTES
    assert [model.name for model in list_models()[0]] == ["pocket", "gpt-oss-20b"]
