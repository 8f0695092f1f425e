"""ToolCallBlock: a tool that the model called, with what, and what it gave back."""

import json

from gptoss_mlx.app.displayed_text import count_of, displayable
from gptoss_mlx.app.widgets.foldable import Foldable
from gptoss_mlx.app.widgets.plain_text import PlainText
from gptoss_mlx.harmony import FUNCTIONS

TITLE_CHARACTERS = 200
"""As much of the arguments goes into the line; the terminal's width cuts it shorter."""


class ToolCallBlock(Foldable):
    """One call."""

    def __init__(self, name: str, arguments: str = "", result: str | None = None, *, folded: bool = True) -> None:
        super().__init__(folded=folded)
        self.tool_name = name
        self._arguments = arguments
        self._result = result

    @property
    def arguments(self) -> str:
        """As the model wrote them."""
        return self._arguments

    @property
    def result(self) -> str | None:
        """What the tool gave back; None until it has."""
        return self._result

    def title(self) -> str:
        """`get_weather {"city": "Oslo"} → 3 lines`, in one line."""
        name = self.tool_name.removeprefix(f"{FUNCTIONS}.")
        arguments = " ".join(displayable(self._arguments[:TITLE_CHARACTERS]).split())
        return f"{displayable(name)} {arguments} → {self._outcome()}"

    def _outcome(self) -> str:
        if self._result is None:
            return "…"
        result = displayable(self._result).strip()
        if "\n" in result:
            return count_of(result.count("\n") + 1, "line")
        return result[:TITLE_CHARACTERS] or "nothing"

    def make_body(self) -> PlainText:
        """Arguments, indented if they are JSON, and result."""
        result = "…" if self._result is None else self._result
        return PlainText(f"{_indented(self._arguments)}\n→\n{result}")

    async def append(self, text: str) -> None:
        """Takes more of the arguments."""
        await self.change(arguments=self._arguments + text)

    async def change(self, *, arguments: str | None = None, result: str | None = None) -> None:
        """Takes all of the arguments, or the result."""
        self._arguments = self._arguments if arguments is None else arguments
        self._result = self._result if result is None else result
        self.show_title()
        if not self.folded:
            await self.fold()
            await self.fold(False)


def _indented(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments
