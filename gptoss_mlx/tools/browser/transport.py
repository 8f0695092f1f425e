"""HTTP connections that go to judged addresses only, and end when their time is over or the call is stopped.

httpx speaks HTTP, httpcore keeps the connections; what is ours is where they lead to and how long they live: a limit on
each read alone would let a server that sends a byte a second go on for ever.
"""

import functools
import ssl
import threading
import time
import typing
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import httpcore2
import httpx2

from gptoss_mlx.tools.browser.addresses import Resolve, public_addresses, resolve_host
from gptoss_mlx.tools.browser.backend import BrowseError

Dial: TypeAlias = Callable[[str, int, float], httpcore2.NetworkStream]
"""Address, port and seconds to a connection. Raises httpcore's ConnectError or ConnectTimeout."""


def dial_address(address: str, port: int, seconds: float) -> httpcore2.NetworkStream:
    """A connection to an address."""
    return httpcore2.SyncBackend().connect_tcp(address, port, timeout=seconds)


class Deadline:
    """When all has to be over. `end` makes that now, and closes what is open."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._streams: list[httpcore2.NetworkStream] = []
        self._lock = threading.Lock()
        self.ended = False
        """Whether it was ended before its time."""

    def left(self, limit: float | None = None) -> float:
        """Seconds that are left, `limit` at most. Raises httpcore's ReadTimeout when none are."""
        left = self._until - time.monotonic()
        if self.ended or left <= 0:
            raise httpcore2.ReadTimeout("the time is over")
        return left if limit is None else min(left, limit)

    def watch(self, stream: httpcore2.NetworkStream) -> None:
        """Has the stream closed when it is ended."""
        with self._lock:
            self._streams.append(stream)

    def end(self) -> None:
        """Ends it now, from any thread."""
        self.ended = True
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            # A read that waits ends when its socket is shut down, not when it is closed.
            socket = stream.get_extra_info("socket")
            try:
                if socket is not None:
                    socket.shutdown(2)
            except OSError:
                continue


class _Stream(httpcore2.NetworkStream):
    """A connection under a deadline."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline
        deadline.watch(inner)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    """Connects to hosts that may be reached."""

    def __init__(self, deadline: Deadline, *, private: bool, resolve: Resolve, dial: Dial) -> None:
        self._deadline = deadline
        self._private = private
        self._resolve = resolve
        self._dial = dial

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in public_addresses(host, port, self._resolve, private=self._private):
            try:
                return _Stream(self._dial(address, port, self._deadline.left(timeout)), self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        raise httpcore2.ConnectError("only the network can be reached")


class _Body(httpx2.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> typing.Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


@functools.cache
def _tls() -> ssl.SSLContext:
    """The system's certificates are read once: that takes longer than many a request."""
    return ssl.create_default_context()


class GuardedTransport(httpx2.BaseTransport):
    """What httpx sends its requests through."""

    def __init__(
        self, deadline: Deadline, *, private: bool = False, resolve: Resolve = resolve_host, dial: Dial = dial_address
    ) -> None:
        """`private`: addresses that are not public may be reached, too."""
        self._pool = httpcore2.ConnectionPool(
            ssl_context=_tls(),
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Backend(deadline, private=private, resolve=resolve, dial=dial),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.SyncByteStream)
        url = httpcore2.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        answer = self._pool.handle_request(
            httpcore2.Request(
                method=request.method,
                url=url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(answer.stream, Iterable)
        return httpx2.Response(status_code=answer.status, headers=answer.headers, stream=_Body(answer.stream))

    def close(self) -> None:
        self._pool.close()


def sentence(error: Exception, seconds: float) -> str:
    """What went wrong with a request, for the model."""
    if isinstance(error, BrowseError):
        return str(error)
    if isinstance(error, httpcore2.TimeoutException | httpx2.TimeoutException):
        return f"nothing complete came within {seconds:g} seconds"
    if isinstance(error, httpcore2.ConnectError | httpx2.ConnectError):
        return f"there is no connection ({error})"
    return f"the answer is broken ({type(error).__name__}: {error})"[:300]
