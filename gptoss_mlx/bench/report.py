"""From the runs of a benchmark to its report: medians, spread, and ratios pair by pair."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gptoss_mlx.bench.machine import describe_limits, describe_versions
from gptoss_mlx.bench.plan import OURS, Plan
from gptoss_mlx.bench.race import Outcome
from gptoss_mlx.bench.worker import prompt_digest

FORMAT = 1
"""Raised when a field of the report changes its meaning."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured in every run."""

    key: str
    label: str
    unit: str
    """What the table shows it in; the report holds seconds, bytes and tokens per second."""
    higher_is_better: bool


FIGURES = (
    Figure("prefill_tokens_per_second", "prefill", "tok/s", True),
    Figure("decode_tokens_per_second", "decode", "tok/s", True),
    Figure("ttft_seconds", "first token", "s", False),
    Figure("load_seconds", "load", "s", False),
    Figure("start_to_first_token_seconds", "start to first token", "s", False),
    Figure("peak_resident_bytes", "peak memory, process", "MiB", False),
    Figure("peak_mlx_bytes", "peak memory, MLX", "MiB", False),
)
"""In the order of the table."""

Runs = Sequence[Mapping[str, Any]]


def make_report(plan: Plan, outcome: Outcome, *, command: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about a benchmark, as one JSON object. `machine` is what `describe_machine` said before the runs."""
    found = plan.model
    same_folder = plan.peer_folder == found.folder
    return {
        "format": FORMAT,
        "command": command,
        "complete": outcome.error is None,
        "error": outcome.error,
        "machine": dict(machine),
        "versions": describe_versions(),
        "mlx_limits": {engine: describe_limits(os.environ if engine == OURS else None) for engine in plan.engines},
        "model": {
            "name": found.name,
            "parameters": plan.config.parameters,
            "bytes_on_disk": weight_bytes(found.folder),
        },
        "peer_model": None
        if same_folder
        else {"name": plan.peer_folder.resolve().name, "bytes_on_disk": weight_bytes(plan.peer_folder)},
        "settings": {**asdict(plan.settings), "prompt_sha256": prompt_digest(plan.prompt)},
        "engines": {engine: summary for engine in plan.engines if (summary := summarise(outcome.runs, engine))},
        "ratios": ratios(outcome.runs, plan.peer),
        "agreement": agreement(outcome.runs, plan.peer),
        # The tokens themselves are long, and `agreement` says what there is to know about them.
        "runs": [{key: value for key, value in run.items() if key != "tokens"} for run in outcome.runs],
    }


def weight_bytes(folder: Path) -> int:
    """Bytes of a model's weight files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def summarise(runs: Runs, engine: str) -> dict[str, Any]:
    """Median, least and most of each figure over an engine's runs, with its version, dtype and device; {} for none."""
    own = [run for run in runs if run["engine"] == engine]
    if not own:
        return {}
    figures = {figure.key: spread([run[figure.key] for run in own]) for figure in FIGURES}
    return {"runs": len(own), **{key: own[0][key] for key in ("engine_version", "dtype", "device")}, **figures}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def pairs(runs: Runs, peer: str | None) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Our runs, each with the peer's run that came right after it."""
    ours = {run["run"]: run for run in runs if run["engine"] == OURS}
    return [(ours[run["run"]], run) for run in runs if run["engine"] == peer]


def ratios(runs: Runs, peer: str | None) -> dict[str, Any] | None:
    """Ours / the peer's of each figure, pair by pair, with median, least and most; None without a pair."""
    found = pairs(runs, peer)
    if not found:
        return None
    by_figure = {figure.key: [ours[figure.key] / theirs[figure.key] for ours, theirs in found] for figure in FIGURES}
    return {key: {"pairs": values, **spread(values)} for key, values in by_figure.items()}


def agreement(runs: Runs, peer: str | None) -> dict[str, Any] | None:
    """Whether the two engines decoded the same tokens, and how many of the first ones agree, pair by pair."""
    found = pairs(runs, peer)
    if not found:
        return None
    first = [common_start(ours["tokens"], theirs["tokens"]) for ours, theirs in found]
    return {
        "same_tokens": all(ours["tokens"] == theirs["tokens"] for ours, theirs in found),
        "first_tokens_that_agree": first,
        "decoded_tokens": len(found[0][0]["tokens"]),
    }


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the first ids are equal."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
