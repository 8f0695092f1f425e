"""One line under the conversation: model, effort, context, speed, memory; what is under way in its place.

What it says is a `Status`; `render_status` makes a line of it for a width. Where the line is too long, it gives up the
least important first, in the order of `_SHORTER`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

if TYPE_CHECKING:
    from gptoss_mlx.events import PromptProgress

SessionState: TypeAlias = Literal["none", "loading", "ready", "failed"]

WARNING_SHARE: Final = 0.75
"""From here on the context's bar has the colour of a warning."""

FULL_SHARE: Final = 0.9
"""From here on it has that of an error."""

BAR_CELLS: Final = 10

_SHORTER: Final = ("numbers", "labels", "memory", "first token", "bar", "speed", "effort", "context")
"""What is given up, one after the other, until the line fits: tokens in numbers (a percentage remains), words that say
what a part is, and so on."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the line says."""

    model: str = ""
    session: SessionState = "none"
    loading: tuple[int, int] | None = None
    """Bytes of the weights that are read, and all of them."""
    checking: tuple[int, int] | None = None
    """Kernels that are checked, and all of them, where that is done for the first time."""
    unloaded: bool = False
    """Whether the model that is ready left memory, since nobody asked it; with `loading`, it is coming back."""
    hosts: int = 0
    """Machines that share the model; 0 where this one has all of it."""
    starting: str = ""
    """What is done with them while they are started."""
    effort: str = ""
    used: int = 0
    """Tokens of the conversation."""
    limit: int = 0
    """Tokens that it may have; 0 while nobody knows."""
    reading: "PromptProgress | None" = None
    """How far the prompt is read, while it is."""
    answering: bool = False
    """Whether an answer is under way."""
    asking: str = ""
    """The tool that waits for the person's word."""
    tokens_per_second: float | None = None
    ttft_seconds: float | None = None
    memory_bytes: int | None = None
    """What MLX holds now."""


class StatusLine(Widget):
    """The line; assign to `status`, or `change` a part of it."""

    status: reactive[Status] = reactive(Status())

    def change(self, **parts: object) -> None:
        """Replaces some of what it says."""
        self.status = replace(self.status, **parts)  # type: ignore[arg-type]

    def render(self) -> Content:
        return render_status(self.status, self.content_size.width)


def render_status(status: Status, width: int) -> Content:
    """The line for `width` cells, the less important left out where it does not fit."""
    line = Content("")
    for count in range(len(_SHORTER) + 1):
        line = _line(status, frozenset(_SHORTER[:count]), width)
        if line.cell_length <= width:
            return line
    return line.truncate(width, ellipsis=True)


def _line(status: Status, without: frozenset[str], width: int) -> Content:
    left = [_model(status, without)]
    if status.effort and "effort" not in without:
        left.append(Content.assemble(_label("effort ", without), status.effort))
    if status.limit and "context" not in without:
        left.append(_context(status, without))
    right = _activity(status, without)
    if (status.memory_bytes or 0) >= 1 << 20 and "memory" not in without:
        right.append(_muted(shown_memory(status.memory_bytes or 0)))
    gap = _muted("  ·  ")
    start, end = gap.join(left), gap.join(right)
    space = max(width - start.cell_length - end.cell_length, 2 if right else 0)
    return Content.assemble(start, " " * space, end)


def _model(status: Status, without: frozenset[str]) -> Content:
    name = Content.styled(status.model or "no model", "bold")
    if status.session == "failed":
        return Content.assemble(name, (" could not be loaded", "$text-error"))
    if status.session == "none":
        return Content.assemble(name, (" not loaded", "$foreground-muted")) if status.model else name
    if status.session == "ready" and not status.unloaded:
        return Content.assemble(name, _muted(f" on {status.hosts} hosts")) if status.hosts else name
    if status.starting and status.loading is None:
        return Content.assemble(name, _muted(f" {status.starting}"))
    if status.session == "ready" and status.loading is None:
        # They are started again with the next message.
        why = "hosts not running" if status.hosts else "unloaded (idle)"
        return Content.assemble(name, (f" {why}", "$foreground-muted"))
    doing, progress = (" checking kernels ", status.checking) if status.checking else (" loading ", status.loading)
    if progress is None or not progress[1]:
        return Content.assemble(name, _muted(" is loading"))
    share = progress[0] / progress[1]
    bar = Content("") if "bar" in without else Content.assemble(_bar(share, "$primary"), " ")
    return Content.assemble(name, _muted(doing), bar, f"{_percent(share)} %")


def _context(status: Status, without: frozenset[str]) -> Content:
    share = min(status.used / status.limit, 1.0)
    colour = "$text-error" if share >= FULL_SHARE else "$text-warning" if share >= WARNING_SHARE else "$text-primary"
    parts = [_label("context ", without)]
    if "bar" not in without:
        parts += [_bar(share, colour), Content(" ")]
    if "numbers" not in without:
        parts += [Content.styled(f"{status.used:,}", colour), _muted(f" of {status.limit:,}")]
    else:
        parts.append(Content.styled(f"{_percent(share)} %", colour))
    return Content.assemble(*parts)


def _activity(status: Status, without: frozenset[str]) -> list[Content]:
    if status.asking:
        return [Content.assemble((f"may {status.asking} run?", "bold $text-warning"), _muted(" F7"))]
    if status.reading is not None:
        return [_reading(status.reading)]
    parts = []
    if status.tokens_per_second is not None and "speed" not in without:
        parts.append(Content.assemble(f"{status.tokens_per_second:.1f}", (" tok/s", "$foreground-muted")))
    if status.ttft_seconds is not None and "first token" not in without:
        label = "first " if "labels" in without else "first token "
        parts.append(Content.assemble(_muted(label), f"{status.ttft_seconds:.2f} s"))
    if not parts and status.answering:
        parts.append(_muted("answering"))
    return parts


def _reading(progress: "PromptProgress") -> Content:
    text = f"Reading prompt {_percent(progress.done / progress.total if progress.total else 0.0)} %"
    read, to_read = progress.done - progress.cached, progress.total - progress.cached
    # Before some of it is read, nobody can tell.
    if progress.seconds >= 1.0 and read >= 0.05 * to_read and (left := progress.eta_seconds):
        text += f", {_duration(left)} left"
    return Content.styled(text, "$text-accent")


def _bar(share: float, colour: str) -> Content:
    filled = min(round(share * BAR_CELLS), BAR_CELLS)
    # Something is something, however little.
    filled = max(filled, 1) if share > 0 else 0
    return Content.assemble(("━" * filled, colour), ("─" * (BAR_CELLS - filled), "$border"))


def _percent(share: float) -> int:
    """Rounded down: 100 is said when it is."""
    return int(share * 100)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"


def shown_memory(number: int) -> str:
    """Bytes of memory for people, in powers of 1024."""
    return f"{number / (1 << 30):.1f} GiB" if number >= 1 << 30 else f"{number / (1 << 20):.0f} MiB"


def _label(text: str, without: frozenset[str]) -> Content:
    return Content("") if "labels" in without else _muted(text)


def _muted(text: str) -> Content:
    return Content.styled(text, "$foreground-muted")
