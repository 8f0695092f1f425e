"""A process at a pseudo-terminal: what a person types goes in, what is painted comes out, each with its time."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path


class AtTerminal:
    """The process, and a thread that reads all that it paints."""

    def __init__(self, home: Path, *command: str, size: tuple[int, int] = (80, 24)) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        environment = {**os.environ, "GPTOSS_HOME": str(home), "TERM": "xterm-256color", "GPTOSS_KERNELS": "off"}
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.painted: list[tuple[float, bytes]] = []
        """Clock, and what came then."""
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, text: str) -> float:
        """Sends keys; the clock just before."""
        now = time.perf_counter()
        os.write(self._master, text.encode())
        return now

    def seen(self, text: str, since: float = 0.0) -> float | None:
        """The clock when `text` was painted, in one piece, after `since`."""
        wanted = text.encode()
        with self._lock:
            pieces = [piece for piece in self.painted if piece[0] >= since]
        end = b""
        for clock, data in pieces:
            end = end[-200:] + data
            if wanted in end:
                return clock
        return None

    def wait_for(self, text: str, seconds: float = 30, since: float = 0.0) -> float:
        """Waits until `text` is painted; the clock of that."""
        limit = time.perf_counter() + seconds
        while (clock := self.seen(text, since)) is None:
            assert self.process.poll() is None, f"the app ended with {self.process.returncode}:\n{self.tail()}"
            assert time.perf_counter() < limit, f"{text!r} was not painted; the last was {self.tail()!r}"
            time.sleep(0.002)
        return clock

    def tail(self) -> str:
        """The last that was painted."""
        with self._lock:
            return b"".join(data for _, data in self.painted)[-3000:].decode(errors="replace")

    def forget(self) -> None:
        """Drops what was painted so far."""
        with self._lock:
            self.painted.clear()

    def resident_bytes(self) -> int:
        """Memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def computed_seconds(self) -> float:
        """What the process's main thread has computed."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def end(self, seconds: float = 15) -> int:
        """Waits for it to end by itself; gives its exit code."""
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.kill()

    def _read(self) -> None:
        while True:
            try:
                select.select([self._master], [], [])
                data = os.read(self._master, 1 << 16)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                self.painted.append((time.perf_counter(), data))
