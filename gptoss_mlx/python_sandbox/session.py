"""The interpreter of one conversation: begun with its first cell, ended with the conversation."""

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from gptoss_mlx.errors import SandboxError
from gptoss_mlx.python_sandbox.frames import FrameReader, pack_frame
from gptoss_mlx.python_sandbox.interpreter import find_interpreter
from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.python_sandbox.linux_root import SCRATCH_FOLDERS
from gptoss_mlx.python_sandbox.tool import read_code
from gptoss_mlx.tools import current_call

_PROGRAM: Final = (
    "import os, sys; sys.path.append(os.environ['GPTOSS_ROOT']); "
    "from gptoss_mlx.python_sandbox.keeper import main; main()"
)
"""What the keeper's process runs; it imports nothing but the standard library and this package."""

ANSWER_SECONDS: Final = 15.0
"""How long after the end of a cell's time the keeper may be silent before it is given up."""

OPEN_SECONDS: Final = 40.0
"""How long it may take to begin."""

DATA_FOLDER: Final = SCRATCH_FOLDERS[0]
"""Where the model was told, when it was trained, that files are kept: there in a Linux sandbox only."""

SILENT: Final = "[The cell printed nothing and its last line has no value.]"
ANEW: Final = "[The interpreter is a new one: names, imports and files of earlier cells are gone.]"
LOST: Final = "The interpreter had to be ended: names, imports and files are gone."
NO_DATA_FOLDER: Final = f"[There is no {DATA_FOLDER} on this machine. Files can be saved in the current folder.]"
"""What the model reads beside a cell's output."""


class PythonSession:
    """Runs cells, one at a time; what they define stays. Safe to use from several threads."""

    def __init__(self, limits: PythonLimits, *, unsandboxed: bool = False) -> None:
        self._limits = limits
        self._unsandboxed = unsandboxed
        self._has_data_folder = sys.platform == "linux" and not unsandboxed
        self._lock = threading.Lock()
        self._keeper: _Keeper | None = None
        self._closes = 0
        """How often it was closed."""
        self._known: set[str] = set()
        """Cells that the living interpreter has run, or of which the model was told that they are gone."""

    def __call__(self, arguments: dict[str, Any], earlier: Sequence[str]) -> str:
        """The result of the cell `arguments["code"]` as the model reads it. `earlier`: what the model wrote as
        the conversation's cells before.

        Raises SandboxError when there is no sandbox.
        """
        with self._lock:
            code: str = arguments["code"]
            closes = self._closes
            if self._keeper is None:
                self._known.clear()
                self._keeper = open_keeper(self._limits, unsandboxed=self._unsandboxed)
            before = [read_code(written) for written in earlier]
            gone = any(cell not in self._known for cell in before)
            self._known.update((*before, code))
            keeper = self._keeper
            if self._closes != closes:
                # Closed while the interpreter began.
                self._end()
                return f"[{LOST}]"
            call = current_call()
            if call is not None:
                call.on_cancel(keeper.stop)
            answer = keeper.run(code, self._limits.seconds, lambda: call is not None and call.cancelled)
            if not answer["alive"]:
                keeper.close()
                self._keeper = None
            said = describe(answer, self._limits)
            if not self._has_data_folder and f"No such file or directory: '{DATA_FOLDER}" in said:
                said += f"\n{NO_DATA_FOLDER}"
            return f"{ANEW}\n{said}" if gone else said

    def close(self) -> None:
        """Ends the interpreter, a cell that runs too. The next cell begins a new one."""
        self._closes += 1
        keeper = self._keeper
        if keeper is not None:
            keeper.close()
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    @property
    def process(self) -> int | None:
        """Of the supervisor, while there is one."""
        return None if self._keeper is None else self._keeper.process


def check_sandbox(*, unsandboxed: bool = False) -> None:
    """Makes a sandbox, and ends it. Raises SandboxError, saying why there can be none. Looked at once in a process."""
    if unsandboxed not in _checked:
        open_keeper(PythonLimits(), unsandboxed=unsandboxed).close()
        _checked.add(unsandboxed)


_checked: set[bool] = set()


class _Keeper:
    """The supervisor's process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process.pid
        self._answers: IO[bytes] = process.stdout
        self._frames = FrameReader()
        self._writing = threading.Lock()
        self._words: IO[bytes] = process.stdin
        # Also when nobody closes it: when it is forgotten, and when Python ends.
        self.close = weakref.finalize(self, _end, process)
        """Ends it, and the interpreter."""

    def say(self, message: dict[str, Any]) -> None:
        """Raises OSError or ValueError when it is gone."""
        with self._writing:
            self._words.write(pack_frame(message))
            self._words.flush()

    def stop(self) -> None:
        """Stops the cell that runs."""
        with contextlib.suppress(OSError, ValueError):
            self.say({"do": "stop"})

    def run(self, code: str, seconds: float, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """How the cell ended."""
        try:
            self.say({"do": "run", "code": code})
            if cancelled():
                # It was told to stop before there was anything to stop.
                self.stop()
            return self.answer(seconds + ANSWER_SECONDS)
        except (OSError, ValueError):
            return {"ending": "ended", "output": "", "alive": False, "status": None, "leftovers": 0}

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next message. Raises OSError when none comes."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError("the supervisor says nothing")
            data = os.read(self._answers.fileno(), 1 << 16)
            if not data:
                raise ConnectionResetError("the supervisor ended")
            if messages := self._frames.feed(data):
                return messages[0]


def open_keeper(limits: PythonLimits, *, unsandboxed: bool) -> _Keeper:
    """A supervisor with an interpreter that is ready. Raises SandboxError."""
    interpreter = find_interpreter()
    package = Path(__file__).parent.parent
    worker = package / "python_sandbox" / "worker.py"
    settings = {
        "do": "open",
        "executable": interpreter.executable,
        "folders": interpreter.folders,
        "packages": interpreter.packages,
        "worker": str(worker.resolve()),
        "home": os.path.realpath(os.path.expanduser("~")),
        "temporary": tempfile.gettempdir(),
        "unsandboxed": unsandboxed,
        "limits": asdict(limits),
    }
    try:
        process = subprocess.Popen(
            [interpreter.executable, "-I", "-S", "-B", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"GPTOSS_ROOT": str(package.parent)},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise _refusal(f"{interpreter.executable} cannot be started: {error.strerror}", unsandboxed) from error
    keeper = _Keeper(process)
    try:
        keeper.say(settings)
        answer = keeper.answer(OPEN_SECONDS)
    except OSError as error:
        keeper.close()
        raise _refusal(str(error), unsandboxed) from error
    if "ready" not in answer:
        keeper.close()
        raise _refusal(answer["refused"], unsandboxed)
    return keeper


def describe(answer: dict[str, Any], limits: PythonLimits) -> str:
    """What the model reads of a cell: its output, and how it ended if not by itself."""
    lines = [answer["output"].rstrip("\n")] if answer["output"] else []
    ending = answer["ending"]
    said = {
        "stopped": "The cell was stopped by the user.",
        "seconds": f"The cell was stopped: it took longer than {limits.seconds:g} seconds.",
        "cpu_seconds": f"The cell was stopped: it took more than {limits.cpu_seconds:g} seconds of CPU time.",
        "memory_bytes": f"The cell was stopped: it took more than {_mib(limits.memory_bytes)} of memory.",
        "output_bytes": f"The output was cut here and the cell stopped: it printed more than "
        f"{_mib(limits.output_bytes)}.",
        "scratch_bytes": f"The cell was stopped: its files are larger than {_mib(limits.scratch_bytes)} together.",
        "processes": f"The cell was stopped: it began more than {limits.processes} processes.",
        "broken": "The cell disturbed the interpreter's own connection.",
        "ended": _how_ended(answer["status"]),
    }.get(ending)
    if answer["leftovers"]:
        count = answer["leftovers"]
        lines.append(f"[{count} process{'' if count == 1 else 'es'} that the cell left running {_were(count)} ended.]")
    if said is not None or not answer["alive"]:
        lines.append(f"[{' '.join([*([said] if said else []), *([] if answer['alive'] else [LOST])])}]")
    return "\n".join(lines) or SILENT


def _how_ended(status: int | None) -> str:
    if status is None:
        return "The interpreter was lost."
    if status > 128:
        return f"The cell ended the interpreter's process (signal {status - 128})."
    return f"The cell ended the interpreter's process (exit code {status})."


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):g} MiB" if count >= 1 << 20 else f"{count} bytes"


def _refusal(why: str, unsandboxed: bool) -> SandboxError:
    if unsandboxed:
        return SandboxError(f"the python tool cannot start ({why})")
    return SandboxError(
        f"there is no sandbox for the python tool on this machine ({why}); it runs only if it is told to do without: "
        "unsandboxed=True, or --python-unsandboxed"
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the supervisor: its input ends, so that it takes all down; killed where it does not."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        process.stdin.close()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(OSError, ValueError):
        process.stdout.close()
