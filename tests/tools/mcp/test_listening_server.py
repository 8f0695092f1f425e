"""A server that listens, by hand: sessions, headers, and what becomes of a session that it forgets."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gptoss_mlx.errors import ToolServerError
from gptoss_mlx.tools import ToolFailure
from gptoss_mlx.tools.mcp import McpServer
from tests.tools.mcp.servers import run


class Web(ThreadingHTTPServer):
    """Speaks the older protocol, with sessions."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sessions = 0
        self.known = ""
        self.authorization: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/mcp"


class Handler(BaseHTTPRequestHandler):
    @property
    def web(self) -> Web:
        assert isinstance(self.server, Web)
        return self.server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.web.authorization.append(self.headers["Authorization"])
        if self.web.authorization[-1] == "Bearer wrong":
            self.answer(401, None)
        elif request["method"] == "initialize":
            self.web.sessions += 1
            self.web.known = f"session-{self.web.sessions}"
            version = request["params"]["protocolVersion"]
            told = {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "w", "version": "1"},
            }
            self.answer(200, {"id": request["id"], "result": told})
        elif self.headers["mcp-session-id"] not in (None, self.web.known):
            self.answer(404, None)
        elif "id" not in request:
            self.answer(202, None)
        elif request["method"] == "tools/list":
            self.answer(
                200, {"id": request["id"], "result": {"tools": [{"name": "f", "inputSchema": {"type": "object"}}]}}
            )
        elif request["method"] == "tools/call":
            content = [{"type": "text", "text": self.headers["mcp-session-id"]}]
            self.answer(200, {"id": request["id"], "result": {"content": content}})
        else:
            self.answer(200, {"id": request["id"], "error": {"code": -32601, "message": "no such method"}})

    def do_GET(self) -> None:
        self.answer(405, None)

    def do_DELETE(self) -> None:
        self.answer(200, None)

    def answer(self, status: int, message: dict[str, Any] | None) -> None:
        body = b"" if message is None else json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("mcp-session-id", self.web.known)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_listens_is_called_in_its_session(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKEN", "t0ken")
    with McpServer(web.url, name="web", headers={"Authorization": "Bearer ${TOKEN}"}) as found:
        assert [tool.name for tool in found.tools] == ["f"]
        assert run(found, "f") == "session-1"
    assert set(web.authorization) == {"Bearer t0ken"}


def test_a_session_that_was_forgotten_is_begun_anew(web: Web):
    with McpServer(web.url, name="web") as found:
        web.known = "another"
        with pytest.raises(ToolFailure, match="ended during the call"):
            run(found, "f")
        assert run(found, "f") == "session-2"
        assert len(found.take_notices()) == 1


def test_a_server_that_refuses_us_is_told(web: Web):
    with pytest.raises(
        ToolServerError, match=r"the server 'web' \(http://127.* cannot be used: it refused: .*HTTP 401 Unauthorized"
    ):
        McpServer(web.url, name="web", headers={"Authorization": "Bearer wrong"}).__enter__()
