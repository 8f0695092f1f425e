"""`gptoss verify`: every byte of a converted model against its checksums."""

import argparse

from gptoss_mlx.cli.terminal import ProgressBar, shown_bytes
from gptoss_mlx.convert.verify import verify_model
from gptoss_mlx.models import find_model


def run(arguments: argparse.Namespace) -> int:
    """Verifies; gives the exit code."""
    with ProgressBar("Verifying", unit_bytes=True) as bar:
        report = verify_model(find_model(arguments.model).folder, progress=bar.update)
    print(f"{report.folder}: {report.files} files, {shown_bytes(report.total_bytes)}, all as converted")
    return 0
