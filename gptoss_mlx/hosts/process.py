"""The process of one rank as the front end has it: started here or through ssh, its line, what it printed, its end."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import Final

from gptoss_mlx.hosts.addresses import Host
from gptoss_mlx.hosts.frames import FrameReader, FrameWriter
from gptoss_mlx.version import __version__

CONNECT_SECONDS: Final = 10
"""How long ssh may take to connect."""

KEPT_LINES: Final = 30
"""Lines of what a rank printed that are kept, for when it fails."""

SSH_FAILED: Final = 255
"""ssh's own exit code."""

_MODULE: Final = "gptoss_mlx.hosts.rank"


def ssh_command(host: Host, command: str) -> list[str]:
    """Runs a shell command on `host`, never asking anybody anything."""
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "LogLevel=ERROR"]
    # A line that is dead without having ended is found by ssh, too.
    options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    return ["ssh", *options, "--", host.name, command]


def remote_python(module: str, *words: str) -> str:
    """The shell command that runs a module of this package there.

    With the interpreter of the same path as here, if that has the package; else with the one of the `gptoss` that a
    login shell finds.
    """
    python, rest = shlex.quote(sys.executable), shlex.join(["-m", module, *words])
    return (
        f'python={python}; if ! "$python" -c "import gptoss_mlx" 2>/dev/null; then '
        'gptoss=$("${SHELL:-sh}" -lc "command -v gptoss" 2>/dev/null | tail -n 1); '
        'if [ -z "$gptoss" ]; then echo "there is no gptoss-mlx" >&2; exit 127; fi; '
        'python=$("$gptoss" path --python); fi; '
        f'exec "$python" {rest}'
    )


class RankProcess:
    """One rank, from its start to its end."""

    def __init__(self, host: Host, *, patience_seconds: float) -> None:
        """Starts it. `patience_seconds` without a byte that it takes are the end of its line. Raises OSError."""
        self.host = host
        command = [sys.executable, "-m", _MODULE] if host.local else ssh_command(host, remote_python(_MODULE))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C at the terminal stops an answer, and not the ranks.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.writer = FrameWriter(os.dup(self._process.stdin.fileno()), patience_seconds=patience_seconds)
        self.reader = FrameReader(os.dup(self._process.stdout.fileno()))
        self._process.stdin.close()
        self._process.stdout.close()
        self.remote_pid: int | None = None
        """Its number on its host, once it has said so."""
        self._printed: deque[str] = deque(maxlen=KEPT_LINES)
        self._printing = threading.Thread(target=self._keep_printed, name="gptoss-rank-prints", daemon=True)
        self._printing.start()

    def _keep_printed(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as printed:
            for line in printed:
                self._printed.append(line.decode(errors="replace").rstrip())

    def why_it_ended(self) -> str:
        """How the process ended, with what it printed last. Waits a moment for it to be over."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._printing.join(0.5)
        code = self._process.poll()
        said = self._last_words()
        if code is None:
            return "what it says is not what a rank says"
        if not self.host.local and code == SSH_FAILED:
            return f"ssh: {said}" if said else "its process was ended, or ssh lost the connection"
        if code < 0:
            return f"its process was ended by {_signal_name(-code)}"
        if not self.host.local and code > 128:
            return f"its process was ended by {_signal_name(code - 128)}"
        if "there is no gptoss-mlx" in said or "No module named 'gptoss_mlx" in said:
            return (
                f"gptoss-mlx is not installed there; install the version that runs here: pip install "
                f"gptoss-mlx=={__version__}"
            )
        return f"its process ended with code {code}" + (f": {said}" if said else "")

    def _last_words(self) -> str:
        for line in reversed(self._printed):
            if line.strip() and not line.startswith(("[ring]", "  ", "Thread 0x", "Current thread")):
                return re.sub(r"\s+", " ", line).strip()
        return ""

    def let_go(self) -> None:
        """Closes the line: the rank ends by itself when it can."""
        self.writer.close()

    def end(self, grace_seconds: float) -> None:
        """Waits so long for its end, after `let_go`, and then ends it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_seconds)
            return
        self.kill()

    def kill(self) -> None:
        """Ends it at once, whatever it is doing; on another host, too, if that can be reached."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if not self.host.local and self.remote_pid is not None:
            self._kill_there(self.remote_pid)

    def _kill_there(self, pid: int) -> None:
        """A rank that was stopped, or hangs, does not see that its line has ended."""
        command = f"ps -p {pid} -o args= | grep -q {_MODULE} && kill -KILL {pid}"
        # In the background: a host that is out of reach must keep nobody waiting.
        with contextlib.suppress(OSError):
            killing = subprocess.Popen(
                ssh_command(self.host, command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            threading.Thread(target=_reap, args=(killing,), name="gptoss-kill", daemon=True).start()


def _reap(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(2 * CONNECT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
