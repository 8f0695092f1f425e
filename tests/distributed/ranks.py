"""Ranks as processes of their own, on this machine, over MLX's ring.

results = run_ranks(3, "tests.distributed.worker", argument)     what each rank printed last, parsed from JSON
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""Where `tests` is a package."""

ATTEMPTS = 3
"""Ports that were free a moment ago may be taken by somebody else."""


def run_ranks(count: int, module: str, *arguments: str, timeout_s: float = 540) -> list[Any]:
    """Runs `python -m module ARGUMENTS` as `count` ranks of one ring; the last line that each prints, from JSON.

    Fails with everything that they said unless all of them end well in time.
    """
    command = [sys.executable, "-m", module, *arguments]
    codes, said = _run(count, command, timeout_s)
    for _ in range(ATTEMPTS - 1):
        if any("bind" in err for _, err in said):
            codes, said = _run(count, command, timeout_s)
    if any(code != 0 for code in codes):
        raise AssertionError(_report(codes, said))
    return [json.loads(out.strip().splitlines()[-1]) for out, _ in said]


def start_ranks(count: int, command: list[str], folder: Path) -> list[subprocess.Popen[str]]:
    """`count` processes that run `command` as the ranks of a ring; what they say goes to files in `folder`."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
    processes = []
    for rank in range(count):
        environment = os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts), "OPENBLAS_NUM_THREADS": "1"}
        with (folder / f"out{rank}").open("w") as out, (folder / f"err{rank}").open("w") as err:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err, text=True))
    return processes


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _run(count: int, command: list[str], timeout_s: float) -> tuple[list[int | None], list[tuple[str, str]]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = start_ranks(count, command, folder)
        try:
            deadline = time.monotonic() + timeout_s
            # One that failed leaves the others waiting for ever.
            while time.monotonic() < deadline:
                codes = [process.poll() for process in processes]
                if None not in codes or any(codes):
                    break
                time.sleep(0.05)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        said = [((folder / f"out{rank}").read_text(), (folder / f"err{rank}").read_text()) for rank in range(count)]
        return [process.returncode for process in processes], said


def _report(codes: list[int | None], said: list[tuple[str, str]]) -> str:
    lines = [f"ranks ended with {codes}"]
    for rank, (out, err) in enumerate(said):
        lines.append(f"--- rank {rank}\n{out}\n{err}")
    return "\n".join(lines)
