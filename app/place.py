"""Where the reader was: the conversation on the screen, how far it was scrolled, and what was typed and not sent.

One small JSON file, `GPTOSS_HOME/place.json`, written whole or not at all. It holds comfort and no treasure: a file
that cannot be read is begun anew. With two apps at once each keeps the other's drafts.
"""

import contextlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.settings import home_folder

NEW = "new"
"""Key of what is typed before a conversation has begun."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where the reader was in one conversation."""

    draft: str = ""
    """Typed and not sent."""
    editing: int | None = None
    """The user's turn that the draft is to replace."""
    lines_below: int = 0
    """Lines of the conversation below the screen; 0 at its end."""


class Place:
    """The file, and what it says."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = home_folder() / "place.json" if path is None else path
        data = self._read()
        conversation = data.get("conversation")
        self.conversation: int | None = conversation if isinstance(conversation, int) else None
        """The one that was on the screen last; None: a new one."""
        self._spots = data["spots"]
        self._changed: set[str] = set()
        self._saved: tuple[int | None, dict[str, Any]] | None = None
        self._saving = threading.Lock()

    def spot(self, conversation: int | None) -> Spot:
        """Where the reader was in that conversation (None: in the one that has not begun)."""
        try:
            return Spot(**self._spots.get(_key(conversation), {}))
        except TypeError:
            return Spot()

    def leave(self, conversation: int | None, spot: Spot) -> None:
        """The reader is there now."""
        self.conversation = conversation
        key = _key(conversation)
        if spot != self.spot(conversation):
            self._changed.add(key)
        self._spots[key] = {name: value for name, value in asdict(spot).items() if value}

    def save(self) -> None:
        """Writes it, where it says something new. May be called on any thread. Raises OSError."""
        with self._saving:
            state = self.conversation, dict(self._spots)
            if state != self._saved:
                self._write()
                self._saved = state

    def _write(self) -> None:
        # What another app wrote meanwhile stays, where it was not changed here.
        spots = {**self._read()["spots"], **{key: self._spots[key] for key in list(self._changed)}}
        data = {"conversation": self.conversation, "spots": {key: spot for key, spot in spots.items() if spot}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(data), encoding="utf-8")
            os.replace(part, self._path)
        finally:
            part.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        data: Any = None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            data = json.loads(self._path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            data = {}
        spots = data.get("spots")
        spots = spots if isinstance(spots, dict) else {}
        return {**data, "spots": {key: spot for key, spot in spots.items() if isinstance(spot, dict)}}


def _key(conversation: int | None) -> str:
    return NEW if conversation is None else str(conversation)
