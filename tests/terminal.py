"""A command at a pseudo-terminal, for tests that type to it and read its screen."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path


class Terminal:
    """A command at a pseudo-terminal: type to it, read its screen."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.screen = ""
        environment = {**os.environ, "GPTOSS_HOME": str(home), "TERM": "dumb"}
        self._fd, child = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gptoss_mlx.cli", *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env=environment,
            start_new_session=True,
        )
        os.close(child)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Reads until `pattern` is on the screen; gives what came up to there and forgets it."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.screen)) is None:
            assert time.monotonic() < end, f"{pattern!r} did not come; the screen holds {self.screen!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.screen += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    assert re.search(pattern, self.screen), f"{pattern!r} did not come: {self.screen!r}"
        seen, self.screen = self.screen[: found.end()], self.screen[found.end() :]
        return seen

    def interrupt(self) -> None:
        # No person is faster: readline shows its prompt a moment before it waits, and misses a signal in between.
        time.sleep(0.3)
        self.interrupt_at_once()

    def interrupt_at_once(self) -> None:
        os.kill(self._process.pid, signal.SIGINT)

    def end(self) -> int:
        code = self._process.wait(30)
        os.close(self._fd)
        return code
