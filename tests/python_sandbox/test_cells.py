"""What a cell gives: output, value, traceback; what stays between cells; how each limit is told."""

import threading
import time
from collections.abc import Callable

import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.python_sandbox.session import ANEW, LOST, NO_DATA_FOLDER, SILENT, PythonSession
from tests.python_sandbox.conftest import MIB, SMALL, Notebook, linux, mac, need_sandbox


def test_output_and_the_last_value_are_given_in_order(shared: Notebook):
    assert shared("import sys\nprint('a')\nprint('b', file=sys.stderr)\n'c'") == "a\nb\n'c'"
    assert shared("6 * 7") == "42"
    assert shared("_ + 1") == "43"
    assert shared("6 * 7;\nNone") == SILENT
    assert shared("word = 'ü日\\ud800'\nprint(word)") == "ü日\\ud800"


def test_names_imports_and_files_stay(shared: Notebook):
    shared("import math\ndef double(x): return 2 * x\nopen('notes.txt', 'w').write('kept')")
    assert shared("double(math.floor(2.5)), open('notes.txt').read()") == "(4, 'kept')"


def test_where_there_is_no_data_folder_the_model_is_told_where_files_go():
    session = PythonSession(SMALL, unsandboxed=True)
    try:
        said = session({"code": "open('/mnt/data/none/x', 'w')"}, ())
        assert said.endswith(f"No such file or directory: '/mnt/data/none/x'\n{NO_DATA_FOLDER}")
    finally:
        session.close()


def test_what_is_raised_is_a_traceback_of_the_cell_alone(shared: Notebook):
    said = shared("def f(x):\n    return 1 / x\n\nf(0)")
    assert said.startswith("Traceback (most recent call last):\n")
    assert "    f(0)" in said
    assert "    return 1 / x" in said
    assert said.endswith("ZeroDivisionError: division by zero")
    assert "worker.py" not in said
    assert "SyntaxError" in shared("def f(:")
    assert shared("raise SystemExit(3)") == "SystemExit: 3"
    assert shared("1 + 1") == "2"


def test_there_is_nothing_to_read_and_await_works_as_in_a_notebook(shared: Notebook):
    assert shared("input('name? ')").endswith("EOFError: EOF when reading a line")
    assert shared("import asyncio\nawait asyncio.sleep(0)\nasync def f(): return 5\nawait f()") == "5"


def test_installed_packages_are_there(shared: Notebook):
    assert shared("import numpy\nint(numpy.arange(4).sum())") == "6"


def test_a_cell_that_tampers_with_its_streams_disturbs_no_other(shared: Notebook):
    shared("import sys, os\nsys.stdout.close()")
    assert shared("print('there')") == "there"
    shared("os.close(1); os.close(2); sys.stdout = None; sys.stderr = 5")
    assert shared("print('there')") == "there"


@linux
def test_a_copy_of_the_interpreter_does_not_go_on_behind_the_cell(shared: Notebook):
    assert shared("import os\nif os.fork() == 0:\n    print('child', flush=True)\nelse:\n    os.wait()") == "child"
    assert shared("'alone'") == "'alone'"


def test_a_long_cell_and_a_long_result_pass(shared: Notebook):
    text = "x" * (300 * 1024)
    assert shared(f"print(len({text!r}))") == str(len(text))
    assert len(shared("print('y' * 500_000)")) == 500_000


def test_conversations_know_nothing_of_each_other(begin: Callable[..., Notebook]):
    one, other = begin(), begin()
    one("secret = 1")
    assert "NameError" in other("secret")
    assert one("secret") == "1"


def test_a_cell_that_takes_too_long_is_stopped_and_names_stay(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(seconds=0.5))
    cells("kept = 1")
    said = cells("print('begun', flush=True)\nwhile True: pass")
    assert said.startswith("begun\nTraceback")
    assert said.endswith("KeyboardInterrupt\n[The cell was stopped: it took longer than 0.5 seconds.]")
    assert cells("kept") == "1"


def test_a_cell_that_does_not_let_itself_be_stopped_is_killed_and_the_model_is_told(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(seconds=0.5))
    cells("kept = 1")
    said = cells("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass")
    assert said == f"[The cell was stopped: it took longer than 0.5 seconds. {LOST}]"
    said = cells("kept")
    assert said.startswith(ANEW + "\n")
    assert "NameError" in said
    assert ANEW not in cells("1")


def test_output_without_end_is_cut_and_stopped(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(output_bytes=1000))
    cells("kept = 1")
    output, _, told = cells("while True: print('spam')").partition("\n[")
    assert 990 <= len(output) <= 1000
    assert told == "The output was cut here and the cell stopped: it printed more than 1000 bytes.]"
    assert cells("kept") == "1"


def test_what_the_user_stops_ends_within_a_second_and_names_stay(begin: Callable[..., Notebook]):
    cells = begin()
    cells("kept = 1")
    keeper = cells.session._keeper
    assert keeper is not None
    threading.Timer(0.3, keeper.stop).start()
    start = time.monotonic()
    said = cells("import time\ntime.sleep(30)")
    assert time.monotonic() - start < 1.3
    assert said.endswith("[The cell was stopped by the user.]")
    assert cells("kept") == "1"


def test_an_end_of_the_interpreter_is_told_and_the_next_cell_has_a_new_one(begin: Callable[..., Notebook]):
    cells = begin()
    said = cells("import os\nprint('last', flush=True)\nos._exit(7)")
    assert said == f"last\n[The cell ended the interpreter's process (exit code 7). {LOST}]"
    assert cells("1 + 1") == f"{ANEW}\n2"
    said = cells("import ctypes\nctypes.string_at(0)")
    assert said == f"[The cell ended the interpreter's process (signal 11). {LOST}]"


@pytest.mark.slow
def test_a_session_that_was_closed_begins_anew(begin: Callable[..., Notebook]):
    cells = begin()
    cells("kept = 1")
    cells.session.close()
    cells.session.close()
    assert cells.session.process is None
    assert cells("'kept' in globals()") == f"{ANEW}\nFalse"


@pytest.mark.slow
def test_closing_ends_a_cell_that_runs(begin: Callable[..., Notebook]):
    cells = begin()
    threading.Timer(1.0, cells.session.close).start()
    start = time.monotonic()
    assert "lost" in cells("import time\ntime.sleep(30)")
    assert time.monotonic() - start < 10
    assert cells.session.process is None


def test_cells_of_an_older_interpreter_are_told_of_once():
    need_sandbox()
    session = PythonSession(SMALL)
    try:
        assert session({"code": "1"}, ("x = 1", "y = 2")) == f"{ANEW}\n1"
        assert session({"code": "2"}, ("x = 1", "y = 2", "1")) == "2"
    finally:
        session.close()


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"memory_bytes": -1}, {"processes": 0}])
def test_a_limit_has_to_be_above_nothing(wrong: dict[str, int]):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} of PythonLimits is .*; expected more than 0"):
        PythonLimits(**wrong)  # type: ignore[arg-type]


@linux
@pytest.mark.slow
def test_cpu_time_of_all_processes_is_limited(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(cpu_seconds=1, seconds=60))
    cells("kept = 1")
    said = cells("import os\nif os.fork() == 0:\n    while True: pass\nwhile True: pass")
    assert "[1 process that the cell left running was ended.]" in said
    assert said.endswith("[The cell was stopped: it took more than 1 seconds of CPU time.]")
    assert cells("kept") == "1"


@mac
@pytest.mark.slow
def test_memory_that_is_used_is_limited(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(memory_bytes=256 * MIB, seconds=60))
    said = cells("import os, time\nb = bytearray(os.urandom(1 << 20)) * 2000\ntime.sleep(5)")
    assert said == f"[The cell was stopped: it took more than 256 MiB of memory. {LOST}]"
    assert cells("1") == f"{ANEW}\n1"


@linux
@pytest.mark.slow
def test_memory_is_limited_in_one_process_and_in_all_together(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(memory_bytes=256 * MIB, seconds=60))
    cells("kept = 1")
    assert cells("b = bytearray(10 << 30)").endswith("MemoryError")
    assert cells("kept") == "1"
    said = cells("""
import os, time
for _ in range(8):
    if os.fork() == 0:
        b = bytearray(os.urandom(1 << 20)) * 100
        time.sleep(60)
time.sleep(60)""")
    assert said == f"[The cell was stopped: it took more than 256 MiB of memory. {LOST}]"
    assert cells("1") == f"{ANEW}\n1"


@linux
@pytest.mark.slow
def test_pages_that_processes_share_count_once(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(memory_bytes=256 * MIB, seconds=60))
    said = cells("""
import os, time
shared = bytearray(os.urandom(1 << 20)) * 150
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        time.sleep(1); os._exit(0)
    children.append(child)
[os.waitpid(child, 0)[1] for child in children]""")
    assert said == "[0, 0, 0, 0]"
