"""The file that keeps what a check found: one for each shape of model, believed only on the very same combination.

    {
      "format": "gptoss-mlx kernel check", "version": 1,
      "combination": {"chip": "Apple M3 Max", …, "model": {"hidden_size": 2880, …}},
      "trying": null,                                while a kernel is tried: its name, and the process that tries it
      "verdicts": {"norm_qkv_rope@1": {"outcome": "kept", "reason": "…", "ratio": 0.61, …}, …}
    }

A kernel that ends the whole process (a GPU fault does) is found by "trying": it was noted there, and the process that
did so is gone without having written its verdict.

Owns: the file and when it counts. Does not own: what is found (`run`), what is chosen (`choice`).
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from gptoss_mlx.kernel_check.combination import Combination
from gptoss_mlx.kernel_check.verdict import TOGETHER, Outcome, Verdict
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass

FORMAT: Final = "gptoss-mlx kernel check"
"""What the file calls itself."""

VERSION: Final = 1
"""The version that this code writes, and the only one that it reads."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file said that could be believed."""

    verdicts: tuple[Verdict, ...] = ()
    """In the order of `KERNEL_CLASSES`; of kernels without one nothing is known."""
    died: frozenset[KernelClass] = frozenset()
    """Those whose verdict is that the process ended while they were tried, which the file did not say yet."""
    why_not: str | None = None
    """One sentence about a file that was there and could not be believed."""


def read_verdicts(combination: Combination) -> Stored:
    """What is known of the kernels on this combination; nothing where there is no file that can be believed."""
    path = combination.file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Stored()
    except (OSError, UnicodeDecodeError) as error:
        return Stored(why_not=f"{path} cannot be read ({error}); the kernels are checked anew")
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError("it calls itself something else")
        if values["version"] != VERSION:
            found = values["version"]
            return Stored(why_not=f"{path} is of version {found!r}, not {VERSION}; the kernels are checked anew")
        changed = _changed_parts(values["combination"], combination)
        if changed:
            return Stored(why_not=f"{' and '.join(changed)} changed since the last check; the kernels are checked anew")
        return _read_all(values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Stored(
            why_not=f"{path} is damaged or no file of this program ({type(error).__name__}: {error}); "
            "the kernels are checked anew"
        )


def write_verdicts(combination: Combination, verdicts: Iterable[Verdict], trying: KernelClass | None = None) -> None:
    """Keeps the verdicts in place of what was kept before, and notes the kernel that is about to be tried.

    Whoever reads at the same time finds the old file or the new one, whole. Raises `OSError` when it cannot be written.
    """
    found = {str(verdict.kernel): verdict for verdict in verdicts if verdict.outcome is not Outcome.UNREACHED}
    values = {
        "format": FORMAT,
        "version": VERSION,
        "combination": asdict(combination),
        "trying": None if trying is None else {"kernel": str(trying), "process": os.getpid()},
        "verdicts": {name: verdict_facts(verdict) for name, verdict in found.items()},
    }
    path = combination.file
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each process: two that check at once do not write into one file.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON has it, without the kernel's name."""
    facts = {
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "size": verdict.size,
        # JSON knows no infinity; a result that is not finite has no error to speak of.
        "error": verdict.error if verdict.error is not None and math.isfinite(verdict.error) else None,
        "kernel_seconds": verdict.kernel_seconds,
        "stock_seconds": verdict.stock_seconds,
        "ratio": verdict.ratio,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _read_all(values: Mapping[str, Any]) -> Stored:
    found = {kernel: _read(kernel, values["verdicts"].get(str(kernel))) for kernel in KERNEL_CLASSES}
    verdicts = {kernel: verdict for kernel, verdict in found.items() if verdict is not None}
    died: frozenset[KernelClass] = frozenset()
    reason = "was being tried when the program ended; `gptoss check` tries it once more"
    trying = values["trying"]
    if trying is not None and not _is_running(trying["process"]):
        died = frozenset(kernel for kernel in KERNEL_CLASSES if str(kernel) == trying["kernel"])
        if trying["kernel"] == str(TOGETHER):
            died = frozenset(kernel for kernel, verdict in verdicts.items() if verdict.kept)
            reason = (
                "was in use when the program ended while kernels were tried together; `gptoss check` tries it again"
            )
    verdicts |= {kernel: Verdict(kernel, Outcome.DIED, reason) for kernel in died}
    return Stored(tuple(verdicts[kernel] for kernel in KERNEL_CLASSES if kernel in verdicts), died)


def _read(kernel: KernelClass, facts: Mapping[str, Any] | None) -> Verdict | None:
    if facts is None:
        return None
    numbers = {key: facts.get(key) for key in ("error", "kernel_seconds", "stock_seconds", "ratio")}
    for key, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{key} of {kernel} is {number!r}")
    return Verdict(kernel, Outcome(facts["outcome"]), str(facts["reason"]), int(facts["size"]), **numbers)


def _changed_parts(stored: Mapping[str, Any], combination: Combination) -> list[str]:
    """Which parts of the combination are not those of the file, in words."""
    names = {
        "chip": "the chip",
        "architecture": "the GPU",
        "system": "the operating system",
        "mlx": "MLX",
        "sources": "the kernels' sources",
        "model": "the model's shape",
    }
    return [words for key, words in names.items() if stored[key] != asdict(combination)[key]]


def _is_running(process: Any) -> bool:
    """Whether the process of this number is there; true of this one, and of those that belong to others."""
    if not isinstance(process, int) or process < 1:
        raise ValueError(f"{process!r} is no process")
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
