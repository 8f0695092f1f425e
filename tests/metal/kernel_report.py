"""`make kernel-report`: what every kernel loads, stores and shares at the models' shapes, into metal/README.md.

Counted in the simulator, next to MLX's own kernels on the same shapes where it has one; nothing is timed.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.metal.report_cases import Case, decode_cases, prefill_cases
from tests.metal.report_stock import run_stock
from tests.metal.roofline import roofline_table
from tests.simulator import Launch, simulated

README = Path(__file__).parents[2] / "metal" / "README.md"


@dataclass(frozen=True, slots=True)
class Counts:
    """What the launches of one operation did."""

    once_bytes: int
    """Bytes of weights, or of keys and values, that it needs."""
    once_loaded: int
    """Bytes of them that it loaded."""
    least_bytes: int
    """Bytes of everything that it touched, each once."""
    moved_bytes: int
    """Bytes that it loaded and stored."""
    transactions: int
    threadgroup_bytes: int
    """The most that a threadgroup of one of its kernels holds."""
    dispatches: int

    @property
    def repeats(self) -> float:
        """How often it loaded a byte of weights, or of keys and values."""
        return self.once_loaded / self.once_bytes

    @property
    def reread_bytes(self) -> int:
        """Bytes of activations and small tables that it loaded again."""
        return self.moved_bytes - self.least_bytes - (self.once_loaded - self.once_bytes)


def count(launches: Sequence[Launch], once: Sequence[str]) -> Counts:
    """The counts of `launches`, of whose buffers those called `once` are to be loaded once."""
    buffers = [(name, counts) for launch in launches for name, counts in launch.buffers.items()]
    weights = [counts for name, counts in buffers if name in once]
    return Counts(
        once_bytes=sum(counts.unique_loaded_bytes for counts in weights),
        once_loaded=sum(counts.loaded_bytes for counts in weights),
        least_bytes=sum(counts.unique_loaded_bytes + counts.unique_stored_bytes for _, counts in buffers),
        moved_bytes=sum(counts.loaded_bytes + counts.stored_bytes for _, counts in buffers),
        transactions=sum(launch.transactions for launch in launches),
        threadgroup_bytes=max(launch.threadgroup_bytes for launch in launches),
        dispatches=len(launches),
    )


def measure(case: Case) -> Counts:
    """Runs a case in the simulator, with every check."""
    with simulated(counting=True) as simulator:
        case.run()
    return count(simulator.launches, case.once)


def table(cases: Sequence[Case]) -> str:
    """The table of `cases` in Markdown."""
    lines = [
        "| operation | shape | dispatches | weights or KV, MB | loaded | all else re-read, MB | threadgroup, bytes "
        "| transactions | MLX's own kernel: loaded, transactions |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for case in cases:
        print(f"{case.name}, {case.shape}", file=sys.stderr)
        ours = measure(case)
        stock = "" if case.stock is None else _stock(case.stock)
        lines.append(
            f"| {case.name} | {case.shape} | {ours.dispatches} | {ours.once_bytes / 1e6:,.2f} | {ours.repeats:.2f}x "
            f"| {ours.reread_bytes / 1e6:,.2f} | {ours.threadgroup_bytes:,} | {ours.transactions:,} | {stock} |"
        )
    return "\n".join(lines)


def _stock(name: str) -> str:
    kernel, launches, once = run_stock(name)
    counts = count(launches, once)
    return f"{kernel}: {counts.repeats:.2f}x, {counts.transactions:,}"


def replaced(text: str, part: str, content: str) -> str:
    """`text` with what stands between the marks of `part` replaced."""
    pattern = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end of {part} -->)", re.DOTALL)
    found, changes = pattern.subn(lambda match: match[1] + content + "\n" + match[2], text)
    if changes != 1:
        raise ValueError(f"metal/README.md has {changes} parts called {part!r}; expected one")
    return found


def main() -> None:
    """Writes the tables into metal/README.md."""
    text = README.read_text(encoding="utf-8")
    text = replaced(text, "decode", table(decode_cases()))
    text = replaced(text, "prefill", table(prefill_cases()))
    text = replaced(text, "roofline", roofline_table())
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
