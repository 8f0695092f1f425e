"""How much the code of a conversation may take."""

from dataclasses import dataclass, fields

from gptoss_mlx.errors import UsageError


@dataclass(frozen=True, slots=True)
class PythonLimits:
    """Limits of the `python` tool. Raises UsageError for one that is not above 0."""

    seconds: float = 120.0
    """How long a cell may take."""
    cpu_seconds: float = 240.0
    """CPU time of a cell, over all of its threads and processes."""
    memory_bytes: int = 2 << 30
    """Memory of all its processes together, and address space of each (where the system keeps to that)."""
    processes: int = 32
    """Processes and threads at a time."""
    output_bytes: int = 1 << 20
    """What a cell may print; then it is stopped. How much of it the model reads, `ToolLimits` says."""
    file_bytes: int = 128 << 20
    """Size of one file."""
    scratch_bytes: int = 256 << 20
    """Size of all files together."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UsageError(f"{field.name} of PythonLimits is {value!r}; expected more than 0")
