"""From the runs of a conversation to its report and its table: what was read of each prompt, and how long that took."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import median
from typing import Any, Final

from gptoss_mlx.bench.machine import describe_versions
from gptoss_mlx.bench.plan import OURS
from gptoss_mlx.bench.race import Outcome
from gptoss_mlx.bench.report import spread, weight_bytes
from gptoss_mlx.bench.table import heading_lines
from gptoss_mlx.bench.turns import TurnsPlan
from gptoss_mlx.bench.worker import prompt_digest

FORMAT: Final = 1
"""Raised when a field of the report changes its meaning."""

CHANGED_ALLOWANCE: Final = 1.1
"""What is read again may be so many times what harmony changed, and all that is new."""

_COLUMN_WIDTH: Final = 22


def make_turns_report(plan: TurnsPlan, outcome: Outcome, *, command: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about a played conversation, as one JSON object."""
    requests = [
        {
            "turn": request.turn,
            "kind": request.kind,
            "prompt_tokens": len(request.prompt),
            "new_tokens": request.new_tokens,
            "changed_tokens": request.changed_tokens,
            "most_reread": int(request.new_tokens + CHANGED_ALLOWANCE * request.changed_tokens),
        }
        for request in plan.requests
    ]
    engines = {engine: found for engine in plan.engines if (found := _summary(plan, outcome, engine))}
    return {
        "format": FORMAT,
        "command": command,
        "complete": outcome.error is None,
        "error": outcome.error,
        "machine": dict(machine),
        "versions": describe_versions(),
        "model": {
            "name": plan.model.name,
            "parameters": plan.config.parameters,
            "bytes_on_disk": weight_bytes(plan.model.folder),
        },
        "peer_model": None
        if plan.peer_folder == plan.model.folder
        else {"name": plan.peer_folder.resolve().name, "bytes_on_disk": weight_bytes(plan.peer_folder)},
        "settings": {**asdict(plan.settings), "prompt_sha256": prompt_digest(plan.requests[-1].prompt)},
        "requests": requests,
        "engines": engines,
        "within_bound": {
            engine: all(
                read <= request["most_reread"] for read, request in zip(found["read_tokens"], requests, strict=True)
            )
            for engine, found in engines.items()
        },
        "runs": outcome.runs,
    }


def _summary(plan: TurnsPlan, outcome: Outcome, engine: str) -> dict[str, Any]:
    """What an engine read, and how long it took, request by request, over its runs; {} for none."""
    own = [run for run in outcome.runs if run["engine"] == engine]
    if not own:
        return {}
    count = len(plan.requests)
    cold = {turn: spread([run["cold_ttft_seconds"][turn] for run in own]) for turn in own[0]["cold_ttft_seconds"]}
    warm = [spread([run["requests"][index]["ttft_seconds"] for run in own]) for index in range(count)]
    asked = {str(request.turn): n for n, request in enumerate(plan.requests) if request.kind == "question"}
    return {
        "runs": len(own),
        **{key: own[0][key] for key in ("engine_version", "dtype", "device")},
        "peak_resident_bytes": median(run["peak_resident_bytes"] for run in own),
        "read_tokens": [max(run["requests"][index]["read_tokens"] for run in own) for index in range(count)],
        "ttft_seconds": warm,
        "cold_ttft_seconds": cold,
        # Run by run, since only figures of one process belong together.
        "cold_over_warm": {
            turn: median(run["cold_ttft_seconds"][turn] / run["requests"][asked[turn]]["ttft_seconds"] for run in own)
            for turn in cold
        },
    }


def turns_table_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report line by line: a row a request, for each engine the tokens it read and the time to the first token."""
    settings, engines = report["settings"], report["engines"]
    yield from heading_lines(report)
    yield (
        f"settings  {len(report['requests'])} requests in {report['requests'][-1]['turn']} turns, the last prompt of "
        f"{report['requests'][-1]['prompt_tokens']:,} tokens, {settings['runs']} run(s) of each engine"
    )
    if not engines:
        return
    yield ""
    names = "".join(f"{name:>{_COLUMN_WIDTH}}" for name in engines)
    yield f"{'':<16}{'prompt':>8}{'new':>8}{'changed':>9}{names}"
    yield f"{'':<41}" + f"{'read   first token':>{_COLUMN_WIDTH}}" * len(engines)
    for index, request in enumerate(report["requests"]):
        row = f"turn {request['turn']:>2} {request['kind']:<8}"
        row += f"{request['prompt_tokens']:>8,}{request['new_tokens']:>8,}{request['changed_tokens']:>9,}"
        for found in engines.values():
            row += f"{found['read_tokens'][index]:>{_COLUMN_WIDTH - 11},}"
            row += f"{found['ttft_seconds'][index]['median']:>9.3f} s"
        yield row
    yield ""
    for engine, found in engines.items():
        for turn, ratio in found["cold_over_warm"].items():
            yield (
                f"{engine}: from nothing, turn {turn} takes {found['cold_ttft_seconds'][turn]['median']:.3f} s to the "
                f"first token, {ratio:.1f} times as long"
            )
    if report["within_bound"].get(OURS):
        yield f"{OURS} never read more than what is new and {CHANGED_ALLOWANCE} times what harmony changed"
