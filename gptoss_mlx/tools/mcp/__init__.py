"""Tools of other programs: servers that speak the Model Context Protocol, as sources of tools.

    ServerSpec ── McpServer ── Link, one life of the server on a thread of its own ── the official `mcp` library
                      │            transport: what the server sends, sifted
                      │            listing: its tools as ours (schemas, names)
                      └── Tool.function ── Link.call ── results: the text that the model reads

What a server says is a stranger's: names, descriptions, schemas and results are checked, kept short and shown to the
model as text; every call asks before it runs unless the user said otherwise. A server that cannot be started, crashes,
hangs or breaks the protocol is told in a sentence (`McpServer.take_notices`), and only its own calls fail.

The library (extra `mcp`) is imported on the thread that starts a server, and nowhere else.
"""

from gptoss_mlx.tools.mcp.library import require_library
from gptoss_mlx.tools.mcp.names import name_from_command
from gptoss_mlx.tools.mcp.server import McpServer, ServerState, close_servers
from gptoss_mlx.tools.mcp.spec import ServerSpec, make_spec, read_spec

__all__ = [
    "McpServer",
    "ServerSpec",
    "ServerState",
    "close_servers",
    "make_spec",
    "name_from_command",
    "read_spec",
    "require_library",
]
