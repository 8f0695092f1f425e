"""`--mcp`: servers of tools on the command line, for as long as a command runs."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gptoss_mlx.cli.terminal import PATIENCE_SECONDS, Style, printable
from gptoss_mlx.errors import ToolServerError
from gptoss_mlx.tools import Policy
from gptoss_mlx.tools.mcp import McpServer, ServerSpec, close_servers, make_spec, require_library
from gptoss_mlx.tools.mcp.names import plain_name


def read_words(words: Sequence[str]) -> list[ServerSpec]:
    """The servers that `--mcp` names: one of the settings by its name, a command line, or a URL. Raises UsageError."""
    require_library()
    known = {spec.name: spec for spec in _of_the_settings()}
    specs: list[ServerSpec] = []
    for word in words:
        spec = known[word] if word in known else make_spec(word)
        specs.append(replace(spec, name=plain_name(spec.name, [other.name for other in specs])))
    return specs


def _of_the_settings() -> list[ServerSpec]:
    # The app's settings; a command that only asks does not write the file that explains them.
    from gptoss_mlx.app.preferences import load_preferences, preferences_file

    if not preferences_file().exists():
        return []
    from gptoss_mlx.app.server_settings import read_servers

    return read_servers(load_preferences())[0]


class Servers:
    """The servers of a command."""

    def __init__(self, servers: Sequence[McpServer] = ()) -> None:
        self.all = tuple(servers)

    def wait(self, *, needed: bool) -> None:
        """Waits until they are there. Raises ToolServerError for one that is not, where it is `needed`; else that is
        told, and the others are used."""
        style, start = Style(sys.stderr), time.monotonic()
        for server in self.all:
            if not server.wait(lambda: time.monotonic() - start > PATIENCE_SECONDS) and server.state == "starting":
                if sys.stderr.isatty():
                    print(style.dim(f"[starting {printable(server.spec.place)}]"), file=sys.stderr, flush=True)
                server.wait()
            if needed and server.state != "ready":
                raise ToolServerError(
                    f"the server {server.name!r} ({server.spec.place}) cannot be used: {server.reason}"
                )
        self.tell()

    def tell(self) -> None:
        """Says on standard error what happened to them since the last time."""
        style = Style(sys.stderr)
        for server in self.all:
            for sentence in server.take_notices():
                print(style.dim(printable(f"[{sentence}]")), file=sys.stderr, flush=True)


@contextlib.contextmanager
def open_servers(arguments: argparse.Namespace) -> Iterator[Servers]:
    """Begins the servers of `--mcp`, and ends them when the command does. Raises UsageError for one that cannot be."""
    specs = read_words(arguments.mcp) if arguments.mcp else []
    if arguments.yes:
        specs = [_without_questions(spec) for spec in specs]
    servers = Servers([McpServer.from_spec(spec) for spec in specs])
    try:
        for server in servers.all:
            server.begin()
        yield servers
    finally:
        close_servers(servers.all)


def _without_questions(spec: ServerSpec) -> ServerSpec:
    """What would ask runs at once; what never runs does not run."""

    def unasked(policy: Policy) -> Policy:
        return "never" if policy == "never" else "always"

    policies = {name: unasked(policy) for name, policy in spec.policies.items()}
    return replace(spec, policy=unasked(spec.policy), policies=policies)
