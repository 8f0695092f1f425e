"""McpServer: a server of tools as a source of tools, started, watched, started again and ended."""

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from gptoss_mlx.errors import ToolServerError, UsageError
from gptoss_mlx.tools.mcp.link import END_SECONDS, Link, LinkLost
from gptoss_mlx.tools.mcp.spec import ServerSpec, make_spec
from gptoss_mlx.tools.running import ToolFailure, current_call
from gptoss_mlx.tools.source import ToolSource
from gptoss_mlx.tools.tool import Policy, Tool

ServerState: TypeAlias = Literal["off", "starting", "ready", "crashed", "failed"]
"""`off`: not begun, or closed; `crashed`: it ended by itself, and is started again when it is called; `failed`: it
cannot be started, or has crashed too often."""

_log = logging.getLogger(__name__)
_open: "weakref.WeakSet[McpServer]" = weakref.WeakSet()
"""Those that live: what Python's end has to end."""


class McpServer(ToolSource):
    """A server that speaks the Model Context Protocol.

        with McpServer("npx -y @modelcontextprotocol/server-filesystem /data") as files:
            model.ask("Which files are there?", tools=[files], approve=ask_me)

    Its tools stand in a namespace of the server's name. Whether a call runs is asked each time, unless `policy` (or
    `policies`, by tool) says otherwise. Safe to use from several threads.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        headers: Mapping[str, str] | None = None,
        policy: Policy = "ask",
        policies: Mapping[str, Policy] | None = None,
        start_seconds: float = 30.0,
        call_seconds: float | None = None,
        restarts: int = 3,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """`command` is a command line, a list of words, or the URL of a server that listens. The rest is as in
        `ServerSpec`; `on_change` is called, on any thread, when state, tools or notices changed. Starts nothing.

        Raises UsageError, also where the extra `mcp` is not installed.
        """
        from gptoss_mlx.tools.mcp.library import require_library

        require_library()
        self._set_up(
            make_spec(
                command,
                name=name,
                env=dict(env or {}),
                cwd=None if cwd is None else Path(cwd).expanduser(),
                headers=dict(headers or {}),
                policy=policy,
                policies=dict(policies or {}),
                start_seconds=start_seconds,
                call_seconds=call_seconds,
                restarts=restarts,
            ),
            on_change,
        )

    @classmethod
    def from_spec(cls, spec: ServerSpec, on_change: Callable[[], object] = lambda: None) -> Self:
        """The server that `spec` describes."""
        server = cls.__new__(cls)
        server._set_up(spec, on_change)
        return server

    def _set_up(self, spec: ServerSpec, on_change: Callable[[], object]) -> None:
        self.spec = spec
        """What was said of it."""
        self.on_change = on_change
        self._lock = threading.RLock()
        self._link: Link | None = None
        self._tools: tuple[Tool, ...] = ()
        self._restarts_left = spec.restarts
        self._told_lost: Link | None = None
        self._notices: list[str] = []

    # What it is

    @property
    def name(self) -> str:
        """The namespace of its tools."""
        return self.spec.name

    @property
    def state(self) -> ServerState:
        """How it is."""
        with self._lock:
            link = self._link
            if link is None or link.state == "closed":
                return "off"
            if link.state in ("starting", "ready"):
                return "ready" if link.state == "ready" else "starting"
            return "crashed" if self._tools and self._restarts_left else "failed"

    @property
    def reason(self) -> str:
        """Why it crashed or failed."""
        link = self._link
        return "" if link is None else link.reason

    @property
    def log_file(self) -> Path:
        """Where its standard error goes."""
        from gptoss_mlx.settings import mcp_folder

        return mcp_folder() / f"{self.name}.log"

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that it has, or had before it crashed."""
        with self._lock:
            link = self._link
            if link is not None and link.state == "ready":
                self._tools = link.listing.tools
            return self._tools

    def offered_tools(self) -> Sequence[Tool]:
        """The tools that the model is told of. None of a server that starts still, or failed. Raises UsageError for
        one that was not begun."""
        state = self.state
        if state == "off":
            raise UsageError(f"the server {self.name!r} is not in use; expected `with McpServer(...) as server:`")
        return () if state == "failed" else self.tools

    def take_notices(self) -> list[str]:
        """What the user should know, a sentence each, that was not taken before."""
        with self._lock:
            taken, self._notices = self._notices, []
            return taken

    # What is done with it

    def begin(self) -> None:
        """Starts it, where it is not; comes back at once."""
        with self._lock:
            if self._link is None or self._link.state == "closed":
                self._restarts_left = self.spec.restarts
                self._begin_link()

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Blocks while it starts, or until `stopped` says that nobody waits. True: it is there."""
        link = self._link
        while link is not None and not link.started.wait(0.05):
            if stopped():
                return False
        return self.state == "ready"

    def restart(self) -> None:
        """Ends it and starts it again; comes back at once."""
        with self._lock:
            old, self._link = self._link, None
            self._tools = ()
            if old is not None:
                old.end()
            self.begin()

    def end(self) -> None:
        """Asks it to end; comes back at once."""
        with self._lock:
            if self._link is not None:
                self._link.end()

    def close(self, seconds: float = END_SECONDS) -> None:
        """Ends it: its input is closed, then it is terminated, then killed. Blocks until it has ended."""
        self.end()
        link = self._link
        if link is not None:
            link.join(seconds)
        with self._lock:
            if self._link is link:
                self._link = None
            self._tools = ()
        _open.discard(self)

    def __enter__(self) -> Self:
        """Starts it. Raises ToolServerError where that fails."""
        self.begin()
        try:
            there = self.wait()
        except BaseException:
            self.close()
            raise
        if not there:
            reason = self.reason
            self.close()
            raise ToolServerError(f"the server {self.name!r} ({self.spec.place}) cannot be used: {reason}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<McpServer {self.name}: {self.state}, {len(self.tools)} tools>"

    # Inside

    def _begin_link(self) -> Link:
        _end_with_python(self)
        self._link = link = Link(self.spec, run=self._run, on_change=self._changed, notice=self._notice)
        if link.log.problem is not None:
            self._notice(link.log.problem)
        return link

    def _run(self, name: str, arguments: dict[str, Any]) -> str:
        """What each of its tools does."""
        try:
            return self._living().call(name, arguments)
        except LinkLost as error:
            raise ToolFailure(
                f"the server {self.name} ended during the call; nobody knows how far it came. {self._prospect()}"
            ) from error

    def _living(self) -> Link:
        """The server's present life, or a new one after a crash. Raises ToolFailure where there is none."""
        with self._lock:
            link = self._link
            if link is None or link.state == "closed":
                raise ToolFailure(f"the server {self.name} was closed.")
            if link.state in ("failed", "lost"):
                if not self._restarts_left:
                    raise ToolFailure(f"the server {self.name} is gone: {link.reason}. {self._prospect()}")
                self._restarts_left -= 1
                link = self._begin_link()
        call = current_call()
        while not link.started.wait(0.05):
            if call is not None and call.cancelled:
                raise ToolFailure("the call was stopped")
        if link.state == "failed":
            raise ToolFailure(f"the server {self.name} cannot be started again: {link.reason}. {self._prospect()}")
        return link

    def _prospect(self) -> str:
        return "It is started again at the next call." if self._restarts_left else "It is not started again."

    def _changed(self) -> None:
        with self._lock:
            link = self._link
            if link is not None:
                if link.state == "ready":
                    self._tools = link.listing.tools
                elif link.state in ("failed", "lost") and self._told_lost is not link:
                    # Once in a life.
                    self._told_lost = link
                    again = f" {self._prospect()}" if self._tools else ""
                    self._notices.append(f"{self.name}: {link.reason}.{again}")
        self._tell()

    def _notice(self, sentence: str) -> None:
        with self._lock:
            self._notices.append(f"{self.name}: {sentence}")
        self._tell()

    def _tell(self) -> None:
        try:
            self.on_change()
        except Exception:
            # The server must not end by it: this runs in the middle of its life.
            _log.exception("on_change of the server %s failed", self.name)


def close_servers(servers: Iterable[McpServer], seconds: float = END_SECONDS) -> None:
    """Ends servers at the same time, and waits for them together."""
    held = list(servers)
    for server in held:
        server.end()
    end = time.monotonic() + seconds
    for server in held:
        server.close(max(end - time.monotonic(), 0.0))


def _end_with_python(server: McpServer) -> None:
    """Has it ended at the latest when Python ends."""
    if not _open:
        # Registered anew each time is the same once.
        atexit.unregister(_end_all)
        atexit.register(_end_all)
    _open.add(server)


def _end_all() -> None:
    close_servers(_open)
