"""What a conversation is to the app: a tree of turns, and where the reader is in it. Pure data; knows no Textual.

A turn is what one side says until the other has its say: a user's message with what is attached to it, or all that the
model says to it (reasoning, tool calls with their results, answer). Nothing is ever overwritten by editing or
regenerating: that makes a sibling of the turn, and the conversation goes on from there.

            ┌─ "What is a sink?" ── answer ── "And a window?" ── answer      <- leaf: the path shown goes from here up
    (root) ─┤                    └─ answer (regenerated)
            └─ "What is a kernel?" ── answer                                 (the first message, edited)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

# What a message is, is imported with the first one: an empty screen is painted without.
import gptoss_mlx.harmony as harmony

if TYPE_CHECKING:
    from gptoss_mlx.harmony import Message

TurnRole: TypeAlias = Literal["user", "assistant"]

TurnState: TypeAlias = Literal["running", "complete", "stopped", "failed"]
"""`running`: the model still speaks; `stopped`: by the user, a limit, or the end of the app in mid-answer; `failed`: by
an error, see `Turn.error`."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text file that goes with a user's message, as it was when it was sent."""

    path: str
    """As the user wrote it."""
    text: str
    tokens: int | None = None
    """Its cost in the prompt; None until a tokenizer has counted it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's say."""

    id: int
    parent: int | None
    """The turn before it; None for a first one."""
    role: TurnRole
    messages: "tuple[Message, ...]" = ()
    """In harmony's terms, as the model reads or wrote them; for a user one message, attachments included."""
    text: str = ""
    """What the user typed; empty for the model's turns."""
    attachments: tuple[Attachment, ...] = ()
    state: TurnState = "complete"
    created: float = 0.0
    """Seconds since 1970."""
    model: str | None = None
    """Who answered; None for the user's turns."""
    reasoning_seconds: float | None = None
    """How long the model thought; None while it does, and where it did not."""
    finish_reason: str | None = None
    """As `Reply.finish_reason`."""
    stats: Mapping[str, Any] = field(default_factory=dict)
    """`Stats.to_dict()` of the answer, once it is over; with `dropped` (`turns`, `tokens`) where the oldest turns were
    left out of what the model read, `warnings` where it broke the format, `tool_seconds` where tools ran, and
    `citations` (as they stand in the answer -> as people read them)."""
    error: str | None = None
    """One sentence, where the turn failed."""

    @property
    def answer(self) -> str:
        """Source text of the final channel."""
        return "".join(message.text for message in self.messages if message.channel in (harmony.FINAL, None))

    @property
    def reasoning(self) -> str:
        """Source text of the analysis channel, tool calls left out."""
        return "".join(
            message.text
            for message in self.messages
            if message.channel == harmony.ANALYSIS and message.tool_name is None and message.role != "tool"
        )


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What holds for one conversation. None: the preferences' value."""

    instructions: str | None = None
    """The developer's instructions ("system prompt")."""
    effort: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_reasoning_tokens: int | None = None
    tools_off: tuple[str, ...] | None = None
    """Names of tools that this conversation's model is not told of; the preferences have no such setting."""
    python: bool | None = None
    """Whether its model may run Python."""


TOOL_SETTINGS: Final = ("tools_off", "python")
"""Those that the screen of tools changes."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without its turns."""

    id: int
    title: str
    """By the user, or from the first message; empty before it."""
    created: float
    """Seconds since 1970."""
    updated: float
    """When something was last said or changed in it."""
    date: str
    """The date that the model is told, YYYY-MM-DD: fixed, so that midnight does not change the prompt."""
    settings: ChatSettings = field(default_factory=ChatSettings)
    model: str | None = None
    """Who answered last."""
    leaf: int | None = None
    """The turn where the reader is; None before the first."""
