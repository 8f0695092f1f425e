"""How fast `gptoss pull` is against curl on the same files, and how much memory it takes. Slow: a 1 GB model."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptoss_mlx.models import POCKET_FOLDER
from tests.random_checkpoint import random_checkpoint

MEMORY_BYTES = 1 << 30
LINE = 50e6
"""Bytes a second of the line on which the two are compared: 400 Mbit/s."""


MEASURED = """
import resource, sys
from pathlib import Path
from gptoss_mlx.cli import main

code = main(["pull", "20b"])
status = Path("/proc/self/status")
if status.exists():
    # Not ru_maxrss: on Linux that begins with what the process had before it became this one.
    print(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""
"""Pulls 20b and prints the most memory that the process had, in bytes."""


@pytest.fixture(scope="module")
def gigabyte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of 1 GB in three shards."""
    folder = random_checkpoint(
        tmp_path_factory.mktemp("gigabyte") / "gpt-oss-20b",
        shards=3,
        vocab_size=3021,
        hidden_size=1920,
        intermediate_size=1920,
        num_hidden_layers=5,
        num_local_experts=32,
    )
    shutil.copy(POCKET_FOLDER / "tokenizer.json", folder)
    return folder


@contextmanager
def served(folder: Path, rate: float | None) -> Iterator[str]:
    """The address of a stand-in in a process of its own."""
    command = [sys.executable, "-m", "tests.hub.stand_in", str(folder), *([] if rate is None else [str(rate)])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def curl_seconds(url: str, folder: Path, tmp_path: Path) -> float:
    """How long curl takes for all shards, one after the other, onto the disk."""
    started = time.monotonic()
    for shard in sorted(folder.glob("*.safetensors")):
        address = f"{url}/openai/gpt-oss-20b/resolve/main/{shard.name}"
        subprocess.run(["curl", "-sfL", "-o", str(tmp_path / shard.name), address], check=True)
    seconds = time.monotonic() - started
    for shard in folder.glob("*.safetensors"):
        (tmp_path / shard.name).unlink()
    return seconds


def pull(url: str, home: Path) -> tuple[float, int]:
    """How long a pull takes, from the command to its end, and the most memory that it had."""
    environment = {**os.environ, "HF_ENDPOINT": url, "GPTOSS_HOME": str(home), "HF_HOME": str(home / "hf")}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started, int(done.stdout.splitlines()[-1])


def test_a_pull_takes_little_memory(larger: Path, tmp_path: Path) -> None:
    with served(larger, None) as url:
        _, memory = pull(url, tmp_path)
    assert memory < MEMORY_BYTES


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.alone
def test_a_pull_keeps_up_with_curl(gigabyte: Path, tmp_path: Path) -> None:
    """On a line that is slower than the disk, hashing and converting cost next to nothing."""
    with served(gigabyte, LINE) as url:
        theirs = curl_seconds(url, gigabyte, tmp_path)
        ours, memory = pull(url, tmp_path)
    print(f"at {LINE / 1e6:.0f} MB/s: curl {theirs:.1f} s, pull {ours:.1f} s, {memory / (1 << 20):.0f} MiB of memory")
    assert memory < MEMORY_BYTES
    assert ours < 1.1 * theirs + 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.alone
def test_without_a_limit_the_figures_are_printed(gigabyte: Path, tmp_path: Path) -> None:
    """Faster than any line: what counts then is two sha256, Python's share of HTTP, and the start of the process."""
    with served(gigabyte, None) as url:
        theirs = curl_seconds(url, gigabyte, tmp_path)
        ours, memory = pull(url, tmp_path)
    print(f"unlimited: curl {theirs:.1f} s, pull {ours:.1f} s, {memory / (1 << 20):.0f} MiB of memory")
    assert memory < MEMORY_BYTES
