"""The interpreter ends with whoever began it, in every way in which that one may end."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.python_sandbox.session import PythonSession
from tests.python_sandbox.conftest import linux, need_sandbox

MARK = "gptoss-test-of-ends-"

PROGRAM = """
import os, signal, sys, threading, time
from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.python_sandbox.session import PythonSession

session = PythonSession(PythonLimits(), unsandboxed={unsandboxed})
session({{"code": "import os"}}, ())
print(session.process, flush=True)
sys.stdin.readline()
{end}
"""

ENDS = {
    "killed": "time.sleep(60)",
    "killed while a cell runs": "session({'code': 'while True: pass'}, ())",
    "killed, with a copy of itself that goes on": "os.fork() or time.sleep(4)\ntime.sleep(60)",
    "leaves": "sys.exit()",
    "leaves at once": "os._exit(1)",
    "crashes": "os.kill(os.getpid(), signal.SIGSEGV)",
}


def descendants_of(process: int) -> set[int]:
    from gptoss_mlx.python_sandbox.processes import descendants

    return {process, *descendants(process)}


def gone(processes: set[int]) -> bool:
    """Whether all of them have ended."""
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            return False
    return True


def until(condition: Callable[[], bool], seconds: float = 8.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("unsandboxed", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_of_a_program_that_ends(end: str, unsandboxed: bool):
    if not unsandboxed:
        need_sandbox()
    program = PROGRAM.format(unsandboxed=unsandboxed, end=ENDS[end])
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert caller.stdin is not None
    assert caller.stdout is not None
    keeper = int(caller.stdout.readline())
    inside = descendants_of(keeper)
    assert len(inside) >= 2
    caller.stdin.write("\n")
    caller.stdin.close()
    if end.startswith("killed"):
        time.sleep(0.5)
        inside |= descendants_of(keeper)
        caller.kill()
    caller.wait(20)
    assert until(lambda: gone(inside)), inside
    caller.stdout.close()


@linux
def test_nothing_is_left_when_the_supervisor_is_killed():
    need_sandbox()
    session = PythonSession(PythonLimits())
    session({"code": "x = 1"}, ())
    assert session.process is not None
    inside = descendants_of(session.process)
    assert len(inside) == 3
    os.kill(session.process, signal.SIGKILL)
    assert until(lambda: gone(inside))
    assert "The interpreter was lost." in session({"code": "x"}, ("x = 1",))
    assert "NameError" in session({"code": "x"}, ("x = 1",))
    session.close()


@linux
@pytest.mark.slow
def test_a_session_that_nobody_holds_ends():
    need_sandbox()
    session = PythonSession(PythonLimits())
    session({"code": "x = 1"}, ())
    assert session.process is not None
    inside = descendants_of(session.process)
    del session
    gc.collect()
    assert until(lambda: gone(inside))
