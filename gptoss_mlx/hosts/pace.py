"""How long the ranks may take for so many tokens before the link between them counts as stalled.

What work of about the same size took says how long the next may take; of a size that was not there yet, what smaller
work took for each token, which is more than larger work takes. Owns: that reckoning.
"""

from typing import Final

SLACK: Final = 4.0
"""Work may take so many times as long as what was slow so far."""

FIRST_SECONDS: Final = 120.0
"""The limit of the first work after loading: kernels are compiled, and pages come from the disk."""


class Pace:
    """What was measured, and what follows."""

    def __init__(self, patience_seconds: float) -> None:
        """`patience_seconds` are granted to any work, however little."""
        self._patience = patience_seconds
        self._seconds_per_token: dict[int, float] = {}
        """By size of the work, in powers of two."""

    def limit_seconds(self, tokens: int) -> float:
        """How long reading so many tokens may take."""
        size = tokens.bit_length()
        known = [known for known in self._seconds_per_token if known <= size]
        if not known:
            return max(self._patience, FIRST_SECONDS)
        return max(self._patience, SLACK * tokens * self._seconds_per_token[max(known)])

    def took(self, tokens: int, seconds: float) -> None:
        """Takes note of work that was done."""
        size, fresh = tokens.bit_length(), seconds / max(1, tokens)
        known = self._seconds_per_token.get(size, fresh)
        # Up at once; down slowly, since what comes may be like what was slow.
        self._seconds_per_token[size] = fresh if fresh > known else 0.9 * known + 0.1 * fresh
