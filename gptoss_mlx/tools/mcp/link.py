"""One life of a server, from its start to its end: an asyncio loop on a thread of its own, with the library in it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError as Withdrawn
from concurrent.futures import Future
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from gptoss_mlx.errors import GptOssError
from gptoss_mlx.tools.mcp.faults import describe_fault
from gptoss_mlx.tools.mcp.library import require_library, silence
from gptoss_mlx.tools.mcp.listing import Listing, read_listing
from gptoss_mlx.tools.mcp.server_log import ServerLog
from gptoss_mlx.tools.mcp.spec import ServerSpec
from gptoss_mlx.tools.running import ToolFailure, current_call

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client import IncomingMessage

    from gptoss_mlx.tools.mcp.transport import Sieve

T = TypeVar("T")

LinkState: TypeAlias = Literal["starting", "ready", "failed", "lost", "closed"]
"""`failed`: it could not be started; `lost`: it ended by itself, or the connection did."""

MOST_PAGES: Final = 100
"""Pages of a list of tools; one that has more never ends."""

RELIST_SECONDS: Final = 0.2
"""Between two times that the list is read again, however often the server says that it changed."""

SESSION_GONE: Final = "Session terminated"
"""What the library says where a server that listens has forgotten us: after it was started anew, for example."""

END_SECONDS: Final = 8.0
"""How long the end of a server is waited for: it gets 2 s to leave, 2 s after SIGTERM, then it is killed."""


class LinkLost(Exception):
    """The server is gone, or was never there."""


class Link:
    """Starts at once, on its own thread; `started` is set when it is ready or has failed."""

    def __init__(
        self,
        spec: ServerSpec,
        *,
        run: Callable[[str, dict[str, Any]], str],
        on_change: Callable[[], object],
        notice: Callable[[str], object],
    ) -> None:
        """`run` is what its tools do when they are called; `on_change` is called, on any thread, when state or tools
        changed, and `notice` with a sentence for the user."""
        self.spec = spec
        self.state: LinkState = "starting"
        self.reason = ""
        """Why it failed or was lost."""
        self.listing = Listing()
        """The tools that it has."""
        self.started = threading.Event()
        self.log = ServerLog(spec.name)
        self._run_tool = run
        self._on_change = on_change
        self._notice = notice
        self._garbage = False
        self._told: set[str] = set()
        self._over = threading.Event()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._client: Client | None = None
        self._sieve: Sieve | None = None
        self._thread = threading.Thread(target=self._live, name=f"gptoss-mcp-{spec.name}", daemon=True)
        self._thread.start()

    # For other threads

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """The text of the tool's result. A stop of the call that runs on this thread is told to the server.

        Raises ToolFailure with the tool's error, LinkLost when the server ends before it has answered.
        """
        client = self._client
        if client is None or self.state != "ready":
            raise LinkLost
        return self._wait(self._call(client, name, arguments))

    def end(self) -> None:
        """Asks the server to end; comes back at once."""
        self._closing = True
        loop = self._loop
        if loop is not None:
            # The loop may be over already.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end_soon)

    def join(self, seconds: float = END_SECONDS) -> bool:
        """Waits for its end; False where that takes longer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives, which runs in the loop."""
        assert self._loop is not None
        try:
            future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise LinkLost from error
        running = current_call()
        if running is not None:
            running.on_cancel(future.cancel)
        while True:
            try:
                return future.result(0.2)
            except Withdrawn as error:
                if running is not None and running.cancelled:
                    raise ToolFailure("the call was stopped") from error
                raise LinkLost from error
            except TimeoutError as error:
                if not future.done():
                    # A loop that ended between two of its steps never answers.
                    if self._over.is_set():
                        raise LinkLost from None
                elif not future.cancelled() and isinstance(future.exception(), TimeoutError):
                    # Not of our waiting: the library could not send the call.
                    raise ToolFailure("the server takes no calls") from error

    # On its own thread

    def _live(self) -> None:
        try:
            require_library()
            # The import takes half a second, of this thread only.
            import mcp  # noqa: F401

            silence()
            if not self._closing:
                asyncio.run(self._guard())
        except BaseException as error:
            self._fail(error)
        finally:
            self._over.set()
            self.log.close()
            if self._closing:
                self.state = "closed"
            self.started.set()
            self._on_change()

    async def _guard(self) -> None:
        """Lets the server live until it is to end, and ends one that does not come up in time."""
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        if self._closing:
            return
        up = asyncio.Event()
        life = asyncio.create_task(self._life(up))
        watched = [asyncio.create_task(up.wait()), asyncio.create_task(self._ending.wait())]
        await asyncio.wait({life, *watched}, timeout=self.spec.start_seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in watched:
            task.cancel()
        if not up.is_set() and not life.done():
            if not self._closing and self.state == "starting":
                self._fail(TimeoutError(f"it did not answer within {self.spec.start_seconds:g} seconds"))
            life.cancel()
        try:
            await life
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._fail(error)

    async def _life(self, up: asyncio.Event) -> None:
        import mcp_types as types
        from mcp import Client

        from gptoss_mlx.tools.mcp.transport import Sieve, open_transport

        self._sieve = sieve = Sieve(self._tell, self._note_garbage)
        sieve.on_end = self._note_end
        client = Client(
            open_transport(self.spec, self.log, sieve),
            client_info=types.Implementation(name="gptoss-mlx", version=version("gptoss-mlx")),
            message_handler=self._hear,
            logging_callback=self._note_log,
            cache=None,
        )
        sieve.version = lambda: client.session.protocol_version
        self._stale = asyncio.Event()
        assert self._ending is not None
        async with client:
            await self._list(client)
            self._client = client
            self.state = "ready"
            up.set()
            self.started.set()
            self._on_change()
            watching = [asyncio.create_task(self._follow(client)), asyncio.create_task(self._listen(client))]
            await self._ending.wait()
            self._client = None
            for task in watching:
                task.cancel()

    async def _list(self, client: "Client") -> None:
        """Reads the tools, page by page."""
        capabilities = client.server_capabilities
        tools: list[Any] = []
        cursor: str | None = None
        if capabilities.tools is not None:
            for _ in range(MOST_PAGES):
                page = await client.list_tools(cursor=cursor)
                tools += page.tools
                if page.next_cursor is None or page.next_cursor == cursor:
                    break
                cursor = page.next_cursor
            else:
                self._tell(f"its list of tools has more than {MOST_PAGES} pages; the rest is left out")
        self.listing = read_listing(self.spec, tools, client.instructions, self._run_tool)
        for notice in self.listing.notices:
            self._tell(notice)

    async def _follow(self, client: "Client") -> None:
        """Reads the list again when it changed."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._list(client)
            except Exception as error:
                self._tell(f"its tools changed and cannot be read again: {describe_fault(error, self.spec)}")
            else:
                self._on_change()
            await asyncio.sleep(RELIST_SECONDS)

    async def _listen(self, client: "Client") -> None:
        """Asks a server of the newer protocol to say when its list changed; older ones say so unasked."""
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        tools = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or tools is None or not tools.list_changed:
            return
        try:
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._stale.set()
        except Exception as error:
            self.log.note(f"changes of the tools are not told: {describe_fault(error, self.spec)}")

    async def _call(self, client: "Client", name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED
        from pydantic import ValidationError

        from gptoss_mlx.tools.mcp.results import call_text

        async def note(progress: float, total: float | None, message: str | None) -> None:
            of = "" if total is None else f" of {total:g}"
            self.log.note(f"{name}: {progress:g}{of} {message or ''}")

        try:
            result = await client.call_tool(name, arguments, progress_callback=note)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise LinkLost from error
            if self.spec.url is not None and error.message == SESSION_GONE:
                self._note_end()
                raise LinkLost from error
            raise ToolFailure(error.message) from error
        except ValidationError as error:
            raise ToolFailure(f"its result breaks the protocol: {describe_fault(error, self.spec)}") from error
        except RuntimeError as error:
            # What the library says of a result that does not fit the tool's own promise.
            raise ToolFailure(str(error)) from error
        text = call_text(result)
        if result.is_error:
            raise ToolFailure(text)
        return text

    async def _hear(self, message: "IncomingMessage") -> None:
        import mcp_types as types

        if isinstance(message, types.ToolListChangedNotification):
            self._stale.set()

    async def _note_log(self, params: Any) -> None:
        self.log.note(f"{params.level}: {params.data}")

    def _note_garbage(self) -> None:
        if not self._garbage:
            self._garbage = True
            self._tell("it writes on standard output what is no message; that is skipped")

    def _note_end(self) -> None:
        """The server says nothing any more."""
        if self._ending is None or self._ending.is_set():
            return
        if self.state == "ready":
            self.state, self.reason = "lost", self._with_last_words("it ended")
            self._on_change()
            self._ending.set()

    def _end_soon(self) -> None:
        assert self._ending is not None
        self._ending.set()

    def _fail(self, error: BaseException) -> None:
        if self._closing or self.state in ("failed", "lost"):
            return
        what = str(error) if isinstance(error, GptOssError) else describe_fault(error, self.spec)
        if self._sieve is not None and self._sieve.refusal:
            what = f"{what} ({self._sieve.refusal})"
        self.reason = what if isinstance(error, GptOssError) else self._with_last_words(what)
        self.state = "lost" if self.state == "ready" else "failed"
        self.started.set()
        self._on_change()

    def _with_last_words(self, what: str) -> str:
        said = self.log.last_words()
        return f"{what}; its last words were: {said}" if said else what

    def _tell(self, sentence: str) -> None:
        """Tells the user, once in a life."""
        self.log.note(sentence)
        if sentence not in self._told:
            self._told.add(sentence)
            self._notice(sentence)
