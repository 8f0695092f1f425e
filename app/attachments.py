"""Text files that go with a message: `@notes.txt`, `@~/notes.txt`, `@"my notes.txt"`, `@my\\ notes.txt`.

A word that begins with "@" names a file if there is one; signs after it (a comma, a full stop) do not belong to it. If
there is none, it is refused where it can only be meant as one: in quotes, with the beginning of a path, or nearly the
name of a file that is there. Anything else (`@property`, `@ann`) is text, and so is what stands between code fences.
`\\@` is never a file.

The model reads the files first, each in a fence that is longer than any within it, and then what was typed.
"""

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gptoss_mlx.app.conversation import Attachment
from gptoss_mlx.app.source_text import fence_for
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message

FILE_BYTES: Final = 1 << 20
"""A file's size at most: more than the longest context holds."""

_MENTION: Final = re.compile(r"""(?<!\S)@(?:"([^"\n]+)"|'([^'\n]+)'|((?:\\[^\n]|[^\s\\"'])(?:\\[^\n]|[^\s\\])*))""")

_FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)

_AFTER: Final = ".,;:!?)]}>'\""
"""Signs that may follow a name without being part of it."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A file that is named in a text."""

    start: int
    """Where its "@" stands."""
    end: int
    """Behind its last character."""
    path: str
    """As the user wrote it, without quotes and backslashes."""


def find_mentions(text: str, folder: Path | None = None) -> list[Mention]:
    """The files that the text names; relative ones are from `folder` (default: here).

    Raises UsageError for a word that can only be meant as a file, where there is none.
    """
    return list(_mentions(text, Path.cwd() if folder is None else folder))


def read_message(text: str, folder: Path | None = None) -> tuple[Message, tuple[Attachment, ...]]:
    """The message for the model, with the files that `text` names, and these, each once.

    Raises UsageError for a file that is not there, no text, or too large.
    """
    folder = Path.cwd() if folder is None else folder
    files: dict[str, Attachment] = {}
    for mention in find_mentions(text, folder):
        place = os.path.realpath(_place(mention.path, folder))
        if place not in files:
            files[place] = Attachment(mention.path, read_text(mention.path, folder))
    attachments = tuple(files.values())
    return Message.user(composed_text(text, attachments)), attachments


def read_text(path: str, folder: Path | None = None) -> str:
    """The text of the file. Raises UsageError for one that cannot be read, is no text, or is too large."""
    try:
        # Not to wait for the other end of a pipe.
        handle = os.open(_place(path, Path.cwd() if folder is None else folder), os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                raise UsageError(f"{path} is a folder; name a file in it")
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{path} is no regular file; only text files can be attached")
            with open(handle, "rb", closefd=False) as file:
                data = file.read(FILE_BYTES + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > FILE_BYTES:
        size = max(found.st_size, len(data)) / (1 << 20)
        raise UsageError(f"{path} is too large to attach: {size:.1f} MiB, 1 MiB at most; attach a part of it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{path} is no text in UTF-8; only such files can be attached")
    return text


def composed_text(text: str, attachments: Sequence[Attachment]) -> str:
    """What the model reads: the files, then what was typed."""
    # What was marked as no file is for the model what was meant.
    typed = re.sub(r"(?<!\S)\\@", "@", text)
    return "\n\n".join((*map(_framed, attachments), typed))


def count_tokens(attachments: Sequence[Attachment], count: Callable[[str], int]) -> tuple[Attachment, ...]:
    """The attachments with their cost in the prompt; `count` gives the tokens of a text."""
    return tuple(replace(attachment, tokens=count(_framed(attachment) + "\n\n")) for attachment in attachments)


def _framed(attachment: Attachment) -> str:
    """The file with its name, in a fence."""
    fence = fence_for(attachment.text)
    # A name may hold any character but one; the frame is to stay one line.
    name = attachment.path if attachment.path.isprintable() else ascii(attachment.path)
    kind = Path(attachment.path).suffix[1:]
    line_end = "" if attachment.text.endswith("\n") or not attachment.text else "\n"
    return f"File: {name}\n{fence}{kind if kind.isalnum() else ''}\n{attachment.text}{line_end}{fence}"


def _mentions(text: str, folder: Path) -> Iterator[Mention]:
    fenced = _fenced_parts(text)
    for found in _MENTION.finditer(text):
        if any(start <= found.start() < end for start, end in fenced):
            continue
        quoted = found[1] or found[2]
        written = quoted or re.sub(r"\\(.)", r"\1", found[3])
        if os.path.lexists(_place(written, folder)):
            yield Mention(found.start(), found.end(), written)
            continue
        bare = written if quoted else written.rstrip(_AFTER)
        if bare and bare != written and os.path.lexists(_place(bare, folder)):
            yield Mention(found.start(), found.end() - (len(written) - len(bare)), bare)
            continue
        _refuse_if_meant(bare, folder, certain=quoted is not None)


def _refuse_if_meant(path: str, folder: Path, *, certain: bool) -> None:
    """Raises UsageError when the path of no file can only be meant as one."""
    head, name = os.path.split(path)
    try:
        names = os.listdir(_place(head, folder))
    except (OSError, ValueError):
        names = []
    # A word without a dot or a slash may well be one (@property, though there is a property.py).
    near = difflib.get_close_matches(name, names, 1, cutoff=0.75) if "." in name or head else []
    begins = path.startswith(("/", "~/", "./", "../"))
    if certain or begins or near:
        hint = f"did you mean @{os.path.join(head, near[0])}?" if near else "correct the name, or write \\@ for text"
        raise UsageError(f"there is no file {path}; {hint}")


def _place(path: str, folder: Path) -> Path:
    return folder / os.path.expanduser(path)


def _fenced_parts(text: str) -> list[tuple[int, int]]:
    """Start and end of what stands between code fences; one that is not closed goes to the end."""
    parts: list[tuple[int, int]] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif fence[1].startswith(opening[1]):
            parts.append((opening.start(), fence.end()))
            opening = None
    if opening is not None:
        parts.append((opening.start(), len(text)))
    return parts
