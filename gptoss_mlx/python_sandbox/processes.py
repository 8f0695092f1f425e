"""Which processes there are, and what they take, as /proc has it."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """A process."""

    parent: int
    ended: bool
    """Whether it is over, and only its parent has not looked yet."""
    cpu_seconds: float
    """Its own, and that of its children that were waited for."""
    resident_bytes: int
    threads: int


def descendants(root: int) -> dict[int, Usage]:
    """The processes below `root`, without itself, by their numbers."""
    known = dict(_all_processes())
    found: dict[int, Usage] = {}
    level = {root}
    while level:
        level = {number for number, usage in known.items() if usage.parent in level and number not in found}
        found.update((number, known[number]) for number in level)
    return found


def memory_bytes(processes: dict[int, Usage], limit: int) -> int:
    """What they take together. Pages that several share count once where it matters: when `limit` seems passed."""
    total = sum(usage.resident_bytes for usage in processes.values())
    if total <= limit or len(processes) < 2:
        return total
    return sum(_proportional_bytes(number, usage.resident_bytes) for number, usage in processes.items())


def count_tasks(user: int) -> int:
    """Processes and threads of a user."""
    count = 0
    for number in _numbers():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{number}").st_uid == user:
                count += len(os.listdir(f"/proc/{number}/task"))
    return count


def _all_processes() -> Iterator[tuple[int, Usage]]:
    for number in _numbers():
        try:
            with open(f"/proc/{number}/stat", "rb") as file:
                text = file.read()
        except OSError:
            continue
        # The name before may hold anything, brackets too.
        parts = text[text.rindex(b")") + 2 :].split()
        ticks = sum(int(part) for part in parts[11:15])
        yield (
            number,
            Usage(int(parts[1]), parts[0] in b"ZX", ticks / _TICKS, int(parts[21]) * _PAGE, int(parts[17])),
        )


def _numbers() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _proportional_bytes(number: int, otherwise: int) -> int:
    try:
        with open(f"/proc/{number}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except PermissionError:
        return otherwise
    except OSError:
        pass
    # It has ended meanwhile.
    return 0
