"""What a turn of the model consists of for the reader: reasoning, tool calls with their results, text. Pure data.

Messages of the analysis channel are reasoning; messages to a tool are calls, and a tool's message is the result of the
first call of that tool that has none; all else is text meant for the reader, whatever its channel is called. A message
without text is not shown: an effort of `none` closes an empty analysis.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from gptoss_mlx.harmony import ANALYSIS, Message

PartKind: TypeAlias = Literal["reasoning", "tool", "text"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part, in the order of the stream."""

    kind: PartKind
    text: str
    """Source text; for a tool call its arguments as the model wrote them."""
    name: str = ""
    """The tool that is called."""
    result: str | None = None
    """What the tool gave back; None until it has."""
    seconds: float | None = field(default=None, compare=False)
    """How long the tool ran; None where nobody noted it."""


def part_kind(channel: str | None, tool_name: str | None) -> PartKind:
    """The kind of part that a message on this channel, to this tool, is."""
    if tool_name is not None:
        return "tool"
    return "reasoning" if channel == ANALYSIS else "text"


def turn_parts(messages: Iterable[Message], tool_seconds: Sequence[float] = ()) -> list[Part]:
    """The parts that a turn's messages make. `tool_seconds` are those of the last results."""
    parts: list[Part] = []
    answered: list[int] = []
    for message in messages:
        if message.role == "tool":
            for index, part in enumerate(parts):
                if part.kind == "tool" and part.name == message.name and part.result is None:
                    parts[index] = replace(part, result=message.text)
                    answered.append(index)
                    break
        elif message.role == "assistant":
            kind = part_kind(message.channel, message.tool_name)
            if message.text or kind == "tool":
                parts.append(Part(kind, message.text, message.tool_name or ""))
    # Those of results from before a kill are not known.
    for index, seconds in zip(reversed(answered), reversed(tool_seconds), strict=False):
        parts[index] = replace(parts[index], seconds=seconds)
    return parts
