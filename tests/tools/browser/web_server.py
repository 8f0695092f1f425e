"""A server on loopback that answers as a test wrote down, also badly; and a `Web` for which it is all there is."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import httpcore2

from gptoss_mlx.tools.browser.web_request import Web, WebLimits

Answer: TypeAlias = Callable[["Handler"], object]

PUBLIC = "93.184.216.34"
"""What every host is looked up as, unless a test says more."""


class Handler(BaseHTTPRequestHandler):
    server: "StandIn"  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.asked.append(self)
        self.body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = self.server.pages.get(self.path.partition("?")[0])
        # Whoever asked may have gone.
        with contextlib.suppress(OSError):
            if answer is None:
                self.say(404, "text/plain", b"no such page")
            else:
                answer(self)

    do_POST = do_GET  # noqa: N815

    def say(self, status: int, kind: str, data: bytes, **headers: str) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class StandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Answer] = {}
        self.asked: list[Handler] = []
        self.over = threading.Event()
        """Set when the test is over: whoever dawdles may end."""

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@dataclass
class Internet:
    """A `Web` whose every public address is the stand-in."""

    server: StandIn
    names: dict[str, list[str] | Exception] = field(default_factory=dict)
    """Host -> addresses."""
    looked_up: list[str] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)

    def web(self, *, private: bool = False, **limits: Any) -> Web:
        return Web(private, WebLimits(**limits), self.resolve, self.dial)

    def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        found = self.names.get(host, [PUBLIC])
        if isinstance(found, Exception):
            raise found
        # What a host is called in numbers, in whatever way, only the system knows.
        if host not in self.names and host.replace(".", "").replace("x", "").isalnum() and not host.endswith("example"):
            return [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        return found

    def dial(self, address: str, port: int, seconds: float) -> httpcore2.NetworkStream:
        self.dialled.append(address)
        return httpcore2.SyncBackend().connect_tcp("127.0.0.1", self.server.port, timeout=seconds)


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
