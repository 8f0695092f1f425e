"""What has come of an answer while it still comes, made from the events of its stream.

From it the store is given messages that can be read after a kill, and a widget that comes late is made. The messages of
the finished answer come from the chat, with the token ids that were sampled.
"""

import time
from dataclasses import dataclass, field
from typing import TypeAlias

from gptoss_mlx.events import (
    ChannelStart,
    Event,
    ParseWarning,
    PromptProgress,
    TextDelta,
    ToolCall,
    ToolResult,
    TurnsDropped,
)
from gptoss_mlx.harmony import ANALYSIS, FINAL, Message, is_builtin, is_tool, tool_result


@dataclass(slots=True)
class _Said:
    """One message of the model so far."""

    channel: str
    recipient: str | None
    pieces: list[str] = field(default_factory=list)
    tokens: int = 0

    @property
    def text(self) -> str:
        # Put together once, so that the next look at it has one piece to begin with.
        self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0]


_Part: TypeAlias = _Said | ToolResult | ParseWarning


class PartialAnswer:
    """Events in, messages out, at any time."""

    def __init__(self) -> None:
        self.reading = False
        """True once the prompt is being read: all that was said before, of an answer that goes on, is here."""
        self.tokens = 0
        """Generated since the prompt was read."""
        self.prompt_tokens = 0
        """Tokens of the prompt; 0 before the first progress."""
        self.dropped: TurnsDropped | None = None
        """What the model did not read of the conversation."""
        self.first: float | None = None
        """Clock (`time.perf_counter`) of the first text after the prompt."""
        self.reasoning_seconds: float | None = None
        """How long the model has thought; None where it has not."""
        self.before: tuple[Message, ...] = ()
        """What comes before all events: the rounds of an answer that goes on after a tool's result."""
        self._thinking_since: float | None = None
        self._parts: list[_Part] = []
        self._round: tuple[int, float | None] = (0, None)
        """Tokens before the round under way (a turn with tools has some), and the clock of its first text."""

    def take(self, event: Event) -> None:
        """One more event."""
        match event:
            case PromptProgress():
                self.reading, self.prompt_tokens = True, event.total
                self._round = (self.tokens, None)
            case ChannelStart():
                self._parts.append(_Said(event.channel, event.recipient))
                self._think(event.channel == ANALYSIS and not is_tool(event.recipient))
            case TextDelta():
                said = self._last_said() or self._begin(event.channel)
                said.pieces.append(event.text)
                said.tokens += event.tokens
                if self.reading:
                    self.first = self.first or time.perf_counter()
                    self._round = (self._round[0], self._round[1] or time.perf_counter())
                    self.tokens += event.tokens
            case ToolCall():
                said = self._last_said() or self._begin("commentary")
                said.recipient = event.name
                self._think(False)
            case TurnsDropped():
                self.dropped = event
            case ParseWarning() | ToolResult():
                self._parts.append(event)
            case _:
                pass

    def end(self) -> None:
        """No more comes: thinking, if it went on, ends here."""
        self._think(False)

    def speed(self) -> float:
        """Tokens per second since the first one after the prompt, or the last result, was read."""
        before, first = self._round
        seconds = 0.0 if first is None else time.perf_counter() - first
        tokens = self.tokens - before
        return (tokens - 1) / seconds if seconds > 0 and tokens > 1 else 0.0

    @property
    def context_tokens(self) -> int:
        """What the conversation takes, the answer so far included."""
        return self.prompt_tokens + self.tokens - self._round[0]

    @property
    def warnings(self) -> list[ParseWarning]:
        """Where the model broke the format."""
        return [part for part in self._parts if isinstance(part, ParseWarning)]

    def messages(self) -> tuple[Message, ...]:
        """What was said so far in harmony's terms, without token ids."""
        messages = list(self.before)
        for part in self._parts:
            if isinstance(part, _Said):
                messages.append(_message(part))
            elif isinstance(part, ToolResult):
                messages.append(tool_result(messages, part.name, part.content))
        return tuple(messages)

    @property
    def size(self) -> tuple[int, int]:
        """Changes whenever there is more."""
        return self.tokens, len(self._parts)

    def _last_said(self) -> _Said | None:
        return next((part for part in reversed(self._parts) if isinstance(part, _Said)), None)

    def _begin(self, channel: str) -> _Said:
        said = _Said(channel or FINAL, None)
        self._parts.append(said)
        return said

    def _think(self, thinking: bool) -> None:
        now = time.perf_counter()
        if self._thinking_since is not None:
            self.reasoning_seconds = (self.reasoning_seconds or 0.0) + now - self._thinking_since
        self._thinking_since = now if thinking else None


def _message(part: _Said) -> Message:
    content_type = None
    if part.recipient is not None and is_tool(part.recipient):
        content_type = "code" if is_builtin(part.recipient) else "<|constrain|>json"
    return Message.assistant(part.text, channel=part.channel, recipient=part.recipient, content_type=content_type)
