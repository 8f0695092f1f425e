"""ToolCallBlock: a tool that the model called, with what, what it gave back, and how long that took."""

import json

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from gptoss_mlx.app.displayed_text import count_of, displayable, duration
from gptoss_mlx.app.toolbox import PYTHON
from gptoss_mlx.app.widgets.foldable import Foldable
from gptoss_mlx.app.widgets.plain_text import PlainText
from gptoss_mlx.harmony import FUNCTIONS, read_display_header

TITLE_CHARACTERS = 200
"""As much of a result goes into the line; the terminal's width cuts it shorter."""

ARGUMENT_CHARACTERS = 48
"""As much of the arguments, so that the result is on the line, too."""

SHOWN_SECONDS = 0.1
"""A call that takes less says no time."""

FAILED = "Error: "
"""How the result of a call that failed, was refused or stopped begins: the model reads it so."""


class ToolCallBlock(Foldable):
    """One call."""

    def __init__(
        self,
        name: str,
        arguments: str = "",
        result: str | None = None,
        *,
        seconds: float | None = None,
        live: bool = False,
        folded: bool = True,
    ) -> None:
        """`live`: the result may still come."""
        super().__init__(folded=folded)
        self.tool_name = name
        self._arguments = arguments
        self._result = result
        self._seconds = seconds
        self._live = live
        self._mark()

    @property
    def arguments(self) -> str:
        """As the model wrote them."""
        return self._arguments

    @property
    def result(self) -> str | None:
        """What the tool gave back; None until it has."""
        return self._result

    @property
    def seconds(self) -> float | None:
        """How long the tool ran, where that is known."""
        return self._seconds

    @property
    def failed(self) -> bool:
        """Whether the result is an error."""
        return self._result is not None and self._result.startswith(FAILED)

    def title(self) -> str:
        """`get_weather {"city": "Oslo"} → 3 lines · 1.2 s`, in one line."""
        name = self.tool_name.removeprefix(f"{FUNCTIONS}.")
        text = self._code() if self.tool_name == PYTHON else self._about or self._arguments
        arguments = " ".join(displayable(text[: 4 * ARGUMENT_CHARACTERS]).split())
        if len(arguments) > ARGUMENT_CHARACTERS:
            arguments = f"{arguments[:ARGUMENT_CHARACTERS]}…"
        seconds = self._seconds or 0.0
        took = f" · {duration(seconds)}" if seconds >= SHOWN_SECONDS else ""
        return f"{displayable(name)} {arguments} → {self._outcome()}{took}"

    @property
    def _about(self) -> str:
        """What a call of the browser came to, in place of numbers of links: the page that it opened."""
        if self.tool_name != "browser.open" or self._result is None:
            return ""
        header = read_display_header(self._result)
        return "" if header is None else header.url or header.title

    def _code(self) -> str:
        """What runs, of what the model wrote."""
        from gptoss_mlx.python_sandbox.tool import read_code

        return read_code(self._arguments)

    def _outcome(self) -> str:
        if self._result is None:
            return "…" if self._live else "no result"
        result = displayable(self._result).strip()
        if self.failed:
            return f"failed: {' '.join(result.removeprefix(FAILED).split())[:TITLE_CHARACTERS]}"
        if "\n" in result:
            return count_of(result.count("\n") + 1, "line")
        return result[:TITLE_CHARACTERS] or "nothing"

    def make_body(self) -> Widget:
        """Arguments, indented if they are JSON, or highlighted code; and the result."""
        result = ("…" if self._live else "no result") if self._result is None else self._result
        if self.tool_name == PYTHON:
            return CodeCall(self._code(), result)
        return PlainText(f"{indented(self._arguments)}\n→\n{result}")

    async def append(self, text: str) -> None:
        """Takes more of the arguments."""
        await self.change(arguments=self._arguments + text)

    async def change(
        self, *, arguments: str | None = None, result: str | None = None, seconds: float | None = None
    ) -> None:
        """Takes all of the arguments, or the result."""
        self._arguments = self._arguments if arguments is None else arguments
        self._result = self._result if result is None else result
        self._seconds = self._seconds if seconds is None else seconds
        await self._show_anew()

    async def settle(self) -> None:
        """No result comes any more."""
        self._live = False
        if self._result is None:
            await self._show_anew()

    async def _show_anew(self) -> None:
        self._mark()
        self.show_title()
        if not self.folded:
            await self.fold()
            await self.fold(False)

    def _mark(self) -> None:
        self.set_class(self.failed, "-failed")


class CodeCall(Vertical):
    """Python code, in colours, and what came of it."""

    def __init__(self, code: str, result: str) -> None:
        super().__init__()
        self._code = code
        self._result = result

    def compose(self) -> ComposeResult:
        from gptoss_mlx.app.markdown.code import highlighted

        yield Static(highlighted(displayable(self._code).rstrip("\n"), PYTHON), classes="code")
        yield PlainText(f"→\n{self._result}")


def indented(arguments: str) -> str:
    """Arguments for reading: JSON with a member a line, other text as it is."""
    try:
        return json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments
