"""One call of a function on a thread of its own, with a limit on its time.

Python cannot end a thread from outside. A call that is stopped, or out of time, is asked to end: a coroutine is
cancelled; a function can look at `current_call().cancelled`, or leave there what ends it (`on_cancel`: kill the
process that it waits for). One that does not end within the grace time is left to itself; its result is dropped.
"""

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gptoss_mlx.events import Source
from gptoss_mlx.harmony import Message
from gptoss_mlx.tools.limits import RESULT_CHARACTERS
from gptoss_mlx.tools.results import result_text
from gptoss_mlx.tools.tool import Tool

Ending: TypeAlias = Literal["returned", "raised", "out of time", "stopped"]

_log = logging.getLogger(__name__)
_current: "contextvars.ContextVar[RunningCall]" = contextvars.ContextVar("gptoss_mlx_call")


def about_tokens(text: str) -> int:
    """How many tokens a text takes, guessed: four bytes each."""
    return len(text.encode()) // 4 + 1


class ToolFailure(Exception):
    """What a tool raises when it cannot do what it was asked to: the model reads `Error: ` and the text."""


class RunningCall:
    """A call of a tool, as the tool itself sees it (`current_call`)."""

    def __init__(
        self,
        name: str,
        *,
        conversation: Sequence[Message] = (),
        count_tokens: Callable[[str], int] = about_tokens,
        result_characters: int = RESULT_CHARACTERS,
    ) -> None:
        self.name = name
        """Full name of the tool, such as `functions.get_weather`."""
        self.conversation = conversation
        """All that was said before, the call itself included."""
        self.count_tokens = count_tokens
        """How many tokens a text takes of the model that called."""
        self.result_characters = result_characters
        """Of a result that is longer, the model does not read the middle."""
        self.source: Source | None = None
        """The page that the result shows; the tool sets it, and `ToolResult.source` has it."""
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._enders: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """True once the call should end: the user stopped it, or its time is over."""
        return self._cancelled.is_set()

    def on_cancel(self, end: Callable[[], object]) -> None:
        """Has `end` called (on another thread) when the call should end; at once if that time has come."""
        with self._lock:
            if not self._cancelled.is_set():
                self._enders.append(end)
                return
        end()

    def cancel(self) -> None:
        """Asks the call to end."""
        with self._lock:
            enders, self._enders = self._enders, []
            self._cancelled.set()
        for end in enders:
            try:
                end()
            except Exception:
                _log.info("ending the call of %s failed", self.name, exc_info=True)


def current_call() -> RunningCall | None:
    """The call that runs on this thread; None outside of tools."""
    return _current.get(None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call went."""

    ending: Ending
    text: str
    """The result or the error, as the model reads it."""
    seconds: float
    abandoned: bool = False
    """Whether it still runs, because it did not end when it was asked to."""
    source: Source | None = None
    """The page that the result shows."""


def run_call(
    tool: Tool,
    name: str,
    arguments: Mapping[str, Any],
    *,
    seconds: float,
    grace: float,
    cancelled: Callable[[], bool],
    context: contextvars.Context,
    conversation: Sequence[Message] = (),
    count_tokens: Callable[[str], int] = about_tokens,
    result_characters: int = RESULT_CHARACTERS,
) -> Outcome:
    """Calls `tool.function(**arguments)` and waits for its end, for `seconds` at most, or until `cancelled` says so;
    then for `grace` seconds more.

    It sees the context variables of `context`, and the rest as its `RunningCall`. Whatever it raises becomes its
    outcome.
    """
    call = RunningCall(name, conversation=conversation, count_tokens=count_tokens, result_characters=result_characters)
    done = threading.Event()
    found: list[tuple[Ending, str]] = []

    def work() -> None:
        _current.set(call)
        try:
            found.append(("returned", result_text(_call(tool.function, arguments, call))))
        except ToolFailure as failure:
            found.append(("raised", f"Error: {failure}"))
        except BaseException as error:
            _log.info("the tool %s failed", name, exc_info=True)
            found.append(("raised", f"Error: {type(error).__name__}: {error}".removesuffix(": ")))
        finally:
            done.set()

    start = time.monotonic()
    copied = context.copy()
    threading.Thread(target=lambda: copied.run(work), name=f"gptoss tool {name}", daemon=True).start()
    stopped = False
    # Short waits: a stop must be seen soon, and Event has no way to wait for two things.
    while not done.wait(min(0.05, max(seconds - (time.monotonic() - start), 0.001))):
        stopped = cancelled()
        if stopped or time.monotonic() - start >= seconds:
            call.cancel()
            break
    ended = done.wait(grace)
    took = time.monotonic() - start
    if call.cancelled:
        reason = "the user stopped this call" if stopped else f"no result within {seconds:g} seconds"
        left = "" if ended else "; the tool does not end and was left running"
        return Outcome("stopped" if stopped else "out of time", f"Error: {reason}{left}.", took, abandoned=not ended)
    ending, text = found[0]
    return Outcome(ending, text, took, source=call.source if ending == "returned" else None)


def _call(function: Callable[..., Any], arguments: Mapping[str, Any], call: RunningCall) -> Any:
    """The function's result; that of a coroutine in an event loop of this thread, where it can be cancelled."""
    result = function(**arguments)
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(result)
        call.on_cancel(lambda: loop.call_soon_threadsafe(task.cancel))
        return await task

    return asyncio.run(wait())
