"""A stand-in for the Hugging Face Hub on loopback, over real HTTP, that fails when it is told to.

    with StandInHub(folder) as hub:            the files of `folder` as openai/gpt-oss-20b
        hub.fail("cut", "model-00001*", after=1000)
        ...
        hub.requests                           what was asked for, and how many bytes went out

It answers what huggingface_hub 2.4.0 and ranged downloads ask for: model info, the tree, and files, large ones through
a redirect to another host name as the real one does. `python -m tests.hub.stand_in FOLDER` serves until it is killed
and prints its address first; a second argument limits the bytes a second of all connections together.
"""

import contextlib
import fnmatch
import hashlib
import json
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee00" * 5
LARGE_BYTES = 8 << 10
"""Files from this size on, and all safetensors, are kept as LFS objects with a sha256."""
PIECE_BYTES = 256 << 10

FaultKind = Literal[
    "cut",  # the connection ends after so many bytes
    "wrong bytes",  # zeros in place of the last byte asked for
    "short file",  # fewer bytes than the file has, and a length that says so
    "wrong length",  # a Content-Range that tells of a longer file
    "status",  # 429, 500, 503, 404, 403, ...
    "stall",  # so many bytes, then silence
    "redirect",  # once more around
    "slow",  # so many bytes a second
    "no ranges",  # the whole file with 200, whatever was asked for
]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of files that `pattern` matches."""

    kind: FaultKind
    pattern: str = "*"
    times: float = 1
    after: int = 0
    """Bytes of the answer that go out right; bytes a second for `slow`."""
    status: int = 503
    retry_after: str | None = None


@dataclass
class Request:
    """One request that was answered."""

    path: str
    """The file's path in the repository for files, the URL's path for the rest."""
    range: str | None
    authorization: str | None
    host: str
    sent: int = 0
    """Bytes of the file that went out."""


class StandInHub:
    """Serves `folder` as a repository until it is closed."""

    def __init__(self, folder: Path, repository: str = "openai/gpt-oss-20b", *, token: str | None = None) -> None:
        self.folder = folder
        self.repository = repository
        self.token = token
        """What requests must carry; None for a repository that is open to all."""
        self.gated = False
        self.rate: float | None = None
        """Bytes a second of all connections together, as of a line."""
        self._line_free_at = 0.0
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.stalled = threading.Event()
        """Set when the hub closes, which ends stalls."""
        self._lock = threading.Lock()
        self._sha256: dict[Path, str] = {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self.port}"

    def fail(self, kind: FaultKind, pattern: str = "*", **details: object) -> None:
        """Schedules a fault."""
        self.faults.append(Fault(kind, pattern, **details))  # type: ignore[arg-type]

    def sent(self, pattern: str = "*") -> int:
        """Bytes of files that match `pattern` that went out so far."""
        with self._lock:
            return sum(request.sent for request in self.requests if fnmatch.fnmatch(request.path, pattern))

    def forget(self) -> None:
        """Empties the list of requests and the schedule of faults."""
        with self._lock:
            self.requests.clear()
            self.faults.clear()

    def close(self) -> None:
        self.stalled.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What the handler asks

    def pace(self, count: int) -> None:
        """Waits until the line has carried `count` more bytes."""
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._line_free_at = max(self._line_free_at, now) + count / self.rate
            wait = self._line_free_at - now
        time.sleep(wait)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def sha256(self, path: Path) -> str:
        if path not in self._sha256:
            with path.open("rb") as file:
                self._sha256[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._sha256[path]

    def is_large(self, path: Path) -> bool:
        return path.suffix == ".safetensors" or path.stat().st_size >= LARGE_BYTES

    def entry(self, path: Path) -> dict[str, object]:
        """A file as the tree lists it."""
        size = path.stat().st_size
        listed: dict[str, object] = {"type": "file", "path": path.relative_to(self.folder).as_posix(), "size": size}
        if self.is_large(path):
            sha256 = self.sha256(path)
            return listed | {"oid": sha256[:40], "lfs": {"oid": sha256, "size": size, "pointerSize": 135}}
        return listed | {"oid": hashlib.sha1(f"blob {size}\0".encode() + path.read_bytes()).hexdigest()}

    def take_fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fnmatch.fnmatch(path, fault.pattern):
                    fault.times -= 1
                    return fault
        return None

    def note(self, request: Request) -> Request:
        with self._lock:
            self.requests.append(request)
        return request

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        """Ends connections that are kept alive, too."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle of an answer is nothing to speak of."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            if path.startswith(f"/api/models/{self.hub.repository}"):
                self._api(path)
            elif path.startswith(f"/{self.hub.repository}/resolve/"):
                self._resolve(path)
            elif path.startswith("/lfs/"):
                self._lfs(path)
            elif path == "/api/agent-harnesses":
                # huggingface_hub's own question, once a day at most; nothing that a download asks for.
                self._json({"standardEnvVars": [], "harnesses": {}})
            else:
                self.hub.note(self._request(path))
                self._error(401 if path.startswith("/api/") else 404, "RepoNotFound")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _request(self, path: str) -> Request:
        headers = self.headers
        return Request(path, headers.get("Range"), headers.get("Authorization"), headers.get("Host", ""))

    def _may_pass(self) -> bool:
        if self.hub.gated:
            self._error(403, "GatedRepo")
            return False
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._error(401, "RepoNotFound")
            return False
        return True

    def _api(self, path: str) -> None:
        self.hub.note(self._request(path))
        if (fault := self.hub.take_fault(path)) is not None and fault.kind == "status":
            self._error(fault.status, retry_after=fault.retry_after)
            return
        if not self._may_pass():
            return
        rest = path.removeprefix(f"/api/models/{self.hub.repository}").strip("/").split("/")
        if rest[0] in ("revision", "tree") and rest[1] not in ("main", COMMIT):
            self._error(404, "RevisionNotFound")
        elif rest[0] == "tree":
            self._json([self.hub.entry(file) for file in self.hub.files()])
        else:
            files = [self._sibling(file) for file in self.hub.files()]
            name = self.hub.repository
            self._json({"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": files})

    def _sibling(self, file: Path) -> dict[str, object]:
        """A file as the model's info lists it."""
        entry = self.hub.entry(file)
        sibling: dict[str, object] = {"rfilename": entry["path"]}
        if "blobs=" in self.path:
            sibling |= {"size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                sha256 = self.hub.sha256(file)
                sibling["lfs"] = {"sha256": sha256, "size": entry["size"], "pointerSize": 135}
        return sibling

    def _resolve(self, path: str) -> None:
        revision, _, name = path.removeprefix(f"/{self.hub.repository}/resolve/").partition("/")
        file = self.hub.folder / name
        if not self._may_pass():
            return
        if revision not in ("main", COMMIT) or not file.is_file():
            self.hub.note(self._request(name))
            self._error(404, "EntryNotFound")
            return
        if self.hub.is_large(file):
            # The real hub sends LFS files from another host.
            self._redirect(f"http://localhost:{self.hub.port}/lfs/{name}", file)
        else:
            self._file(name, file)

    def _lfs(self, path: str) -> None:
        name = path.removeprefix("/lfs/")
        self._file(name, self.hub.folder / name)

    def _redirect(self, location: str, file: Path) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{self.hub.sha256(file)}"')
        self.send_header("X-Linked-Size", str(file.stat().st_size))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, name: str, file: Path) -> None:
        request = self.hub.note(self._request(name))
        fault = self.hub.take_fault(name)
        kind = None if fault is None else fault.kind
        if fault is not None and kind == "status":
            self._error(fault.status, "EntryNotFound" if fault.status == 404 else None, fault.retry_after)
            return
        if kind == "redirect":
            self._redirect(self.path, file)
            return
        size = file.stat().st_size
        start, end = 0, size
        if request.range is not None and kind != "no ranges":
            first, _, last = request.range.removeprefix("bytes=").partition("-")
            start, end = int(first), min(size, int(last) + 1 if last else size)
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        if fault is not None and kind == "short file":
            end = min(end, start + fault.after)
        if request.range is not None and kind != "no ranges":
            self.send_response(206)
            total = size + 17 if kind == "wrong length" else size
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{self.hub.sha256(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self._body(request, file, start, end, fault)

    def _body(self, request: Request, file: Path, start: int, end: int, fault: Fault | None) -> None:
        kind = None if fault is None else fault.kind
        after = end - start if fault is None or kind in ("wrong bytes", "short file", "slow") else fault.after
        good = end if kind in (None, "wrong length", "no ranges") else min(end, start + after)
        with file.open("rb") as opened:
            if kind is None and self.hub.rate is None:
                # As fast as it goes: sendfile does not pass through Python.
                self.wfile.flush()
                request.sent += self.connection.sendfile(opened, start, end - start)
                return
            opened.seek(start)
            position = start
            while position < good:
                piece = opened.read(min(PIECE_BYTES if kind != "slow" else 8192, good - position))
                position += len(piece)
                if kind == "wrong bytes" and position == end:
                    piece = piece[:-1] + bytes([piece[-1] ^ 0xFF])
                self.hub.pace(len(piece))
                self.wfile.write(piece)
                request.sent += len(piece)
                if fault is not None and kind == "slow":
                    time.sleep(len(piece) / fault.after)
        if good < end:
            if kind == "stall":
                self.hub.stalled.wait(60)
            self.close_connection = True

    def _json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, code: str | None = None, retry_after: str | None = None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    with StandInHub(Path(sys.argv[1])) as served:
        served.rate = float(sys.argv[2]) if len(sys.argv) > 2 else None
        print(served.url, flush=True)
        threading.Event().wait()
