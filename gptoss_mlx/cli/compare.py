"""`gptoss compare`: how far other versions of a model are from a reference one."""

import argparse
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptoss_mlx.bench.machine import describe_machine, describe_versions
from gptoss_mlx.cli.terminal import ProgressBar
from gptoss_mlx.comparison import (
    DEFAULT_QUESTIONS,
    DEFAULT_WINDOW,
    Comparison,
    Measured,
    compare_models,
)
from gptoss_mlx.errors import UsageError
from gptoss_mlx.layouts import OURS

_COLUMNS = (
    ("dense", 8),
    ("MB on disk", 12),
    ("MB/token", 10),
    ("KL mean", 11),
    ("KL 99 %", 11),
    ("agree", 10),
    ("perplexity", 12),
    ("ratio", 9),
)
"""Titles and widths of the columns after the name."""


def run(arguments: argparse.Namespace) -> int:
    """Compares; prints the table, then one JSON line; gives the exit code."""
    _check_options(arguments)
    machine = describe_machine()
    with ProgressBar("Comparing") as bar, ProgressBar("Loading weights", unit_bytes=True) as loading_bar:

        def loading(done_bytes: int, total_bytes: int) -> None:
            # One bar at a time: the next model is loaded in the middle of the comparing.
            bar.close()
            loading_bar.update(done_bytes, total_bytes)

        comparison = compare_models(
            arguments.reference,
            arguments.others,
            text=None if arguments.text is None else Path(arguments.text).expanduser(),
            window=DEFAULT_WINDOW if arguments.window is None else arguments.window,
            questions=DEFAULT_QUESTIONS if arguments.questions is None else arguments.questions,
            seed=arguments.seed or 0,
            loading=loading,
            progress=bar.update,
        )
    for line in _table(comparison):
        print(line)
    report = {
        "command": shlex.join(["gptoss", *arguments.words]),
        "machine": machine,
        "versions": describe_versions(),
        "text": comparison.text,
        "passages": comparison.passages,
        "positions": comparison.positions,
        "dtype": comparison.dtype,
        "models": [_facts(row) for row in comparison.rows],
    }
    print()
    print(json.dumps(report))
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises `UsageError` for options that say nothing beside each other."""
    if arguments.text is None and arguments.window is not None:
        raise UsageError("--window cuts a text and none is given; expected --text FILE with it, or neither")
    for name in ("questions", "seed"):
        if arguments.text is not None and getattr(arguments, name) is not None:
            raise UsageError(f"--text and --{name} were both given; expected a text or held-out questions, not both")


def _table(comparison: Comparison) -> Iterator[str]:
    width = max(len(row.version.name) for row in comparison.rows)
    yield f"{'':<{width}}" + "".join(f"{title:>{size}}" for title, size in _COLUMNS)
    for row in comparison.rows:
        cells = zip(_cells(row), _COLUMNS, strict=True)
        yield f"{row.version.name:<{width}}" + "".join(f"{cell:>{size}}" for cell, (_, size) in cells)
    yield ""
    yield (
        f"over {comparison.positions:,} positions of {comparison.passages:,} {_origin(comparison.text)}, "
        f"in {comparison.dtype}"
    )
    yield "KL: KL(reference || model) in nats a position; agree: the same most probable token; ratio: of perplexities"
    yield "MB/token: weights that a decoded token reads, computed from the tensors' sizes; MB are 10^6 bytes"


def _cells(row: Measured) -> list[str]:
    bits, sizes, distance = row.version.dense_bits, row.sizes, row.distance
    cells = [
        row.version.checkpoint.dtype_of(f"{OURS.lm_head}.weight") if bits is None else f"{bits} bits",
        f"{sizes.weight_bytes / 1e6:,.2f}",
        f"{sizes.bytes_per_token / 1e6:,.2f}",
    ]
    if distance is None:
        return [*cells, "reference", "", "", _perplexity(row.perplexity), ""]
    return [
        *cells,
        _divergence(distance.kl_mean),
        _divergence(distance.kl_p99),
        f"{distance.agreement:.2%}",
        _perplexity(row.perplexity),
        f"{distance.perplexity_ratio:.4f}",
    ]


def _perplexity(value: float) -> str:
    return f"{value:.4f}" if value < 1000 else f"{value:,.0f}"


def _divergence(nats: float) -> str:
    return f"{nats:.2e}" if nats else "0"


def _origin(text: Any) -> str:
    if text["kind"] == "file":
        return f"window(s) of {text['file']}"
    return f"held-out conversation(s), {text['questions_of_each_kind']} of each kind"


def _facts(row: Measured) -> dict[str, Any]:
    distance = row.distance
    return {
        "name": row.version.name,
        "folder": str(row.version.folder.resolve()),
        "layout": row.version.checkpoint.layout,
        "dense_bits": row.version.dense_bits,
        "weight_bytes_on_disk": row.sizes.weight_bytes,
        "computed_weight_bytes_per_token": row.sizes.bytes_per_token,
        "perplexity": row.perplexity,
        "perplexity_ratio": None if distance is None else distance.perplexity_ratio,
        "kl_mean": None if distance is None else distance.kl_mean,
        "kl_p99": None if distance is None else distance.kl_p99,
        "argmax_agreement": None if distance is None else distance.agreement,
    }
