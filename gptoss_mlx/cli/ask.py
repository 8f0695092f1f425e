"""`gptoss ask`: one question, one answer, at home in a pipe."""

import argparse
import contextlib
import io
import json
import re
import sys

from gptoss_mlx.cli.servers import open_servers
from gptoss_mlx.cli.terminal import TurnPrinter, load_with_progress, turn_options
from gptoss_mlx.cli.tools import tool_options
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message
from gptoss_mlx.options import OptionArguments
from gptoss_mlx.stream import Stream

_CODE_BLOCK = re.compile(
    r"^(?P<fence>`{3,}|~{3,})[^\n`]*\n(?P<code>.*?)^(?P=fence)[`~]*[ \t]*$", re.MULTILINE | re.DOTALL
)


def run(arguments: argparse.Namespace) -> int:
    """Answers; gives the exit code."""
    question = read_question(arguments.prompt)
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(open_servers(arguments))
        options: OptionArguments = {**turn_options(arguments), **tool_options(arguments, servers.all)}
        model = stack.enter_context(load_with_progress(arguments.model, options, arguments))
        # A script must not get an answer that was given without its tools.
        servers.wait(needed=True)
        messages = [Message.user(question)]
        if arguments.system is not None:
            messages.insert(0, Message.developer(arguments.system))
        stream = model.stream(messages)
        try:
            if arguments.json:
                return _print_events(stream)
            if arguments.extract:
                return _print_code(stream, show_reasoning=arguments.show_reasoning)
            return _print_answer(stream, show_reasoning=arguments.show_reasoning)
        except KeyboardInterrupt:
            stream.cancel()
            return 130
        finally:
            servers.tell()


def read_question(words: list[str]) -> str:
    """The question: the words of the command line, then the text of a pipe. Raises UsageError when both are empty."""
    from_pipe = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip("\n")
    typed = "" if words == ["-"] else " ".join(words)
    question = "\n\n".join(part for part in (typed, from_pipe) if part.strip())
    if not question:
        raise UsageError('no question; expected one as an argument (gptoss ask "...") or on standard input')
    return question


def first_code_block(text: str) -> str | None:
    """What stands in the first fenced code block, or None."""
    found = _CODE_BLOCK.search(text)
    return None if found is None else found["code"]


def _print_answer(stream: Stream, *, show_reasoning: bool) -> int:
    printer = TurnPrinter(sys.stdout, sys.stderr, show_reasoning=show_reasoning, headings=False)
    try:
        for event in stream.events():
            printer.show(event)
    finally:
        printer.close()
    return 0


def _print_events(stream: Stream) -> int:
    for event in stream.events():
        print(json.dumps(event.to_dict(), ensure_ascii=False), flush=True)
    return 0


def _print_code(stream: Stream, *, show_reasoning: bool) -> int:
    # Without the reasoning nothing of the answer is shown, yet the progress of a long prompt is.
    out = sys.stderr if show_reasoning else io.StringIO()
    printer = TurnPrinter(out, sys.stderr, show_reasoning=show_reasoning, headings=False)
    try:
        for event in stream.events():
            printer.show(event)
    finally:
        printer.close()
    code = first_code_block(stream.reply.text)
    if code is None:
        print("error: the answer holds no code block; it was:", file=sys.stderr)
        print(stream.reply.text, file=sys.stderr)
        return 1
    print(code, end="" if code.endswith("\n") else "\n")
    return 0
