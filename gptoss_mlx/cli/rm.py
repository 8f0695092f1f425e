"""`gptoss rm`: takes a model, or what a stopped download left, off the disk."""

import argparse
import sys

from gptoss_mlx.cli.terminal import shown_bytes
from gptoss_mlx.models import find_removable, remove_model


def run(arguments: argparse.Namespace) -> int:
    """Removes; gives the exit code."""
    found = find_removable(arguments.model)
    if not arguments.yes and sys.stdin.isatty():
        print(f"remove {found.name} ({shown_bytes(found.total_bytes)}) from {found.folder.parent}? [y/N] ", end="")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 1
    remove_model(arguments.model)
    print(f"removed {found.name}: {shown_bytes(found.total_bytes)} are free again")
    return 0
