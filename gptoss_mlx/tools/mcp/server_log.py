"""The file that takes what a server says on standard error, so that it does not come on the screen."""

import contextlib
import os
import time
from pathlib import Path
from typing import Final, TextIO

from gptoss_mlx.settings import mcp_folder

KEPT_BYTES: Final = 1 << 20
"""A file that is larger when a server starts is put aside, as `.old.log`, and a new one begun."""

TAIL_BYTES: Final = 4096
"""As much of the end is looked at for the last words."""

LAST_WORDS: Final = 300
"""Characters of them."""


class ServerLog:
    """One server's file, open while the server lives. Where it cannot be written, all goes nowhere, and `problem`
    says why."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.path = (mcp_folder() if folder is None else folder) / f"{name}.log"
        self.problem: str | None = None
        """Why nothing is kept."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > KEPT_BYTES:
                self.path.replace(self.path.with_suffix(".old.log"))
            self.file: TextIO = open(self.path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115
            self._start = self.path.stat().st_size
        except OSError as error:
            self.problem = f"{self.path} cannot be written ({error.strerror or error}); what it says is not kept"
            self.file = open(os.devnull, "a", encoding="utf-8")  # noqa: SIM115
            self._start = 0

    def note(self, text: str) -> None:
        """Adds a line of ours."""
        # A full disk is no reason to end a server.
        with contextlib.suppress(OSError, ValueError):
            print(f"[gptoss {time.strftime('%Y-%m-%d %H:%M:%S')}] {' '.join(text.split())}", file=self.file, flush=True)

    def last_words(self) -> str:
        """The last line that the server itself wrote in this life; empty if there is none."""
        if self.problem is not None:
            return ""
        try:
            with open(self.path, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(self._start, file.tell() - TAIL_BYTES))
                lines = file.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        said = (" ".join(line.split()) for line in reversed(lines) if not line.startswith("[gptoss "))
        return next((line[:LAST_WORDS] for line in said if line), "")

    def close(self) -> None:
        """Nothing is written any more."""
        with contextlib.suppress(OSError):
            self.file.close()
