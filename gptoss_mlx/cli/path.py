"""`gptoss path`: where a model's folder is."""

import argparse

from gptoss_mlx.models import find_model


def run(arguments: argparse.Namespace) -> int:
    """Prints the folder; gives the exit code."""
    print(find_model(arguments.model).folder.absolute())
    return 0
