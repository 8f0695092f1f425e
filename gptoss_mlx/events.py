"""What a turn gives while it runs, and what is left when it is done: typed events, `Reply` and `Stats`.

Every event is a frozen dataclass with a literal `type`, so `match event: case TextDelta(channel="final", text=text):
...` works and `to_dict()` is one JSON line. This module knows no MLX and no tokens beyond their number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "context", "tool_calls", "cancelled"]
"""`stop`: the model ended its answer (or a stop string was met); `length`: max_tokens; `context`: the context length;
`tool_calls`: the model waits for a tool's result; `cancelled`: the caller stopped it, what came is kept."""


class _Event:
    """What all events share."""

    def to_dict(self) -> dict[str, Any]:
        """The event as plain JSON values, `type` first."""
        data = asdict(self)  # type: ignore[call-overload]
        return {"type": data.pop("type"), **data}


@dataclass(frozen=True, slots=True)
class TurnsDropped(_Event):
    """The conversation is longer than the context: its oldest turns are not read. The conversation itself is whole."""

    turns: int
    """How many turns, counted from the first: a user message and all that follows it up to the next one."""
    tokens: int
    """What they would have taken."""
    type: Literal["turns_dropped"] = "turns_dropped"


@dataclass(frozen=True, slots=True)
class PromptProgress(_Event):
    """The prompt is being read."""

    done: int
    """Prompt tokens read so far, those that came from the KV cache included."""
    total: int
    """Prompt tokens in all."""
    cached: int = 0
    """How many of them came from the KV cache."""
    seconds: float = 0.0
    """Time spent reading so far."""

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the prompt is read, at the rate so far; None before anything was.

        Later tokens see more of the prompt and take longer: of a very long one, the first figures are too small.
        """
        read = self.done - self.cached
        if self.done >= self.total:
            return 0.0
        return self.seconds / read * (self.total - self.done) if read > 0 else None

    type: Literal["prompt_progress"] = "prompt_progress"


@dataclass(frozen=True, slots=True)
class ChannelStart(_Event):
    """A message of the model begins."""

    channel: str
    """`analysis`, `commentary`, `final`, or whatever the model wrote."""
    recipient: str | None
    """The tool that is called (`functions.get_weather`), or None."""
    type: Literal["channel_start"] = "channel_start"


@dataclass(frozen=True, slots=True)
class TextDelta(_Event):
    """More text of the running message."""

    channel: str
    text: str
    """Complete code points only."""
    tokens: int
    """Sampled tokens behind this text."""
    logprobs: tuple[float, ...] | None = None
    """Natural-log probabilities of those tokens, if asked for."""
    type: Literal["text_delta"] = "text_delta"


@dataclass(frozen=True, slots=True)
class Source:
    """A page that a tool showed to the model, for citations of it."""

    cursor: int
    """The number by which the model cites it."""
    title: str
    url: str
    """Empty for results of a search."""
    path: str | None = None
    """The file behind it, if it is one."""
    first: int = 0
    """Number of the first line that was shown."""
    file_lines: tuple[int, ...] = ()
    """For every line that was shown the line of the file that it is of, from 1 (0: of none); empty where the page is no
    plain text of a file."""

    def in_file(self, first: int, last: int) -> tuple[int, int] | None:
        """The file's lines behind those lines of the page; None where there are none, or nobody knows."""
        found = [line for line in self.file_lines[max(first - self.first, 0) : max(last - self.first + 1, 0)] if line]
        return (found[0], found[-1]) if found else None


@dataclass(frozen=True, slots=True)
class Citation:
    """A place that an answer cites, as `【6†L9-L11】`."""

    start: int
    """Where it stands in the answer: from this character"""
    end: int
    """up to, but not including, this one."""
    title: str
    url: str
    path: str | None
    """The file that is cited, if it is one."""
    lines: tuple[int, int] | None
    """First and last line: of the file, from 1, where it is plain text; else of the page as the model saw it. None: all
    of it."""

    @property
    def label(self) -> str:
        """The citation for people: `[notes.md:9-11]`, `[example.org]`."""
        if self.path is None:
            host = self.url.partition("://")[2].partition("/")[0].rpartition("@")[2]
            return f"[{host or self.title}]"
        name = self.path.replace("\\", "/").rpartition("/")[2]
        if self.lines is None:
            return f"[{name}]"
        first, last = self.lines
        return f"[{name}:{first}]" if first == last else f"[{name}:{first}-{last}]"


@dataclass(frozen=True, slots=True)
class ToolCall(_Event):
    """The model calls a tool and waits for the result."""

    id: str
    """Unique in the conversation; names the call when the result is given back."""
    name: str
    """Full name of the tool, e.g. `functions.get_weather`; where there is none, what the model wrote."""
    arguments: dict[str, Any] | None
    """The arguments read as a JSON object; None if they are none (see `raw`)."""
    raw: str
    """The arguments exactly as the model wrote them."""
    about: str = field(default="", compare=False)
    """What it is about, where the arguments do not say it and it is known: the address behind a link's number."""
    type: Literal["tool_call"] = "tool_call"


@dataclass(frozen=True, slots=True)
class ToolResult(_Event):
    """A tool's result, as it goes to the model."""

    id: str
    """Of the call."""
    name: str
    """The tool, as the call named it."""
    content: str
    failed: bool = False
    """Whether it is an error: of the tool, of the arguments, or because the call was refused or stopped."""
    seconds: float = 0.0
    """How long the tool ran."""
    source: Source | None = None
    """The page that the result shows, if it does."""
    type: Literal["tool_result"] = "tool_result"


@dataclass(frozen=True, slots=True)
class ParseWarning(_Event):
    """The model broke the harmony format; the text was kept and the turn goes on."""

    message: str
    raw: str
    """The text in question."""
    type: Literal["parse_warning"] = "parse_warning"


@dataclass(frozen=True, slots=True)
class Stats:
    """How a turn went."""

    prompt_tokens: int = 0
    """Tokens of the rendered conversation."""
    cached_tokens: int = 0
    """How many of them were taken from the KV cache instead of read again."""
    reasoning_tokens: int = 0
    """Tokens of the analysis channel."""
    answer_tokens: int = 0
    """Tokens of every other channel."""
    generated_tokens: int = 0
    """All sampled tokens, headers and stop tokens included."""
    ttft_seconds: float = 0.0
    """From the request until the first sampled token was known."""
    prompt_seconds: float = 0.0
    """Time to read the prompt."""
    generation_seconds: float = 0.0
    """From the first sampled token to the last."""
    peak_memory_bytes: int = 0
    """MLX's peak of active memory during the turn."""

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens read per second, those from the cache not counted."""
        read = self.prompt_tokens - self.cached_tokens
        return read / self.prompt_seconds if self.prompt_seconds > 0 else 0.0

    @property
    def generation_tps(self) -> float:
        """Tokens decoded per second after the first one."""
        if self.generated_tokens < 2 or self.generation_seconds <= 0:
            return 0.0
        return (self.generated_tokens - 1) / self.generation_seconds

    def to_dict(self) -> dict[str, Any]:
        """All figures, the two rates included, as plain JSON values."""
        return {**asdict(self), "prompt_tps": self.prompt_tps, "generation_tps": self.generation_tps}


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished turn, over all of its rounds if tools ran in it. `str(reply)` is the answer."""

    text: str = ""
    """The final channel."""
    reasoning: str = ""
    """The analysis channel."""
    commentary: str = ""
    """What the model said on the commentary channel to the user (preambles), without tool calls."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    """What the tools gave that ran by themselves, in the order in which they ran."""
    rounds: int = 1
    """How often the model was read to: once, and once more after each round of tool calls."""
    parsed: Any = None
    """With `schema`, `regex` or `choices`: the answer's value, which fits. JSON values, or an instance of the class
    that was asked for; the text for `regex` and `choices`. None where the answer did not come to its end."""
    finish_reason: FinishReason = "stop"
    reasoning_truncated: bool = False
    """True when `max_reasoning_tokens` (or "answer now") closed the analysis."""
    stats: Stats = field(default_factory=Stats)
    raw: str = ""
    """Everything the model wrote, markup included."""
    tokens: tuple[int, ...] = ()
    """Token ids behind `raw`."""
    logprobs: tuple[float, ...] | None = None
    """Natural-log probability of each of `tokens`, if asked for. Tokens that were forced have 0.0."""
    warnings: tuple[ParseWarning, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The places of pages that the answer cites, in order; those of pages that were not shown in this turn are left
        out."""
        sources = {result.source.cursor: result.source for result in self.tool_results if result.source is not None}
        return find_citations(self.text, sources)

    @property
    def cited_text(self) -> str:
        """The answer with its citations as people read them: `[notes.md:9-11]`."""
        return with_labels(self.text, self.citations)

    def to_dict(self) -> dict[str, Any]:
        """The reply as plain JSON values; without token ids and log-probabilities, which `raw` and the events carry."""
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "commentary": self.commentary,
            "tool_calls": [
                {"id": c.id, "name": c.name, "arguments": c.arguments, "raw": c.raw, "about": c.about}
                for c in self.tool_calls
            ],
            "citations": [{**asdict(c), "label": c.label} for c in self.citations],
            "tool_results": [r.to_dict() for r in self.tool_results],
            "rounds": self.rounds,
            "parsed": _json_value(self.parsed),
            "finish_reason": self.finish_reason,
            "reasoning_truncated": self.reasoning_truncated,
            "stats": self.stats.to_dict(),
            "raw": self.raw,
            "warnings": [w.to_dict() for w in self.warnings],
        }


def find_citations(text: str, sources: Mapping[int, Source]) -> tuple[Citation, ...]:
    """The citations in `text` of these pages (cursor -> page)."""
    from gptoss_mlx.harmony import find_marks

    found: list[Citation] = []
    for mark in find_marks(text):
        source = sources.get(mark.cursor)
        if source is None:
            continue
        lines = mark.lines
        if source.file_lines and lines is not None:
            lines = source.in_file(*lines)
        elif source.path is not None:
            lines = None
        found.append(Citation(mark.start, mark.end, source.title, source.url, source.path, lines))
    return tuple(found)


def with_labels(text: str, citations: Iterable[Citation]) -> str:
    """`text` with these citations of it as people read them."""
    parts: list[str] = []
    at = 0
    for citation in citations:
        parts += [text[at : citation.start], citation.label]
        at = citation.end
    return "".join(parts) + text[at:]


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool | dict | list):
        return value
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


@dataclass(frozen=True, slots=True)
class Done(_Event):
    """The turn is over; the last event of every stream."""

    reply: Reply
    type: Literal["done"] = "done"

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "reply": self.reply.to_dict()}


Event: TypeAlias = (
    TurnsDropped | PromptProgress | ChannelStart | TextDelta | ToolCall | ToolResult | ParseWarning | Done
)
"""Whatever a stream gives."""
