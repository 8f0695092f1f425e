"""The file that `Chat.save` writes, made and read without a model: one JSON object with settings and messages.

{"format": "gptoss-mlx chat", "version": 1, "model": "gpt-oss-20b", "vocab_size": 201088 or null,
 "instructions": "..." or null, "options": {...}, "tools": [...], "messages": [...]}
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message, ToolDescription

FILE_FORMAT: Final = "gptoss-mlx chat"
"""What the file of a chat calls itself."""

FILE_VERSION: Final = 1
"""The version that is written, and the only one that is read."""


@dataclass(frozen=True, slots=True)
class SavedChat:
    """What the file says."""

    model: str
    """Name of the model that answered."""
    vocab_size: int | None
    """Of the tokenizer behind the messages' token ids; None: nobody knows, and the ids are not to be used."""
    instructions: str | None
    options: Mapping[str, Any]
    """Options of every turn, as `OptionArguments`, but for the tools."""
    tools: tuple[ToolDescription, ...]
    messages: tuple[Message, ...]

    @classmethod
    def from_dict(cls, data: Any, *, source: str = "the chat") -> Self:
        """Reads the object. `source` names it in messages.

        Raises UsageError when it is something else, HarmonyError for a message that cannot be read.
        """
        if not isinstance(data, dict) or data.get("format") != FILE_FORMAT:
            raise UsageError(f"{source} is no chat of gptoss-mlx; expected a file written by Chat.save")
        if data.get("version") != FILE_VERSION:
            raise UsageError(
                f"{source} has version {data.get('version')!r}; expected {FILE_VERSION}: update gptoss-mlx"
            )
        try:
            return cls(
                str(data["model"]),
                None if data["vocab_size"] is None else int(data["vocab_size"]),
                data["instructions"],
                dict(data["options"]),
                tuple(ToolDescription.from_dict(tool) for tool in data["tools"]),
                tuple(Message.from_dict(message) for message in data["messages"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{source} is damaged ({error!r}); expected a file written by Chat.save") from error


def chat_values(
    messages: Sequence[Message],
    *,
    model: str,
    vocab_size: int | None,
    instructions: str | None,
    options: Mapping[str, Any],
    tools: Sequence[ToolDescription] = (),
) -> dict[str, Any]:
    """The file of a chat as JSON values; `Chat.from_dict` reads it.

    `vocab_size` is that of the tokenizer behind the messages' token ids: where another model reads the file, or it is
    None, the ids are not used.
    """
    return {
        "format": FILE_FORMAT,
        "version": FILE_VERSION,
        "model": model,
        "vocab_size": vocab_size,
        "instructions": instructions,
        "options": dict(options),
        "tools": [tool.to_dict() for tool in tools],
        "messages": [message.to_dict() for message in messages],
    }


def read_chat_file(path: str | os.PathLike[str]) -> SavedChat:
    """The chat of a file. Raises UsageError when it is something else."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{os.fspath(path)} is no JSON ({error}); expected a file written by Chat.save") from error
    except OSError as error:
        raise UsageError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
    return SavedChat.from_dict(data, source=os.fspath(path))
