"""Whether the tools of one answer may run: what the policies say, else a question that waits for the person.

The question waits as long as it takes, whatever is on the screen; stopping the answer takes it back. Everything here
happens on the app's loop. Knows no widgets.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

# What a tool is, is imported with the first one: an empty screen is painted without.
import gptoss_mlx.harmony as harmony

if TYPE_CHECKING:
    from gptoss_mlx.app.toolbox import Toolbox
    from gptoss_mlx.events import ToolCall
    from gptoss_mlx.tools import Verdict


def bare_name(name: str) -> str:
    """`multiply` for `functions.multiply`; `browser.open` is whole."""
    return name.removeprefix(f"{harmony.FUNCTIONS}.")


def toolbox_name(name: str) -> str:
    """By which the toolbox knows a tool: `multiply` for `functions.multiply`, `browser` for `browser.open`."""
    namespace = name.partition(".")[0]
    return namespace if namespace in harmony.BUILTIN_NAMESPACES else bare_name(name)


@dataclass(eq=False, slots=True)
class Question:
    """A call that waits for the person's word."""

    call: "ToolCall"
    _verdict: "asyncio.Future[Verdict]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def tool(self) -> str:
        """The tool's name, for people."""
        return bare_name(self.call.name)

    @property
    def toolbox_name(self) -> str:
        """By which the toolbox knows it."""
        return toolbox_name(self.call.name)

    def decide(self, verdict: "Verdict") -> None:
        """Gives the answer; only the first one counts."""
        if not self._verdict.done():
            self._verdict.set_result(verdict)

    async def wait(self) -> "Verdict":
        """The answer, when it is there."""
        return await self._verdict


class Approval:
    """Decides on the calls of one answer."""

    def __init__(self, toolbox: "Toolbox", on_change: Callable[[], object] = lambda: None) -> None:
        """`on_change` is told when a question comes and when it is gone."""
        self.question: Question | None = None
        """What waits."""
        self._toolbox = toolbox
        self._on_change = on_change
        self._over = False

    async def ask(self, call: "ToolCall") -> "Verdict":
        """Whether the call may run: True, False, or a reason why not."""
        policy = self._toolbox.policy(toolbox_name(call.name))
        if policy != "ask":
            return policy == "always" or "it is switched off"
        if self._over:
            return False
        self.question = question = Question(call)
        self._on_change()
        try:
            return await question.wait()
        finally:
            self.question = None
            self._on_change()

    def always(self, question: Question) -> None:
        """Lets it run, and this tool from now on, while the app runs."""
        self._toolbox.choose(question.toolbox_name, "always")
        question.decide(True)

    def withdraw(self) -> None:
        """The answer was stopped: nothing is asked any more."""
        self._over = True
        if self.question is not None:
            self.question.decide("the user stopped the turn")
