"""Asking before a tool runs: a question that travels to whoever reads the stream, and its answer back to the loop."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gptoss_mlx.events import ToolCall

Verdict: TypeAlias = bool | str
"""True: the call runs. False: it does not. A text: it does not, and the model is told this reason."""

Approve: TypeAlias = Callable[[ToolCall], Verdict | Awaitable[Verdict]]
"""Decides on a call, and may take its time. It is called where the stream is read: on the thread that iterates over
`events()` or waits in `reply` (so it may use the terminal), or, if it is a coroutine function, in the event loop that
reads `aevents()` (so it may wait for a screen)."""

ApproveOption: TypeAlias = Approve | Literal["always", "never"]
"""What holds for tools without a policy of their own: ask, run every call, or refuse every call."""


@dataclass(slots=True)
class ApprovalRequest:
    """One call that waits for somebody's word."""

    call: ToolCall
    verdict: Verdict = "nobody decided on it"
    _decided: threading.Event = field(default_factory=threading.Event)

    def decide(self, verdict: Verdict) -> None:
        """Gives the answer."""
        self.verdict = verdict
        self._decided.set()

    def wait(self, cancelled: Callable[[], bool]) -> bool:
        """Blocks until somebody decided (True), or the turn was cancelled (False)."""
        while not self._decided.wait(0.05):
            if cancelled():
                return False
        return True
