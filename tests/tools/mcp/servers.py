"""The servers of these tests, and how they are started."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptoss_mlx.tools.mcp import McpServer

HERE = Path(__file__).parent
ROGUE = HERE / "rogue_server.py"
CALCULATOR = HERE / "calculator_server.py"


def rogue(*modes: str, name: str = "rogue", **settings: Any) -> McpServer:
    """The server that behaves as the modes say. It imports next to nothing, so it is there at once."""
    return McpServer([sys.executable, "-S", "-E", str(ROGUE), *modes], name=name, **settings)


def calculator(**settings: Any) -> McpServer:
    """The official library's server."""
    return McpServer([sys.executable, str(CALCULATOR)], name="calculator", **settings)


def run(server: McpServer, name: str, **arguments: Any) -> Any:
    """What the tool of that name does, as the loop runs it."""
    return next(tool for tool in server.tools if tool.name == name).function(**arguments)


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether that process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
