"""How a server is reached, and a sieve for what it sends.

The library refuses a whole list of tools for one that breaks the protocol: such tools are taken out before it reads the
list. And it does not say that a server has ended until somebody asks it something: the sieve does.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeAlias

import mcp_types as types
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import methods
from pydantic import ValidationError

from gptoss_mlx.tools.mcp.server_log import ServerLog
from gptoss_mlx.tools.mcp.spec import ServerSpec

Streams: TypeAlias = tuple[Any, Any]
"""The library's streams of messages: to read and to write."""

CONNECT_SECONDS = 30.0
"""How long a request to a URL may wait for a connection."""

READ_SECONDS = 300.0
"""And for the next bytes of its answer."""


class Sieve:
    """What is told of a server's messages."""

    def __init__(self, on_dropped: Callable[[str], object], on_garbage: Callable[[], object]) -> None:
        """`on_dropped` is given a sentence on a tool that was taken out; `on_garbage` is called for what is no
        message."""
        self.version: Callable[[], str | None] = lambda: None
        """The protocol's version, once it is agreed upon."""
        self.on_end: Callable[[], object] = lambda: None
        """Called when nothing comes any more."""
        self.refusal = ""
        """How a server that listens refused the last request, if it did: `HTTP 401 Unauthorized`."""
        self.on_dropped = on_dropped
        self.on_garbage = on_garbage

    def sift(self, item: SessionMessage | Exception) -> None:
        """Looks at what came, and takes out of a list of tools those that break the protocol."""
        if isinstance(item, Exception):
            self.on_garbage()
        elif isinstance(item.message, types.JSONRPCResponse) and isinstance(item.message.result.get("tools"), list):
            self._sift_tools(item.message.result)

    def _sift_tools(self, result: dict[str, Any]) -> None:
        version = self.version()
        if version is None or _fault(result, version) is None:
            return
        kept: list[Any] = []
        for number, entry in enumerate(result["tools"], 1):
            fault = _fault({**result, "tools": [entry]}, version)
            if fault is None:
                kept.append(entry)
            else:
                name = entry.get("name") if isinstance(entry, dict) else None
                self.on_dropped(f"the tool {name if isinstance(name, str) else number!r} is left out: {fault}")
        result["tools"] = kept


def _fault(result: dict[str, Any], version: str) -> str | None:
    """What in a list of tools breaks the protocol; None: nothing."""
    try:
        methods.validate_server_result("tools/list", version, result)
        types.ListToolsResult.model_validate(result, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # The first two say `tools`, and which one.
        return f"{'.'.join(str(part) for part in first['loc'][2:]) or 'it'}: {first['msg']}"
    except RecursionError:
        return "it is nested too deeply"
    return None


class _Sifted:
    """A stream of messages that passes the sieve."""

    def __init__(self, stream: Any, sieve: Sieve) -> None:
        self._stream = stream
        self._sieve = sieve

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        item: SessionMessage | Exception = await self._stream.receive()
        self._sieve.sift(item)
        return item

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            item: SessionMessage | Exception = await self._stream.__anext__()
        except BaseException:
            self._sieve.on_end()
            raise
        self._sieve.sift(item)
        return item

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(kind, error, trace)
        return ended


def open_transport(spec: ServerSpec, log: ServerLog, sieve: Sieve) -> AbstractAsyncContextManager[Streams]:
    """The way to the server that `spec` names; a process is started when it is entered, and ended when it is left.

    Raises UsageError for a variable of its environment or headers that is not set.
    """
    if spec.url is not None:
        return _sifted(_http(spec.url, spec.expanded(spec.headers), sieve), sieve)
    program, *arguments = spec.command
    parameters = StdioServerParameters(
        command=program,
        args=arguments,
        env=spec.expanded(spec.env),
        cwd=spec.cwd,
        # A wrong byte is no reason to lose the server.
        encoding_error_handler="replace",
    )
    return _sifted(stdio_client(parameters, errlog=log.file), sieve)


@asynccontextmanager
async def _http(url: str, headers: dict[str, str], sieve: Sieve) -> AsyncIterator[Streams]:
    import httpx2

    async def note(response: httpx2.Response) -> None:
        # The library tells no more than that there was an error.
        if response.request.method == "POST":
            refused = response.status_code >= 400
            sieve.refusal = f"HTTP {response.status_code} {response.reason_phrase}" if refused else ""

    timeout = httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, event_hooks={"response": [note]}) as client,
        streamable_http_client(url, http_client=client) as streams,
    ):
        yield streams


@asynccontextmanager
async def _sifted(transport: AbstractAsyncContextManager[Streams], sieve: Sieve) -> AsyncIterator[Streams]:
    async with transport as (read, write):
        yield _Sifted(read, sieve), write
