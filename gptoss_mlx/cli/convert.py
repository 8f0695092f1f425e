"""`gptoss convert`: a published checkpoint to our own format."""

import argparse
import sys

from gptoss_mlx.cli.terminal import ProgressBar, shown_bytes
from gptoss_mlx.convert.conversion import convert_model


def run(arguments: argparse.Namespace) -> int:
    """Converts; gives the exit code."""
    try:
        with ProgressBar("Converting", unit_bytes=True) as bar:
            report = convert_model(
                arguments.source,
                arguments.destination,
                dense_bits=arguments.dense_bits,
                overwrite=arguments.overwrite,
                tokenizer=arguments.tokenizer,
                progress=bar.update,
            )
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if report.already_there:
        print(f"{report.folder} holds this conversion already; nothing to do")
        return 0
    resumed = f", {shown_bytes(report.resumed_bytes)} of it earlier" if report.resumed_bytes else ""
    print(
        f"{report.folder}: {shown_bytes(report.total_bytes)} in {report.seconds:.1f} s{resumed}, from {report.layout}"
    )
    return 0
