"""`gptoss list`: the models that can be named without a path."""

import argparse
import json
import sys
import time

from gptoss_mlx.cli.terminal import Style, shown_bytes, shown_count
from gptoss_mlx.models import list_models


def run(arguments: argparse.Namespace) -> int:
    """Prints the table or the JSON object; gives the exit code."""
    models, faults = list_models()
    if arguments.json:
        listed = [
            {
                "name": model.name,
                "folder": str(model.folder),
                "parameters": model.config.parameters,
                "bytes": model.total_bytes,
                "dense_bits": model.dense_bits,
                "source": model.source,
                "last_used": model.last_used,
            }
            for model in models
        ]
        print(json.dumps({"models": listed, "faults": faults}))
        return 0
    rows = [
        (
            model.name,
            shown_count(model.config.parameters),
            shown_bytes(model.total_bytes),
            "as published" if model.dense_bits is None else f"{model.dense_bits} bits",
            _source(model.source),
            "" if model.source is None else _ago(model.last_used),
            str(model.folder),
        )
        for model in models
    ]
    heads = ("NAME", "PARAMETERS", "SIZE", "DENSE WEIGHTS", "SOURCE", "LAST USED", "FOLDER")
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = (
            text.rjust(width) if head in ("PARAMETERS", "SIZE") else text.ljust(width)
            for head, text, width in zip(heads, row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())
    for fault in faults:
        print(Style(sys.stderr).dim(f"not listed: {fault}"), file=sys.stderr)
    return 0


def _source(source: str | None) -> str:
    """With the commit cut short."""
    if source is None:
        return "gptoss-mlx"
    repository, at, commit = source.partition("@")
    return f"{repository}{at}{commit[:7]}"


def _ago(moment: float | None) -> str:
    if moment is None:
        return "never"
    seconds = max(time.time() - moment, 0)
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
