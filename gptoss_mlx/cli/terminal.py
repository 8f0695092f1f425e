"""What the commands share at the terminal: options from arguments, loading with a progress bar, and showing a turn."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from gptoss_mlx.api import GptOss
from gptoss_mlx.cli.offer import find_or_offer
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import (
    ChannelStart,
    Done,
    Event,
    ParseWarning,
    PromptProgress,
    Reply,
    Source,
    TextDelta,
    ToolCall,
    ToolResult,
    TurnsDropped,
    find_citations,
    with_labels,
)
from gptoss_mlx.harmony import ANALYSIS, COMMENTARY, PYTHON
from gptoss_mlx.memory import gigabytes
from gptoss_mlx.options import OptionArguments
from gptoss_mlx.python_sandbox.tool import read_code
from gptoss_mlx.tools import cut_middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress, TaskID

    from gptoss_mlx.hosts.sharing import HostShare

_TURN_OPTIONS = (
    "effort",
    "max_tokens",
    "max_reasoning_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "date",
    "overflow",
    "regex",
)
PATIENCE_SECONDS = 1.0
"""Work shorter than this shows no progress bar."""

SHOWN_RESULT_CHARACTERS = 600
"""Of a tool's result on the screen; the model reads more, and --json shows all of it."""


def turn_options(arguments: argparse.Namespace) -> OptionArguments:
    """The API's options that were given on the command line; the others keep the API's defaults."""
    options: OptionArguments = {}
    for name in _TURN_OPTIONS:
        value = getattr(arguments, name)
        if value is not None:
            options[name] = value  # type: ignore[literal-required]
    if arguments.schema is not None:
        options["schema"] = read_schema(Path(arguments.schema))
    if arguments.choices is not None:
        options["choices"] = [choice.strip() for choice in arguments.choices.split(",") if choice.strip()]
    return options


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON schema in a file. Raises UsageError when there is none."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"--schema {path} cannot be read ({error.strerror}); expected a file with a JSON schema"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--schema {path} is no JSON ({error}); expected a file with a JSON schema") from error
    if not isinstance(schema, dict):
        raise UsageError(f"--schema {path} holds {str(schema)[:40]!r}; expected a JSON schema, which is an object")
    return schema


class ProgressBar:
    """A bar on standard error that appears when the work takes more than a second, and goes when it is done.

    Shows nothing when standard error is no terminal.
    """

    def __init__(self, label: str, *, unit_bytes: bool = False) -> None:
        self._label = label
        self._unit_bytes = unit_bytes
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def update(self, done: int, total: int) -> None:
        """Shows how far the work is."""
        if self._bar is None:
            if not sys.stderr.isatty() or done >= total or time.monotonic() - self._started < PATIENCE_SECONDS:
                return
            self._open(total)
        assert self._bar is not None
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._started = time.monotonic()

    def _open(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn() if self._unit_bytes else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self._label, total=total)
        self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StageLine:
    """What is under way, as one line of standard error that the next one overwrites; nothing where that is no
    terminal."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, sentence: str) -> None:
        """Puts `sentence` in the place of the one before."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{printable(sentence)} ")
            sys.stderr.flush()
            self._shown = True

    def close(self) -> None:
        """Takes the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_with_progress(model: str, defaults: OptionArguments, arguments: argparse.Namespace | None = None) -> GptOss:
    """The model as `arguments` say (context, force, hosts), with a bar while its weights are read, and one while its
    kernels are checked for the first time; on several hosts also what is done with them, and then who has what.

    The pocket model thinks with high effort unless told otherwise: it is quick, and right far more often.
    """
    if find_or_offer(model).is_pocket:
        defaults.setdefault("effort", "high")
    context, force, hosts, mode, timeout = (
        getattr(arguments, name, None) for name in ("context", "force", "hosts", "host_mode", "host_timeout")
    )
    with (
        ProgressBar("Loading weights", unit_bytes=True) as reading,
        ProgressBar("Checking kernels") as checking,
        StageLine() as stage,
    ):

        def read(done: int, total: int) -> None:
            stage.close()
            reading.update(done, total)

        loaded = GptOss(
            model,
            context=context,
            force=bool(force),
            hosts=hosts,
            host_mode=mode,
            host_timeout_seconds=timeout,
            starting=stage.show,
            progress=read,
            checking=checking.update,
            defaults=defaults,
        )
    if loaded.hosts and sys.stderr.isatty():
        for line in (*host_lines(loaded.hosts), loaded.hosting):
            print(line, file=sys.stderr)
    return loaded


def host_lines(shares: "Sequence[HostShare]") -> list[str]:
    """A table of which host has what of a model."""
    rows = [("host", "rank", "part", "weights", "may use", "free before")]
    for share in shares:
        free = "?" if share.free_bytes is None else gigabytes(share.free_bytes)
        sizes = gigabytes(share.weights_bytes), gigabytes(share.memory_bytes), free
        rows.append((share.host, str(share.rank), share.part, *sizes))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def printable(text: str) -> str:
    """`text` with every control character but line ends written out: what a person decides on must not redraw the
    screen."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )


def shown_call(name: str, raw: str) -> str:
    """What the model wrote to a tool, for people: of Python the code that would run, below what comes before."""
    if name != PYTHON.name:
        return printable(raw)
    return "".join(f"\n    {line}" for line in printable(read_code(raw)).strip("\n").split("\n")) + "\n"


def shown_count(number: int) -> str:
    """A count for people, in powers of 1000."""
    for limit, unit in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)


def shown_bytes(number: int) -> str:
    """Bytes for people, in powers of 1024."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << power:
            return f"{number / (1 << power):.1f} {unit}"
    return f"{number} bytes"


class Style:
    """Dim and bold where the stream is a terminal that wants colour (https://no-color.org), plain text elsewhere."""

    def __init__(self, stream: IO[str]) -> None:
        self._on = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._on and text else text

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._on and text else text


class CitationLabels:
    """Citations in text that comes piece by piece, as people read them: `[notes.md:9-11]`."""

    def __init__(self) -> None:
        self.sources: dict[int, Source] = {}
        """The pages that were shown, by cursor."""
        self._held = ""

    def feed(self, text: str) -> str:
        """More text; what may become a citation is held back until it is one."""
        if not self.sources:
            return text
        text, self._held = self._held + text, ""
        opened = text.rfind("【")
        if opened >= 0 and "】" not in text[opened:] and "\n" not in text[opened:] and len(text) - opened < 400:
            text, self._held = text[:opened], text[opened:]
        return with_labels(text, find_citations(text, self.sources))

    def flush(self) -> str:
        """What was held back, and is no citation."""
        held, self._held = self._held, ""
        return held


class TurnPrinter:
    """Shows a turn as it comes: the answer on `out`, the reasoning on `aside`, each under its own mark."""

    def __init__(self, out: IO[str], aside: IO[str], *, show_reasoning: bool, headings: bool) -> None:
        """`headings`: mark where reasoning and answer begin (a conversation at a terminal)."""
        self._out = out
        self._aside = aside
        self._show_reasoning = show_reasoning
        self._headings = headings
        self._style = Style(aside)
        self._progress = ProgressBar("Reading prompt")
        self._open: tuple[IO[str], bool] | None = None
        """Where text is being written, and whether its last character ended a line."""
        self._calling = False
        self._thinking_since: float | None = None
        self._thought_tokens = 0
        self._citations = CitationLabels()

    def show(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case TurnsDropped(turns, tokens):
                shown = f"[the context is full: the oldest {turns} turn(s), {tokens:,} tokens, are not read any more]"
                print(self._style.dim(shown), file=self._aside, flush=True)
            case PromptProgress(done, total):
                self._progress.update(done, total)
            case ChannelStart(channel, recipient):
                self._progress.close()
                self._begin(channel, recipient)
            case TextDelta():
                self._text(event)
            case ToolCall(name=name, raw=raw, about=about):
                self._end_block()
                shown = shown_call(name, raw)
                shown = f"{shown} ({printable(about)})" if about else shown
                print(self._style.dim(f"[call of {printable(name)}: {shown}]"), file=self._aside, flush=True)
            case ToolResult(name=name, content=content, source=source):
                self._end_block()
                if source is not None:
                    self._citations.sources[source.cursor] = source
                shown = printable(cut_middle(content, SHOWN_RESULT_CHARACTERS))
                print(self._style.dim(f"[result of {printable(name)}: {shown}]"), file=self._aside, flush=True)
            case ParseWarning(message=message):
                self._end_block()
                print(self._style.dim(f"[{message}]"), file=self._aside, flush=True)
            case Done(reply):
                self._finish(reply)

    def close(self) -> None:
        """Leaves the terminal in order after an interruption."""
        self._progress.close()
        self._end_block()

    def _begin(self, channel: str, recipient: str | None) -> None:
        self._end_block()
        self._calling = recipient is not None
        if channel == ANALYSIS and not self._calling:
            self._thinking_since = time.monotonic()
            self._thought_tokens = 0

    def _text(self, delta: TextDelta) -> None:
        if self._calling:
            # The arguments of a call are shown in one piece when it is complete.
            return
        if delta.channel == ANALYSIS:
            self._thought_tokens += delta.tokens
            if not self._show_reasoning:
                return
            text = delta.text
            if self._headings:
                text = ("  " if self._open is None else "") + text.replace("\n", "\n  ")
            self._write(self._aside, self._style.dim(text))
        else:
            aside = delta.channel == COMMENTARY and not self._headings
            if aside:
                self._write(self._aside, delta.text)
            else:
                self._write(self._out, self._citations.feed(delta.text))

    def _write(self, stream: IO[str], text: str) -> None:
        if text:
            stream.write(text)
            stream.flush()
            self._open = (stream, text.endswith("\n"))

    def _end_block(self) -> None:
        # What looked like the beginning of a citation and was none.
        self._write(self._out, self._citations.flush())
        if self._open is not None:
            stream, at_line_start = self._open
            if not at_line_start:
                stream.write("\n")
                stream.flush()
            self._open = None
        if self._thinking_since is not None and self._headings and self._thought_tokens:
            seconds = time.monotonic() - self._thinking_since
            mark = f"  thought for {seconds:.1f} s, {self._thought_tokens} tokens"
            print(self._style.dim(mark), file=self._aside, flush=True)
        self._thinking_since = None

    def _finish(self, reply: Reply) -> None:
        self.close()
        if reply.finish_reason == "length":
            print(self._style.dim("[stopped: the token limit was reached]"), file=self._aside, flush=True)
        elif reply.finish_reason == "context":
            print(self._style.dim("[stopped: the context is full]"), file=self._aside, flush=True)
        elif reply.finish_reason == "cancelled":
            print(self._style.dim("[stopped]"), file=self._aside, flush=True)
