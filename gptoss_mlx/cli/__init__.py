"""The command `gptoss`. Each command is a module here, imported when it is asked for, so that `--help` is instant."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import cast

from gptoss_mlx.cli.arguments import make_parser
from gptoss_mlx.errors import GptOssError, UsageError

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code: 0 done, 1 error, 2 wrong usage, 130 stopped by Ctrl-C."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    # For a command that reports how it was called.
    arguments.words = list(sys.argv[1:] if argv is None else argv)
    if arguments.command is None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            parser.print_help()
            return EXIT_OK
        # Somebody who sits at a terminal and says no more wants to chat.
        debug = arguments.debug
        arguments = parser.parse_args(["chat"])
        arguments.debug, arguments.words = debug, []
    try:
        module = importlib.import_module(f"gptoss_mlx.cli.{arguments.command}")
        return cast(int, module.run(arguments))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`gptoss ask ... | head`); what it wanted, it has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except GptOssError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR
    except OSError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
