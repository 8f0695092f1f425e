"""When somebody typed last: what is typed is painted before what streams in."""

import time

TYPING_SECONDS = 0.5
"""For so long after a key, somebody counts as typing."""

_last = float("-inf")


def note_key() -> None:
    """A key was pressed, or something pasted."""
    global _last
    _last = time.monotonic()


def is_typing() -> bool:
    """Whether somebody types just now."""
    return time.monotonic() - _last < TYPING_SECONDS
