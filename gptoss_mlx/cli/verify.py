"""`gptoss verify`: every byte of a converted model against its checksums, and what it was made of."""

import argparse

from gptoss_mlx.cli.terminal import ProgressBar, shown_bytes
from gptoss_mlx.convert.verify import verify_model
from gptoss_mlx.manifest import Source
from gptoss_mlx.models import find_model


def run(arguments: argparse.Namespace) -> int:
    """Verifies; gives the exit code."""
    with ProgressBar("Verifying", unit_bytes=True) as bar:
        report = verify_model(find_model(arguments.model).folder, progress=bar.update)
    for line in source_lines(report.source):
        print(line)
    print(f"{report.folder}: {report.files} files, {shown_bytes(report.total_bytes)}, all as converted")
    return 0


def source_lines(source: Source) -> list[str]:
    """What a model was made of, file by file, with the sha256 that the hub gives for each."""
    at = "" if source.revision is None else f"@{source.revision}"
    lines = [f"made of {source.repository or source.name}{at}:"]
    for name, file in source.files.items():
        told = "of which no sha256 was told" if file.sha256 is None else f"sha256 {file.sha256}"
        lines.append(f"  {name}  {file.bytes:,} bytes  {told}")
    return lines
