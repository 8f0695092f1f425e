"""`gptoss path`: where a model's folder is, or the Python that gptoss runs with."""

import argparse
import sys

from gptoss_mlx.models import find_model


def run(arguments: argparse.Namespace) -> int:
    """Prints it; gives the exit code."""
    if arguments.python:
        print(sys.executable)
        return 0
    print(find_model(arguments.model).folder.absolute())
    return 0
