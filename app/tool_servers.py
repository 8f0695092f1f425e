"""The app's servers of tools: those that the settings name, and those of the command line. Knows no Textual.

They begin when the model is there, when F6 is opened, or when an answer is asked for, whatever comes first; an answer
waits until they have started or failed. Nothing of them is imported before, and nothing where there are none.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gptoss_mlx.app.preferences import Preferences

if TYPE_CHECKING:
    from gptoss_mlx.tools.mcp import McpServer, ServerSpec

END_SECONDS = 5.0
"""How long leaving waits for servers to end."""


class ToolServers:
    """Every method but `wait` and `close` comes back at once."""

    def __init__(
        self,
        given: "Sequence[ServerSpec]" = (),
        preferences: Callable[[], Preferences] = Preferences,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """`given`: those of the command line. `on_change` is called, on any thread, when one of them changed or has
        something to say."""
        self.servers: tuple[McpServer, ...] = ()
        """All that have begun."""
        self.problems: Mapping[str, str] = {}
        """By name: why a server of the settings cannot be."""
        self.on_change = on_change
        self._given = tuple(given)
        self._preferences = preferences
        self._thread: threading.Thread | None = None
        self._notices: list[str] = []
        self._closed = False
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether there are any."""
        return bool(self._given or self._preferences().mcp)

    def begin(self) -> None:
        """Begins all of them, once."""
        with self._lock:
            if self._thread is None and self.wanted and not self._closed:
                self._thread = threading.Thread(target=self._begin, name="gptoss-servers", daemon=True)
                self._thread.start()

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """Begins them and blocks until each has started or failed; False where `stopped` said before that nobody
        waits."""
        self.begin()
        thread = self._thread
        while thread is not None and thread.is_alive():
            if stopped():
                return False
            thread.join(0.05)
        for server in self.servers:
            server.wait(stopped)
        return not any(server.state == "starting" for server in self.servers)

    def take_notices(self) -> list[str]:
        """What the user should know, a sentence each, that was not taken before."""
        with self._lock:
            taken, self._notices = self._notices, []
        return [*taken, *(sentence for server in self.servers for sentence in server.take_notices())]

    def restart(self, name: str) -> None:
        """Ends the server of that name and starts it again."""
        for server in self.servers:
            if server.name == name and not self._closed:
                server.restart()

    def close(self) -> None:
        """Ends all of them, within `END_SECONDS`."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None:
            return
        thread.join(END_SECONDS)
        from gptoss_mlx.tools.mcp import close_servers

        close_servers(self.servers, END_SECONDS)

    def _begin(self) -> None:
        """On a thread: what servers need is imported here."""
        from gptoss_mlx.app.server_settings import read_servers
        from gptoss_mlx.tools.mcp import McpServer
        from gptoss_mlx.tools.mcp.names import plain_name

        specs, problems = read_servers(self._preferences())
        for spec in self._given:
            taken = [other.name for other in specs]
            if spec not in specs:
                specs.append(replace(spec, name=plain_name(spec.name, taken)))
        servers = tuple(McpServer.from_spec(spec, self._changed) for spec in specs)
        with self._lock:
            self.servers, self.problems = servers, problems
            self._notices += problems.values()
            closed = self._closed
        for server in () if closed else servers:
            server.begin()
        self.on_change()

    def _changed(self) -> None:
        self.on_change()
