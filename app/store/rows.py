"""Turns and conversations as rows of the file, and back."""

import json
import sqlite3
import sys
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import gptoss_mlx.harmony as harmony
from gptoss_mlx.app.conversation import Attachment, ChatSettings, Conversation, Turn
from gptoss_mlx.errors import GptOssError

if TYPE_CHECKING:
    from gptoss_mlx.harmony import Message

TURN_COLUMNS: Final = (
    "id, parent, role, messages, tokens, text, attachments, state, created, model, reasoning_seconds, finish_reason, "
    "stats, error"
)
"""What `read_turn` reads."""

CONVERSATION_COLUMNS: Final = "id, title, created, updated, date, settings, model, leaf"
"""In the order of `Conversation`'s fields."""

_UINT32: Final = "I"
"""The type of token ids in the file, little-endian there."""

TITLE_LENGTH: Final = 60
"""Characters of a title that comes from a message, at most."""


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A line in the list of conversations."""

    id: int
    title: str
    created: float
    """Seconds since 1970."""
    updated: float
    """When something was last said or changed in it."""
    model: str | None
    """Who answered last."""
    turns: int
    """Of all branches."""
    running: bool = False
    """Whether an answer is under way in it, here or in another app."""
    snippet: str = ""
    """A line of what was said around a word that was searched for; empty without a search, and where only the title
    matches."""
    matches: tuple[tuple[int, int], ...] = ()
    """Start and end of each word in `snippet` that was searched for."""


def turn_values(turn: Turn) -> dict[str, Any]:
    """The row of a turn, by column."""
    return {
        "id": turn.id,
        "parent": turn.parent,
        "role": turn.role,
        **_message_values(turn.messages),
        "text": storable(turn.text),
        "attachments": _to_json([asdict(attachment) for attachment in turn.attachments]),
        "state": turn.state,
        "created": turn.created,
        "model": turn.model,
        "reasoning_seconds": turn.reasoning_seconds,
        "finish_reason": turn.finish_reason,
        "stats": _to_json(dict(turn.stats)),
        "error": None if turn.error is None else storable(turn.error),
    }


def read_turn(row: sqlite3.Row | tuple[Any, ...]) -> Turn:
    """The turn of a row of `TURN_COLUMNS`. One that cannot be read comes as a failed turn that says so."""
    (identifier, parent, role, messages, tokens, text, attachments, state, created, *rest) = row
    model, reasoning_seconds, finish_reason, stats, error = rest
    try:
        return Turn(
            id=identifier,
            parent=parent,
            role=role,
            messages=_read_messages(messages, tokens),
            text=text,
            attachments=tuple(Attachment(**attachment) for attachment in json.loads(attachments)),
            state=state,
            created=created,
            model=model,
            reasoning_seconds=reasoning_seconds,
            finish_reason=finish_reason,
            stats=json.loads(stats),
            error=error,
        )
    except (GptOssError, ValueError, TypeError, AttributeError, RecursionError) as trouble:
        return Turn(
            id=identifier,
            parent=parent,
            role="user" if role == "user" else "assistant",
            text=text if isinstance(text, str) else "",
            state="failed",
            created=created if isinstance(created, float) else 0.0,
            error=f"this turn cannot be read from the file of chats: {trouble}",
        )


def _message_values(messages: "Sequence[Message]") -> dict[str, Any]:
    """The messages as JSON, with the number of token ids in place of these; and all ids, one after the other."""
    values = []
    ids = array(_UINT32)
    for message in messages:
        value = message.to_dict()
        if message.tokens is not None:
            value["tokens"] = len(message.tokens)
            ids.extend(message.tokens)
        values.append(value)
    if sys.byteorder == "big":
        ids.byteswap()
    return {"messages": _to_json(values), "tokens": ids.tobytes()}


def _read_messages(messages: str, tokens: bytes) -> "tuple[Message, ...]":
    ids = array(_UINT32, tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    read: list[Message] = []
    start = 0
    for value in json.loads(messages):
        # Ids as bytes: a list of them in JSON takes most of the time that opening a long conversation takes.
        number = value.pop("tokens", None)
        message = harmony.Message.from_dict(value)
        if number is not None:
            message = replace(message, tokens=tuple(ids[start : start + number]))
            start += number
        read.append(message)
    if start != len(ids):
        raise ValueError(f"it has {len(ids)} token ids and names {start}")
    return tuple(read)


def conversation_values(conversation: Conversation) -> dict[str, Any]:
    """The row of a conversation, by column."""
    return {
        "id": conversation.id,
        "title": storable(conversation.title),
        "created": conversation.created,
        "updated": conversation.updated,
        "date": conversation.date,
        "settings": settings_json(conversation.settings),
        "model": conversation.model,
        "leaf": conversation.leaf,
    }


def read_conversation(row: sqlite3.Row | tuple[Any, ...]) -> Conversation:
    """The conversation of a row of `CONVERSATION_COLUMNS`."""
    identifier, title, created, updated, date, settings, model, leaf = row
    return Conversation(identifier, title, created, updated, date, _read_settings(settings), model, leaf)


def settings_json(settings: ChatSettings) -> str:
    """The settings as JSON; what is left to the preferences is left out."""
    return _to_json({name: value for name, value in asdict(settings).items() if value is not None})


def _read_settings(text: str) -> ChatSettings:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return ChatSettings()
    known = {field.name for field in fields(ChatSettings)}
    if isinstance(values.get("tools_off"), list):
        values["tools_off"] = tuple(values["tools_off"])
    if not isinstance(values.get("python"), bool):
        values.pop("python", None)
    return ChatSettings(**{name: value for name, value in values.items() if name in known})


def said(turn: Turn) -> str:
    """What is searched of a turn: what the user typed and the names of attached files, or what the model said to the
    user. Reasoning, tool calls and the text of files are left out."""
    if turn.role == "user":
        return "\n".join((turn.text, *(attachment.path for attachment in turn.attachments)))
    comments = (
        m.text for m in turn.messages if m.channel == harmony.COMMENTARY and m.tool_name is None and m.role != "tool"
    )
    return "\n".join((*comments, turn.answer))


def title_from(turn: Turn) -> str:
    """A title for the conversation that this turn begins: its first line, or the names of its files."""
    lines = (" ".join(line.split()).lstrip("#>*- ") for line in turn.text.splitlines())
    title = next((line for line in lines if line), "")
    title = title or ", ".join(attachment.path for attachment in turn.attachments)
    if len(title) <= TITLE_LENGTH:
        return title
    cut = title[:TITLE_LENGTH]
    # Cut between words, unless that leaves little of it.
    words = cut.rpartition(" ")[0]
    return (words if len(words) > TITLE_LENGTH // 2 else cut[:-1]).rstrip(" ,;:.") + "…"


def decode(data: bytes) -> str:
    """Text of the file; damaged bytes in it become U+FFFD and keep nobody from reading the rest."""
    return data.decode("utf-8", "replace")


def _to_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate (from a broken file name, say) is no UTF-8; escaped it comes back as it was.
    return text if _is_utf8(text) else json.dumps(value, separators=(",", ":"))


def storable(text: str) -> str:
    """The text as UTF-8 can hold it: a lone surrogate becomes U+FFFD."""
    return text if _is_utf8(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
