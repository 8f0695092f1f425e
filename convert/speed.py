"""How fast a download is, and what is left of its time."""

import time
from typing import Final

SPEED_SECONDS: Final = 15.0
"""What the speed is the mean of."""


class Speed:
    """Bytes a second over the last while, and what is left of the time."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def update(self, done: int) -> float:
        """The mean speed, now that `done` bytes are there."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > SPEED_SECONDS:
            del self._seen[0]
        then, before = self._seen[0]
        return (done - before) / (now - then) if now > then else 0.0

    @staticmethod
    def left(missing: int, speed: float) -> str:
        """How long `missing` bytes take, for people; empty where nobody can tell."""
        if speed <= 0 or missing <= 0:
            return ""
        seconds = round(missing / speed)
        if seconds < 90:
            return f"{seconds} s left"
        return f"{seconds // 60} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"
