"""The panel with the figures of the last answer (F2): tokens, what the cache spared, times, speed as it went.

A wide screen has it beside the conversation, one figure a row; a narrow one below it, as a few lines of text.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.widgets.status_line import shown_memory

SAMPLES: Final = 600
"""Speeds that the curve is drawn of, at most; older ones go."""

Row = tuple[str, str]
"""What a figure is, and the figure."""


class StatisticsPanel(Vertical):
    """The figures; `show` a turn, `add_speed` while one comes."""

    BORDER_TITLE = "Last answer"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._speeds: deque[float] = deque(maxlen=SAMPLES)
        self._turn: Turn | None = None
        self._tokens = 0
        self._kept: int | None = None

    async def furnish(self) -> None:
        """Gives it what it consists of, which is imported when somebody wants to see it."""
        if not self.children:
            from textual.widgets import Sparkline

            await self.mount(Static(id="figures"), Sparkline([], id="speeds"))
        self._paint()

    def on_resize(self) -> None:
        self._paint()

    def show(self, turn: Turn | None) -> None:
        """The figures of a finished answer, or of none. The curve stays where it is the answer that just came."""
        if self._turn is not None and (turn is None or turn.id != self._turn.id):
            self._speeds.clear()
        self._turn = turn
        self._paint()

    def show_kept(self, file_bytes: int | None) -> None:
        """Size of the file with what was read of the conversation; None where there is none."""
        self._kept = file_bytes
        self._paint()

    def begin(self, turn: Turn) -> None:
        """An answer is under way."""
        self._speeds.clear()
        self._tokens = 0
        self._turn = turn
        self._paint()

    def add_speed(self, tokens: int, tokens_per_second: float) -> None:
        """How fast it comes at the moment, and how many tokens there are."""
        self._speeds.append(tokens_per_second)
        self._tokens = tokens
        self._paint()

    @property
    def speeds(self) -> tuple[float, ...]:
        """What the curve is drawn of."""
        return tuple(self._speeds)

    def _paint(self) -> None:
        if not self.display or not self.children:
            return
        from textual.widgets import Sparkline

        if self._turn is None:
            rows = [("", "no answer yet")]
        elif "prompt_tokens" not in self._turn.stats:
            rows = (
                [("so far", f"{self._tokens:,} tokens")] if self._turn.state == "running" else [("", "nothing known")]
            )
        else:
            rows = figures(self._turn)
            if self._kept is not None:
                rows.insert(2, ("kept on disk", shown_size(self._kept)))
        self.query_one("#figures", Static).update(lay_out(rows, self.content_size.width))
        curve = self.query_one(Sparkline)
        curve.display = len(self._speeds) > 1
        curve.data = list(self._speeds)


def figures(turn: Turn) -> list[Row]:
    """What is known of a finished answer, in order."""
    stats: Mapping[str, Any] = turn.stats
    prompt, cached = int(stats["prompt_tokens"]), int(stats["cached_tokens"])
    rows = [("prompt", f"{prompt:,} tokens")]
    rows.append(("from the cache", f"{cached:,} tokens, {cached * 100 // prompt} %" if cached else "none"))
    rows.append(("prompt read in", f"{stats['prompt_seconds']:.2f} s, {stats['prompt_tps']:,.0f} tok/s"))
    rows.append(("first token after", f"{stats['ttft_seconds']:.2f} s"))
    thought = "" if turn.reasoning_seconds is None else f", {turn.reasoning_seconds:.1f} s"
    rows.append(("reasoning", f"{stats['reasoning_tokens']:,} tokens{thought}"))
    rows.append(("answer", f"{stats['answer_tokens']:,} tokens"))
    rows.append(("with headers", f"{stats['generated_tokens']:,} tokens"))
    rows.append(("written in", f"{stats['generation_seconds']:.2f} s"))
    rows.append(("speed", f"{stats['generation_tps']:.1f} tok/s"))
    if stats["peak_memory_bytes"]:
        rows.append(("memory at most", shown_memory(int(stats["peak_memory_bytes"]))))
    rows.append(("ended by", _ended(turn)))
    if turn.model:
        rows.append(("model", turn.model))
    return rows


def shown_size(number: int) -> str:
    """Bytes of a file for people, in powers of 1000."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def lay_out(rows: list[Row], width: int) -> Content:
    """One figure a row where they stand in a column of their own; else as many in a line as fit."""
    if width < NARROWEST_LINES:
        label_width = max(len(label) for label, _ in rows) + 2
        return Content("\n").join(
            Content.assemble((label.ljust(label_width) if label else "", "$foreground-muted"), value)
            for label, value in rows
        )
    lines = [Content("")]
    for label, value in rows:
        part = Content.assemble((f"{label} " if label else "", "$foreground-muted"), value)
        longer = Content.assemble(lines[-1], "   ", part) if lines[-1].plain else part
        if longer.cell_length > width:
            lines.append(part)
        else:
            lines[-1] = longer
    return Content("\n").join(lines)


NARROWEST_LINES: Final = 48
"""Cells from which on figures stand in lines; a column beside the conversation is narrower."""


def _ended(turn: Turn) -> str:
    if turn.state == "failed":
        return "an error"
    return {
        "stop": "the model",
        "length": "the token limit",
        "context": "the full context",
        "tool_calls": "a tool call",
        "cancelled": "you",
    }.get(turn.finish_reason or "", "nobody knows" if turn.finish_reason is None else turn.finish_reason)
