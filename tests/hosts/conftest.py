"""Hosts for tests: ranks on this machine, other hosts behind a stand-in for ssh, and what is left of them."""

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptoss_mlx import GptOss, load
from tests.hosts.processes import MARK, marked_processes

LOOPBACK = ["127.0.0.1", "127.0.0.1"]


@pytest.fixture(scope="module")
def mark() -> Iterator[str]:
    """A word in the environment of every process that the tests of a module start; none is left in the end."""
    word = uuid.uuid4().hex
    os.environ[MARK] = word
    yield word
    del os.environ[MARK]
    deadline = time.monotonic() + 10
    while (left := marked_processes(word)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == {}


@pytest.fixture(scope="module")
def two(mark: str) -> Iterator[GptOss]:
    """The pocket model on two ranks of this machine."""
    with load("pocket", hosts=LOOPBACK, host_timeout_seconds=4.0, date="2026-01-31") as model:
        yield model


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str) -> Callable[[str], Path]:
    """The home of a host behind the stand-in for ssh."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "ssh_here.py"}" "$@"\n')
    program.chmod(0o755)
    hosts = tmp_path / "hosts"
    hosts.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GPTOSS_TEST_HOSTS", str(hosts))
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "here"))

    def home(name: str) -> Path:
        (hosts / name).mkdir(exist_ok=True)
        return hosts / name

    return home
