"""A server made with the official library: over standard input and output, or `python calculator_server.py PORT`."""

import asyncio
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel

server = MCPServer("calculator", instructions="Reckons exactly.")


class Ratio(BaseModel):
    """A quotient."""

    value: float
    exact: bool


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Adds two numbers.

    The second is 1 if it is not given.
    """
    return a + b


@server.tool()
def divide(a: float, b: float) -> Ratio:
    """Divides."""
    return Ratio(value=a / b, exact=a % b == 0)


@server.tool()
async def slow(context: Context) -> str:
    """Takes its time."""
    await context.report_progress(1, 2, "half of it")
    try:
        await asyncio.sleep(60)
    except BaseException:
        print("slow was cancelled", file=sys.stderr, flush=True)
        raise
    return "late"


@server.tool()
def crash() -> str:
    """Crashes."""
    print("out of paper", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def learn(context: Context) -> str:
    """Learns to subtract."""

    def subtract(a: int, b: int) -> int:
        """Subtracts."""
        return a - b

    server.add_tool(subtract)
    await context.notify_tools_changed()
    return "learnt"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
