"""How long the ranks may take for so many tokens before the link between them counts as stalled.

They work at one speed for everything that is read: so what earlier work took says how long the next may take. Owns:
that reckoning.
"""

from typing import Final

SLACK: Final = 4.0
"""Work may take so many times as long as the slowest of its size so far."""

FIRST_SECONDS: Final = 120.0
"""The same of the first work after loading: kernels are compiled, and pages come from the disk."""


class Pace:
    """What was measured, and what follows."""

    def __init__(self, patience_seconds: float) -> None:
        """`patience_seconds` are granted to any work, however little."""
        self._patience = patience_seconds
        self._seconds_per_token: float | None = None

    def limit_seconds(self, tokens: int) -> float:
        """How long reading so many tokens may take."""
        if self._seconds_per_token is None:
            return max(self._patience, FIRST_SECONDS)
        return max(self._patience, SLACK * tokens * self._seconds_per_token)

    def took(self, tokens: int, seconds: float) -> None:
        """Takes note of work that was done."""
        fresh = seconds / max(1, tokens)
        known = self._seconds_per_token
        # Up at once; down slowly, since what comes may be like what was slow.
        self._seconds_per_token = fresh if known is None or fresh > known else 0.9 * known + 0.1 * fresh
