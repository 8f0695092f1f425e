"""How much a turn may do with its tools."""

from dataclasses import dataclass
from typing import Final

from gptoss_mlx.errors import UsageError

RESULT_CHARACTERS: Final = 20_000
"""As much of a result is read by default."""


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Limits of one turn. Raises UsageError for one that is not above 0."""

    rounds: int = 16
    """How often the model may stop to call tools. After that it has to answer with what it has."""
    seconds: float = 120.0
    """How long a call may take; a tool's own `max_seconds` goes before."""
    grace_seconds: float = 2.0
    """How long a call may take to end once it is stopped or out of time; then it is left to itself."""
    result_characters: int = RESULT_CHARACTERS
    """Characters of a result that the model reads; of a longer one the middle is cut, which it is told."""

    def __post_init__(self) -> None:
        for name in ("rounds", "seconds", "grace_seconds", "result_characters"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} of tool_limits is {getattr(self, name)!r}; expected more than 0")
