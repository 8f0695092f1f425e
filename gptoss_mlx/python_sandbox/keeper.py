"""The supervisor of one interpreter, a process beside it: hands cells in, keeps every limit, ends all of it.

It runs outside of the sandbox and has one thread. Messages (`frames`) on its standard input:

    {"do": "open", ...settings}   first; answered by {"ready": true} or {"refused": why}
    {"do": "run", "code": text}   answered by {"ending": ..., "output": ..., "alive": ..., ...} when the cell is over
    {"do": "stop"}                stops the cell that runs
    end of input                  the end

What the worker prints is kept up to its limit. Of what the worker says beside that, only the number of the running
cell is believed; anything else ends it. A cell that has to stop is interrupted as by Ctrl-C, so that names are kept,
and if it goes on for longer than `INTERRUPT_SECONDS`, everything is killed. A worker that is gone is the keeper's end.
"""

import contextlib
import os
import select
import signal
import struct
import sys
import time
from typing import Any, Final, Literal, TypeAlias

from gptoss_mlx.python_sandbox.cages import Cage, open_cage
from gptoss_mlx.python_sandbox.frames import FrameReader, pack_frame

INTERRUPT_SECONDS: Final = 0.5
"""How long a cell that was interrupted may take to end."""

START_SECONDS: Final = 20.0
"""How long the interpreter may take to start."""

LOOK_SECONDS: Final = 0.1
"""Between two looks at what a running cell takes."""

IDLE_SECONDS: Final = 1.0
"""Between two looks whether there is anybody, while no cell runs."""

Ending: TypeAlias = Literal[
    "done", "stopped", "seconds", "cpu_seconds", "memory_bytes", "output_bytes", "scratch_bytes", "processes", "broken",
    "ended",
]  # fmt: skip
"""How a cell ended: by itself, by the caller's word, by a limit, since the worker broke the protocol, or ended."""


def main() -> None:
    """Serves until standard input ends."""
    # Whoever began this decides when it ends, not the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = Keeper()
    try:
        keeper.serve()
    except BrokenPipeError:
        pass
    finally:
        keeper.close()


class Keeper:
    """The state of it."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._frames = FrameReader()
        self._cage: Cage | None = None
        self._status: int | None = None
        """How the worker's process ended; None while it lives."""
        self._limits: dict[str, Any] = {}
        self._output_end = self._cells_end = self._done_end = -1
        self._unsent = b""
        self._number = 0
        self._running = False
        self._began = self._looked = 0.0
        self._cpu_before = 0.0
        self._output = bytearray()
        self._output_open = self._done_open = True
        self._stopping: tuple[Ending, float] | None = None
        """Why the cell has to stop, and until when it may."""
        self._again: float | None = None
        """When it is interrupted once more."""

    def serve(self) -> None:
        """Takes messages until they end, or the worker does."""
        while True:
            data = os.read(0, 1 << 16)
            if not data:
                return
            if messages := self._frames.feed(data):
                break
        if not self._open(messages[0]):
            return
        while self._cage is not None and self._status is None and os.getppid() == self._parent:
            # An end that nobody writes to any more would be ready for ever.
            ends = [0]
            ends += [self._done_end] if self._done_open else []
            ends += [self._output_end] if self._output_open else []
            ready, _, _ = select.select(
                ends, [self._cells_end] if self._unsent else [], [], LOOK_SECONDS / 2 if self._running else IDLE_SECONDS
            )
            if self._unsent:
                self._send_more()
            if self._output_end in ready:
                self._take_output()
            if self._done_end in ready:
                self._take_done()
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                for message in self._frames.feed(data):
                    self._obey(message)
            self._look()

    def close(self) -> None:
        """Ends everything."""
        if self._cage is not None:
            self._cage.destroy()
            self._cage = None

    def _open(self, settings: dict[str, Any]) -> bool:
        self._limits = settings["limits"]
        self._output_end, output = os.pipe()
        cells, self._cells_end = os.pipe()
        self._done_end, done = os.pipe()
        try:
            self._cage = open_cage(settings, output, cells, done)
        except Exception as error:
            _say({"refused": str(error) or type(error).__name__})
            return False
        for end in (output, cells, done):
            os.close(end)
        os.set_blocking(self._cells_end, False)
        os.set_blocking(self._output_end, False)
        ready = select.select([self._done_end], [], [], START_SECONDS)[0] and os.read(self._done_end, 4) == bytes(4)
        if not ready:
            self._cage.destroy()
            self._cage = None
            self._take_output(keep=True)
            said = self._output.decode("utf-8", "replace").strip().splitlines()
            _say({"refused": f"the interpreter does not start ({said[-1] if said else 'it says nothing'})"})
            return False
        os.kill(self._cage.worker, signal.SIGSTOP)
        _say({"ready": True})
        return True

    # A cell

    def _obey(self, message: dict[str, Any]) -> None:
        if message["do"] == "run" and not self._running:
            self._begin(message["code"])
        elif message["do"] == "stop" and self._running:
            self._stop("stopped")

    def _begin(self, code: str) -> None:
        assert self._cage is not None
        self._number += 1
        self._running, self._stopping = True, None
        self._output.clear()
        self._began = self._looked = time.monotonic()
        self._cpu_before = self._cage.measure().cpu_seconds
        text = code.encode("utf-8", "replace")
        self._unsent = struct.pack("=II", self._number, len(text)) + text
        self._signal(signal.SIGCONT)

    def _send_more(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._cells_end, self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            # It ends, or it closed what it is told by: then it will never be done.
            self._unsent = b""

    def _take_output(self, *, keep: bool = False) -> None:
        with contextlib.suppress(BlockingIOError):
            # What comes while no cell runs belongs to none.
            while True:
                data = os.read(self._output_end, 1 << 16)
                if not data:
                    self._output_open = False
                    return
                if self._running or keep:
                    self._output += data
                if self._running and len(self._output) > self._limits["output_bytes"]:
                    self._stop("output_bytes")
                    del self._output[self._limits["output_bytes"] :]
                    return

    def _take_done(self) -> None:
        said = os.read(self._done_end, 64)
        if self._running and said == struct.pack("=I", self._number):
            self._finish(self._stopping[0] if self._stopping else "done")
        elif said:
            self._kill("broken")
        else:
            # It ends, which is seen soon; or it closed what it answers by, and goes on.
            self._done_open = False
            self._stopping, self._again = ("broken", time.monotonic() + INTERRUPT_SECONDS), None

    def _look(self) -> None:
        """Keeps the limits."""
        cage, now = self._cage, time.monotonic()
        if cage is None or self._ended():
            return
        if self._stopping is not None and now >= self._stopping[1]:
            self._kill(self._stopping[0])
        elif self._stopping is not None and self._again is not None and now >= self._again:
            # It may not have begun when it was interrupted first.
            self._again = None
            self._signal(signal.SIGINT)
        elif self._running and self._stopping is None and now - self._began >= self._limits["seconds"]:
            self._stop("seconds")
        elif self._running and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            taken = cage.measure()
            if taken.memory_bytes > self._limits["memory_bytes"]:
                # It would take more while it is asked to stop.
                self._kill("memory_bytes")
            elif taken.tasks > 2 * self._limits["processes"]:
                self._kill("processes")
            elif taken.scratch_bytes > self._limits["scratch_bytes"]:
                self._kill("scratch_bytes")
            elif taken.cpu_seconds - self._cpu_before > self._limits["cpu_seconds"]:
                self._stop("cpu_seconds")

    def _ended(self) -> bool:
        """Whether the worker has ended; then the cell has, too."""
        assert self._cage is not None
        if self._status is None:
            ended, status = os.waitpid(self._cage.child, os.WNOHANG)
            if not ended:
                return False
            code = os.waitstatus_to_exitcode(status)
            self._status = 128 - code if code < 0 else code
            if self._running:
                self._finish("ended")
        return True

    def _stop(self, why: Ending) -> None:
        """Interrupts the cell; what it has not ended by then is killed."""
        if self._stopping is None:
            now = time.monotonic()
            self._stopping, self._again = (why, now + INTERRUPT_SECONDS), now + INTERRUPT_SECONDS / 2
            self._signal(signal.SIGINT)

    def _kill(self, why: Ending) -> None:
        assert self._cage is not None
        if self._ended():
            return
        self._cage.destroy()
        self._status = 128 + signal.SIGKILL
        if self._running:
            self._finish(why)

    def _finish(self, ending: Ending) -> None:
        """Says how the cell ended; nothing of it goes on."""
        assert self._cage is not None
        ended = 0
        if self._status is None:
            self._signal(signal.SIGSTOP)
            ended = self._end_leftovers()
        self._take_output()
        self._running, self._stopping = False, None
        del self._output[self._limits["output_bytes"] :]
        _say(
            {
                "ending": ending,
                "output": self._output.decode("utf-8", "replace"),
                "alive": self._status is None,
                "status": self._status,
                "leftovers": ended,
            }
        )

    def _end_leftovers(self) -> int:
        """Ends what the cell left running; gives how many processes that were."""
        assert self._cage is not None
        seen: set[int] = set()
        for _ in range(50):
            others = self._cage.leftovers()
            if not others:
                return len(seen)
            for number in others:
                seen.add(number)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.01)
        self._cage.destroy()
        self._status = 128 + signal.SIGKILL
        return len(seen)

    def _signal(self, number: int) -> None:
        assert self._cage is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._cage.worker, number)


def _say(message: dict[str, Any]) -> None:
    data = pack_frame(message)
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit("gptoss_mlx.python_sandbox.session starts this")
