"""How several hosts are to share a model, as the caller says it. Imports nothing that one machine does not need."""

from collections.abc import Callable
from dataclasses import dataclass

from gptoss_mlx.distributed.plan import MODES, Mode
from gptoss_mlx.errors import UsageError


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Raises UsageError for values that cannot be."""

    mode: Mode | None = None
    """None: what seems faster."""
    timeout_seconds: float | None = None
    """After which a host that says nothing is lost; None: the default."""
    starting: Callable[[str], None] | None = None
    """Hears what is done with the hosts, a sentence each."""
    stopped: Callable[[], bool] = bool
    """Whether nobody wants them any more."""

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise UsageError(f"host_mode is {self.mode!r}; expected tensor or pipeline, or None for what seems faster")
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise UsageError(f"host_timeout_seconds is {self.timeout_seconds!r}; expected more than 0")
