"""The interpreter within the sandbox: runs cells one after the other, in one name space, as a notebook does.

Started by `keeper.py` as a script of its own: it imports nothing of the package. Its descriptors:

    0    nothing to read
    1 2  what the cell prints
    3    cells come in: number and length (unsigned, 4 bytes each), then the text
    4    the number of a cell goes out when it is done (0: ready)

What runs here may do anything to this process, so whoever reads descriptor 4 believes nothing else.
"""

import ast
import contextlib
import fcntl
import io
import linecache
import os
import resource
import signal
import struct
import sys
import time
import traceback
import types
from collections.abc import Coroutine
from typing import Any

INPUT, DONE = 3, 4
"""The descriptors."""

_running = False
"""Whether a cell runs: then an interrupt ends it."""


def main() -> None:
    """Serves until there is nobody to serve."""
    process = os.getpid()
    # Where the cell cannot close them by accident; none of them goes to a program that it starts.
    cells, done, output, nothing = (_moved(descriptor) for descriptor in (INPUT, DONE, 1, 0))
    signal.signal(signal.SIGINT, _interrupted)
    for folder in os.environ.pop("PACKAGES", "").split(os.pathsep):
        if folder:
            sys.path.append(folder)
    cpu_seconds = int(os.environ.pop("CPU_SECONDS", "0"))
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    number = 0
    while True:
        os.write(done, struct.pack("=I", number))
        number, length = struct.unpack("=II", _read(cells, 8))
        text = _read(cells, length).decode("utf-8")
        for descriptor, kept in ((0, nothing), (1, output), (2, output)):
            os.dup2(kept, descriptor)
        stream = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(1, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        # One stream for both keeps what is printed in order.
        sys.stdin, sys.stdout, sys.stderr = open(os.devnull, encoding="utf-8"), stream, stream  # noqa: SIM115
        if cpu_seconds:
            # Beside whoever watches: of each process, counted from the cell's beginning.
            most = int(time.process_time()) + cpu_seconds
            resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        run_cell(text, f"<cell {number}>", module.__dict__)
        # The cell may have closed what it prints to.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        if os.getpid() != process:
            # The cell forked, and this is the copy.
            os._exit(0)


def run_cell(text: str, name: str, names: dict[str, Any]) -> None:
    """Runs the code; its value, if it ends in an expression, and what it raises are printed."""
    global _running
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    try:
        _running = True
        tree = ast.parse(text, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        _run(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if isinstance(last, ast.Expr):
            expression = ast.Expression(last.value)
            value = _run(compile(expression, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
            if value is not None:
                names["_"] = value
                sys.stdout.write(f"{value!r}\n")
    except BaseException as error:
        _running = False
        _show(error)
    finally:
        _running = False


def _run(code: types.CodeType, names: dict[str, Any]) -> Any:
    value = eval(code, names)
    if code.co_flags & 0x80 and isinstance(value, Coroutine):
        import asyncio

        return asyncio.run(value)
    return value


def _show(error: BaseException) -> None:
    """Prints the traceback, from the cell's own frames on."""
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith("<cell "):
        trace = trace.tb_next
    try:
        if isinstance(error, SystemExit):
            sys.stdout.write(f"SystemExit: {error}\n")
        else:
            told = traceback.TracebackException(type(error), error, trace)
            told.stack[:] = [frame for frame in told.stack if frame.filename != __file__]
            sys.stdout.writelines(told.format())
    except BaseException as second:
        # No memory, or an exception that cannot be shown.
        try:
            os.write(1, f"{type(error).__name__} (and {type(second).__name__} in showing it)\n".encode())
        except OSError:
            os._exit(1)


def _interrupted(number: int, frame: object) -> None:
    if _running:
        raise KeyboardInterrupt


def _moved(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64)
    if descriptor > 2:
        os.close(descriptor)
    return moved


def _read(descriptor: int, length: int) -> bytes:
    """That many bytes; ends the process when nobody writes any more."""
    parts = []
    while length:
        part = os.read(descriptor, length)
        if not part:
            os._exit(0)
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
