"""`gptoss list`: the models that can be named without a path."""

import argparse
import json
import sys

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
            }
            for model in models
        ]
        print(json.dumps({"models": listed, "faults": faults}))
        return 0
    width = max(len("NAME"), *(len(model.name) for model in models)) + 2
    print(f"{'NAME':<{width}}{'PARAMETERS':>10}{'SIZE':>11}  {'DENSE WEIGHTS':<15}FOLDER")
    for model in models:
        dense = "as published" if model.dense_bits is None else f"{model.dense_bits} bits"
        print(
            f"{model.name:<{width}}{shown_count(model.config.parameters):>10}{shown_bytes(model.total_bytes):>11}  "
            f"{dense:<15}{model.folder}"
        )
    for fault in faults:
        print(Style(sys.stderr).dim(f"not listed: {fault}"), file=sys.stderr)
    return 0
