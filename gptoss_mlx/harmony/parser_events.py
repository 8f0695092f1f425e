"""What the parser says about a stream, and the part of its state that can be asked for at any time."""

from dataclasses import dataclass, field
from io import StringIO
from typing import Literal, Self, TypeAlias

from gptoss_mlx.harmony.messages import Message, Role


@dataclass(frozen=True, slots=True)
class Header:
    """What a message says before its content."""

    role: Role
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A header is complete; the content follows."""

    role: Role
    name: str | None
    channel: str | None
    recipient: str | None
    content_type: str | None
    raw: str
    """The text of the header, special tokens as their names."""

    @classmethod
    def of(cls, header: Header, raw: str) -> Self:
        """The event of a header whose text is `raw`."""
        return cls(header.role, header.name, header.channel, header.recipient, header.content_type, raw)


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More text of the running message."""

    text: str
    """Complete code points; U+FFFD stands for bytes that are none."""
    tokens: int
    """Number of tokens behind the text."""


@dataclass(frozen=True, slots=True)
class MessageFinished:
    """A message is complete."""

    message: Message
    raw: str
    """The special token that closed it, or nothing if the stream just ended."""
    repaired: bool
    """Whether the stream was malformed since the message before."""


@dataclass(frozen=True, slots=True)
class MarkupSkipped:
    """Markup without a meaning here, such as a second `<|start|>`. It belongs to no text."""

    raw: str


@dataclass(frozen=True, slots=True)
class StreamWarning:
    """The stream broke the format; it was read as well as could be."""

    message: str
    raw: str
    """The text in question."""


ParserEvent: TypeAlias = MessageStarted | ContentDelta | MessageFinished | MarkupSkipped | StreamWarning
"""Whatever `feed` and `finish` give."""

ParserState: TypeAlias = Literal["outside", "header", "content"]
"""Between messages, in a header, in a content."""


def event_text(event: ParserEvent) -> str:
    """The stream's text in an event. Joined over all events of a tolerant parser it is the whole stream's text."""
    match event:
        case ContentDelta():
            return event.text
        case MessageStarted() | MessageFinished() | MarkupSkipped():
            return event.raw
        case StreamWarning():
            return ""


@dataclass(slots=True)
class Progress:
    """What both machines keep while they read."""

    role: Role | None = None
    """Role of the message that begins without a role of its own."""
    state: ParserState = "outside"
    header: Header | None = None
    """Of the running message, once it is complete."""
    content: StringIO = field(default_factory=StringIO)
    """Content of the running message so far."""
    messages: list[Message] = field(default_factory=list)
    warnings: list[StreamWarning] = field(default_factory=list)
    message_tokens: list[int] = field(default_factory=list)
    """Tokens since the last message."""
