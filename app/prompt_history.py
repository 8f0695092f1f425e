"""What was sent before, across runs and conversations: one JSON text a line, newest last, in `prompts.jsonl`.

A line is added under a lock, so that two apps at once lose nothing; a line that a kill cut short is passed over. A
prompt that is sent again moves to the end. When the file has grown to twice what is kept, it is written anew.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gptoss_mlx.settings import home_folder
from gptoss_mlx.whole_file import locked, write_whole

FILE_NAME: Final = "prompts.jsonl"

KEPT: Final = 1000
"""Prompts that are kept."""

LONGEST: Final = 20_000
"""Characters of a prompt that is kept; what is longer was pasted, and stands in its conversation."""


class PromptHistory:
    """The prompts of earlier chats. Never raises: what cannot be kept holds until the app ends."""

    def __init__(self, path: Path | None = None) -> None:
        """Default: `prompts.jsonl` in `home_folder()`. Nothing is read yet."""
        self._path = home_folder() / FILE_NAME if path is None else path
        self._read: tuple[int, int, int] | None = None
        self._kept: list[str] = []
        self._unkept: list[str] = []
        self.trouble: str | None = None
        """One sentence, when the last prompt could not be kept."""

    def entries(self) -> Sequence[str]:
        """The prompts, oldest first, each once; those that another app added meanwhile among them."""
        with contextlib.suppress(OSError):
            found = os.stat(self._path)
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if state != self._read:
                self._kept = _read(self._path)[0]
                self._read = state
        return _each_once([*self._kept, *self._unkept])

    def add(self, text: str) -> None:
        """Puts the prompt at the end."""
        if not text.strip() or len(text) > LONGEST:
            return
        try:
            with locked(self._path):
                texts, lines, whole = _read(self._path)
                if lines >= 2 * KEPT:
                    write_whole(self._path, "".join(map(_line, _each_once([*texts, text]))))
                else:
                    # After a line that was cut short, this one begins on a line of its own.
                    self._append(_line(text) if whole else "\n" + _line(text))
        except OSError as error:
            self._unkept.append(text)
            self.trouble = f"what you send is not kept in {self._path}: {(error.strerror or str(error)).lower()}"
        else:
            self.trouble = None

    def _append(self, line: str) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(line)


def _read(path: Path) -> tuple[list[str], int, bool]:
    """The prompts of the file, how many lines it has, and whether the last one is whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0, True
    lines = data.splitlines()
    texts: list[str] = []
    for line in lines:
        # What is no prompt (a line that was cut short, a disk's error) is passed over.
        with contextlib.suppress(ValueError, RecursionError):
            text = json.loads(line)
            if isinstance(text, str) and text.strip():
                texts.append(text)
    return texts, len(lines), not data or data.endswith(b"\n")


def _each_once(texts: Sequence[str]) -> list[str]:
    """Each of the texts where it stands last, the latest ones that are kept."""
    return list(dict.fromkeys(reversed(texts)))[:KEPT][::-1]


def _line(text: str) -> str:
    return json.dumps(text) + "\n"
