"""One rank: `python -m gptoss_mlx.hosts.rank`, started on a host by the front end.

Three threads: the first does what it is told, command after command, and is the one that computes; one reads what the
front end says; one gives signs of life. The process ends, whatever it is doing, when its line to the front end ends,
when nothing came over it for long, and when Python itself stands still.
"""

import faulthandler
import importlib.metadata
import os
import platform
import queue
import signal
import sys
import threading
import time
from typing import Any, Final

from gptoss_mlx.hosts.frames import Array, BrokenLine, FrameReader, FrameWriter
from gptoss_mlx.version import __version__

PROTOCOL: Final = 1
"""Of the commands; the version of the package decides, and this only what says so."""

BEAT_SECONDS: Final = 0.5
"""Between two signs of life."""

SILENCE_SECONDS: Final = 60.0
"""Without a word from the front end for so long, a rank ends: the network between them is gone. A front end that is
suspended starts its ranks again when it goes on."""

STANDSTILL_SECONDS: Final = 20.0
"""When no thread of Python could run for so long, because one waits inside a library, the process ends."""


def main() -> int:
    """Serves the front end until it lets go; gives the exit code."""
    # Whatever a library or a program prints must not come between the messages.
    reader, writer = FrameReader(os.dup(0)), FrameWriter(os.dup(1))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # Ctrl-C is for the front end: it says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # How MLX hands arrays from a GPU to the network: without waiting for an interrupt.
    os.environ.setdefault("MLX_METAL_FAST_SYNCH", "1")
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    line = _Line(reader, writer, commands)
    writer.write_mark()
    writer.write({"hello": _who()})
    threading.Thread(target=line.listen, name="gptoss-listen", daemon=True).start()
    threading.Thread(target=line.live, name="gptoss-live", daemon=True).start()
    from gptoss_mlx.hosts.commands import Commands

    serving = Commands(line.say)
    while True:
        serving.run(commands.get())


class _Line:
    """What connects the rank with the front end."""

    def __init__(self, reader: FrameReader, writer: FrameWriter, commands: "queue.SimpleQueue[dict[str, Any]]") -> None:
        self._reader, self._writer, self._commands = reader, writer, commands
        self._heard = time.monotonic()

    def say(self, values: dict[str, Any], array: Array | None = None) -> None:
        """Writes a message; the process ends when nobody takes it."""
        try:
            self._writer.write(values, array)
        except BrokenLine:
            os._exit(1)

    def listen(self) -> None:
        """Takes what comes, until the line ends, and with it the process."""
        try:
            while (message := self._reader.read()) is not None:
                self._heard = time.monotonic()
                values = message[0]
                if values.get("op") == "exit":
                    os._exit(0)
                if "op" in values:
                    self._commands.put(values)
        except BaseException as error:
            sys.stderr.write(f"the line to the front end is broken: {error}\n")
            sys.stderr.flush()
        os._exit(1)

    def live(self) -> None:
        """Says now and then that the rank lives, and how much memory it holds."""
        while True:
            # A thread of its own in C looks at this: it works when this one cannot run.
            faulthandler.dump_traceback_later(STANDSTILL_SECONDS, exit=True)
            if time.monotonic() - self._heard > SILENCE_SECONDS:
                os._exit(1)
            self.say({"beat": _memory()})
            time.sleep(BEAT_SECONDS)


def _who() -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "version": __version__,
        "mlx": importlib.metadata.version("mlx"),
        "python": platform.python_version(),
        "host": platform.node(),
        "pid": os.getpid(),
    }


def _memory() -> list[int]:
    """What MLX holds: now, kept of freed memory, and at most; nothing before it is there."""
    core = sys.modules.get("mlx.core")
    if core is None or not hasattr(core, "get_peak_memory"):
        return [0, 0, 0]
    return [core.get_active_memory(), core.get_cache_memory(), core.get_peak_memory()]


if __name__ == "__main__":
    sys.exit(main())
