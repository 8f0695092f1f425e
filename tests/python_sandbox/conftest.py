"""Interpreters for the tests. Where no sandbox can be made, it is the refusal that is tested."""

import re
import sys
from collections.abc import Callable, Iterator

import pytest

from gptoss_mlx.errors import SandboxError
from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.python_sandbox.session import PythonSession, check_sandbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="how Linux does it")
mac = pytest.mark.skipif(sys.platform != "darwin", reason="how macOS does it")

MIB = 1 << 20
SMALL = PythonLimits(seconds=20, memory_bytes=512 * MIB, scratch_bytes=16 * MIB, file_bytes=8 * MIB)


def need_sandbox() -> None:
    """Skips the test where there can be no sandbox, after a look at how that is said."""
    try:
        check_sandbox()
    except SandboxError as error:
        said = str(error)
        assert re.fullmatch(r"there is no sandbox for the python tool on this machine \(.+\); it runs only if .*", said)
        assert "--python-unsandboxed" in said
        pytest.skip(said)


class Notebook:
    """A session as a person uses it."""

    def __init__(self, session: PythonSession) -> None:
        self.session = session
        self.cells: list[str] = []

    def __call__(self, code: str) -> str:
        result = self.session({"code": code}, tuple(self.cells))
        self.cells.append(code)
        return result


@pytest.fixture
def begin() -> Iterator[Callable[..., Notebook]]:
    """Begins interpreters, which end with the test."""
    need_sandbox()
    begun: list[PythonSession] = []

    def make(limits: PythonLimits = SMALL) -> Notebook:
        begun.append(PythonSession(limits))
        return Notebook(begun[-1])

    yield make
    for session in begun:
        session.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Notebook]:
    """An interpreter for tests that leave it as it was."""
    need_sandbox()
    session = PythonSession(SMALL)
    yield Notebook(session)
    session.close()
