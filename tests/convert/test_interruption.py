"""A conversion that is killed at any moment leaves no half model, and goes on to the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.models import list_models
from tests.convert.conftest import Layouts
from tests.random_checkpoint import random_checkpoint

KILLED_AT = """
import os, shutil, sys
from pathlib import Path
from gptoss_mlx.convert.conversion import convert_model

left = int(sys.argv[1])

def counted(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*arguments, **keywords)
    return call

# Every way in which a conversion changes the disk: the process dies just before the n-th of these calls.
os.fsync, os.write, Path.rename, Path.unlink = map(counted, (os.fsync, os.write, Path.rename, Path.unlink))
shutil.rmtree = counted(shutil.rmtree)
convert_model(sys.argv[2], dense_bits=int(sys.argv[3]) or None, overwrite=sys.argv[3] != "0")
print("done")
"""
"""Converts argv[2]; the process dies at the argv[1]-th step that changes the disk. With argv[3] for dense bits (but 0)
it replaces what is there."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names() -> list[str]:
    return [model.name for model in list_models()[0]]


def die_at(step: int, source: Path, *, replace_with_bits: int = 0) -> bool:
    """A conversion that dies at that step; False when it was through before."""
    command = [sys.executable, "-c", KILLED_AT, str(step), str(source), str(replace_with_bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 9


def check_moments(steps: list[int], source: Path, home: Path, tmp_path: Path) -> None:
    """Dies at each step of a fresh conversion; each time the next attempt must finish it to the right bytes."""
    whole = content(convert_model(source, tmp_path / "whole").folder)
    target = home / "models" / source.name
    for step in steps:
        died = die_at(step, source)
        if died and not target.exists():
            assert names() == ["pocket"]
        else:
            assert names() == ["pocket", source.name]
        assert convert_model(source).folder == target
        assert names() == ["pocket", source.name]
        assert content(target) == whole
        for path in target.iterdir():
            path.unlink()
        target.rmdir()
        assert list(target.parent.iterdir()) == []


def test_death_at_steps_spread_over_the_conversion(source: Path, home: Path, tmp_path: Path) -> None:
    check_moments([0, 1, 3, 9, 17, 24, 28, 31], source, home, tmp_path)


@pytest.mark.slow
def test_death_at_every_step(source: Path, home: Path, tmp_path: Path) -> None:
    last = next(step for step in range(15, 200) if not die_at(step, source))
    for path in sorted((home / "models").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    check_moments(list(range(last + 1)), source, home, tmp_path)


@pytest.mark.slow
def test_death_while_a_model_is_replaced_leaves_the_old_or_the_new_one(
    source: Path, home: Path, tmp_path: Path
) -> None:
    target = home / "models" / f"{source.name}-8bit"
    new = content(convert_model(source, tmp_path / "new", dense_bits=8).folder)
    convert_model(source, target)
    old = content(target)
    steps = count_steps(source)
    for step in range(steps - 12, steps + 1):
        died = die_at(step, source, replace_with_bits=8)
        for fault in list_models()[1]:
            assert ".partial: a conversion" in fault
        if target.exists():
            found = {name: data for name, data in content(target).items() if name in new}
            assert found in (old, new)
        assert died == (step < steps)
        convert_model(source, dense_bits=8, overwrite=True)
        assert content(target) == new
        assert [path.name for path in target.parent.iterdir()] == [target.name]
        convert_model(source, target, overwrite=True)


def count_steps(source: Path) -> int:
    """How many steps a conversion to 8 bits takes that replaces another one; it leaves the place as it was."""
    low, high = 0, 200
    while low < high:
        middle = (low + high) // 2
        if die_at(middle, source, replace_with_bits=8):
            low = middle + 1
        else:
            high = middle
        convert_model(source, source.parent / "home" / "models" / f"{source.name}-8bit", overwrite=True)
    return low


def test_death_again_and_again_comes_to_an_end(source: Path, home: Path, tmp_path: Path) -> None:
    """Each attempt keeps the files that the ones before it finished."""
    whole = content(convert_model(source, tmp_path / "whole").folder)
    attempts = 1
    while die_at(30, source):
        attempts += 1
        assert attempts < 20
    assert attempts >= 2
    convert_model(source)
    assert content(home / "models" / source.name) == whole


@pytest.fixture(scope="module")
def large(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes a good part of a second to convert."""
    folder = random_checkpoint(
        tmp_path_factory.mktemp("large") / "gpt-oss-large", vocab_size=3021, num_local_experts=64, hidden_size=4096
    )
    (folder / "tokenizer.json").write_bytes((layouts.folder("huggingface") / "tokenizer.json").read_bytes())
    return folder


def start(source: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gptoss_mlx.cli", "convert", str(source)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_work(process: subprocess.Popen[str], home: Path) -> None:
    """Until the conversion writes tensors."""
    end = time.monotonic() + 30
    while not list(home.glob("models/*.partial/*.safetensors*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_ctrl_c_says_that_the_same_command_goes_on(large: Path, home: Path) -> None:
    process = start(large)
    wait_for_work(process, home)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    if process.returncode == 0:
        pytest.skip("the conversion was faster than the signal")
    assert (process.returncode, out, error) == (130, "", "stopped; the same command goes on from here\n")
    assert names() == ["pocket"]
    assert list_models()[1] == [
        "gpt-oss-large.partial: a conversion that runs or was stopped; the same command goes on with it"
    ]


def kill_at_random_moments(source: Path, home: Path, tmp_path: Path, *, kills: int, seed: int) -> None:
    whole = content(convert_model(source, tmp_path / "whole").folder)
    target = home / "models" / source.name
    moments = random.Random(seed)
    killed = 0
    while killed < kills:
        process = start(source)
        wait_for_work(process, home)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert names() == (["pocket", source.name] if target.exists() else ["pocket"])
        if target.exists():
            assert content(target) | {"lock": b""} == whole | {"lock": b""}
            for path in target.iterdir():
                path.unlink()
            target.rmdir()
    convert_model(source)
    assert content(target) == whole


def test_kill_at_random_moments(large: Path, home: Path, tmp_path: Path) -> None:
    kill_at_random_moments(large, home, tmp_path, kills=5, seed=time.time_ns() if os.environ.get("RANDOM") else 1)


@pytest.mark.slow
def test_kill_at_fifty_random_moments(large: Path, home: Path, tmp_path: Path) -> None:
    kill_at_random_moments(large, home, tmp_path, kills=50, seed=2)
