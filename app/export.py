"""A conversation as a file: Markdown or HTML for people, JSON that `gptoss chat --resume FILE` goes on with.

What is exported is one path of the tree: the turns that stand on the screen.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from gptoss_mlx.app.conversation import TOOL_SETTINGS, Conversation, Turn
from gptoss_mlx.chat_file import chat_values
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message
from gptoss_mlx.transcript import render_transcript
from gptoss_mlx.whole_file import write_whole

ExportFormat: TypeAlias = Literal["markdown", "json", "html"]

ENDINGS: Final[Mapping[str, ExportFormat]] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "json",
    ".html": "html",
    ".htm": "html",
}
"""Format by the ending of a file's name."""


def render_chat(
    conversation: Conversation, turns: Sequence[Turn], fmt: ExportFormat, *, vocab_size: int | None = None
) -> str:
    """The conversation along `turns` (root to leaf) as text of that format.

    `vocab_size` is that of `conversation.model`'s tokenizer, if it is loaded: JSON then keeps the token ids of its
    answers, so that going on reads nothing again. Raises UsageError when nothing was said yet.
    """
    messages = [message for turn in turns for message in _kept(turn, conversation.model)]
    if not messages:
        raise UsageError("nothing was said yet in this chat; there is nothing to export")
    model = conversation.model or "gpt-oss"
    settings = conversation.settings
    if fmt != "json":
        return render_transcript(messages, fmt, model=model, instructions=settings.instructions)
    own = ("instructions", *TOOL_SETTINGS)
    options = {name: value for name, value in asdict(settings).items() if name not in own and value is not None}
    values = chat_values(
        messages,
        model=model,
        vocab_size=vocab_size,
        instructions=settings.instructions,
        options={**options, "date": conversation.date},
    )
    return json.dumps(values, ensure_ascii=False, indent=1)


def export_chat(
    conversation: Conversation,
    turns: Sequence[Turn],
    path: Path,
    *,
    vocab_size: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the conversation to `path`, whole or not at all, in the format that its ending names; where it is now.

    Raises UsageError for another ending, where there is a file already (unless `overwrite`), and where none can be
    written.
    """
    path = path.expanduser()
    fmt = ENDINGS.get(path.suffix.lower())
    if fmt is None:
        raise UsageError(f"{path.name!r} ends in no format that can be written; expected .md, .json or .html")
    text = render_chat(conversation, turns, fmt, vocab_size=vocab_size)
    try:
        # A lone surrogate, which only a paste brings, is no text that a file can hold.
        write_whole(path, text.encode("utf-8", "replace").decode("utf-8"), overwrite=overwrite)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; choose another name") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from error
    return path.absolute()


def suggested_name(conversation: Conversation, fmt: ExportFormat, folder: Path | None = None) -> str:
    """A name for the file that is free in `folder` (default: here): from the title, such as "what-is-a-sink.md"."""
    folder = Path.cwd() if folder is None else folder
    ending = next(ending for ending, name in ENDINGS.items() if name == fmt)
    letters = unicodedata.normalize("NFKC", conversation.title).casefold()
    stem = "-".join(re.findall(r"[^\W_]+", letters))[:50].strip("-") or f"chat-{conversation.date}"
    number = 1
    while (folder / (name := f"{stem}{'' if number == 1 else f'-{number}'}{ending}")).exists():
        number += 1
    return name


def _kept(turn: Turn, model: str | None) -> tuple[Message, ...]:
    """The turn's messages; without token ids where another model's tokenizer may have made them."""
    if turn.model == model and model is not None:
        return turn.messages
    return tuple(replace(message, tokens=None) for message in turn.messages)
