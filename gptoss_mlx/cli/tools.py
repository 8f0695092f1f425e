"""Tools on the command line: functions by `module:function`, the browser, Python, and the question before one runs.
Servers of tools: `servers`."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING

from gptoss_mlx.cli.terminal import Style, printable
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import ToolCall
from gptoss_mlx.options import OptionArguments, ToolLike
from gptoss_mlx.python_sandbox.tool import make_python_tool
from gptoss_mlx.tools import Tool, ToolSource, Verdict, make_tool

if TYPE_CHECKING:
    from gptoss_mlx.tools.browser import Browser

QUESTION = "run it? [y]es, [a]lways this tool, [n]o, or why not: "


def tool_options(arguments: argparse.Namespace, servers: Sequence[ToolSource] = ()) -> OptionArguments:
    """The API's options for `--tool`, `--browse`, `--python`, `--yes` and the `servers` of `--mcp`: nothing where no
    tool is given.

    Raises UsageError for a tool that cannot be loaded, and where nobody can be asked; SandboxError.
    """
    tools: list[ToolLike] = [*(load_tool(word) for word in arguments.tool or ()), *servers]
    if arguments.python or arguments.python_unsandboxed:
        # Before the model is loaded: where there is no sandbox, that is told at once.
        tools.append(make_python_tool(unsandboxed=arguments.python_unsandboxed))
    asks = bool(tools)
    browser = load_browser(arguments)
    if browser is not None:
        tools.append(browser)
        asks = asks or browser.policy == "ask"
    if not tools:
        return {}
    # Reading files that were given for that asks nobody, and needs nobody who could be asked.
    if arguments.yes or not asks:
        return {"tools": tools, "approve": "always"}
    return {"tools": tools, "approve": TerminalApproval(_terminal())}


def load_browser(arguments: argparse.Namespace) -> "Browser | None":
    """The browser of `--browse`, `--browse-web` and `--search-provider`; None without them. Raises UsageError."""
    if not (arguments.browse or arguments.browse_web or arguments.search_provider):
        return None
    from gptoss_mlx.tools.browser import make_browser

    return make_browser(
        arguments.browse or (),
        web=arguments.browse_web,
        provider=arguments.search_provider,
        policy="always" if arguments.yes else None,
    )


def load_tool(word: str) -> Tool:
    """The tool that `module:function` or `folder/file.py:function` names. Raises UsageError."""
    place, colon, name = word.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(f"--tool {word!r} names no function; expected module:function or file.py:function")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except Exception as error:
        # Importing runs whatever is in there.
        raise UsageError(
            f"--tool {word}: {place} cannot be imported ({type(error).__name__}: {error}); expected a module that "
            "Python finds from this folder, or a file that ends in .py"
        ) from error
    found = getattr(module, name, None)
    if isinstance(found, Tool):
        return found
    if not callable(found):
        there = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise UsageError(f"--tool {word}: there is no function {name!r} in {place}; there are: {there or 'none'}")
    return make_tool(found)


def _load_module(name: str) -> ModuleType:
    # A command that was installed does not look into the current folder by itself.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    # A name that no other module has: a file may be called as one of Python's own.
    name = f"{path.stem} in {path.absolute().parent}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _terminal() -> IO[str]:
    """Where a person can be asked, also when standard input is a pipe. Raises UsageError where there is none."""
    if sys.stderr.isatty():
        if sys.stdin is not None and sys.stdin.isatty():
            return sys.stdin
        try:
            return open("/dev/tty", encoding="utf-8")
        except OSError:
            pass
    raise UsageError(
        "the tools ask before they run, and there is no terminal to ask at; --yes runs every call without a question"
    )


class TerminalApproval:
    """Asks a person about each call. The call itself is shown by whoever prints the events."""

    def __init__(self, terminal: IO[str]) -> None:
        self._terminal = terminal
        self._always: set[str] = set()

    def __call__(self, call: ToolCall) -> Verdict:
        """The person's word; the end of input is a no."""
        if call.name in self._always:
            return True
        style = Style(sys.stderr)
        question = f"{printable(call.name)}: {QUESTION}"
        print(style.bold(question), end="", file=sys.stderr, flush=True)
        line = self._terminal.readline()
        if not line:
            print(file=sys.stderr)
            return False
        word = line.strip()
        answers: dict[str, Callable[[], Verdict]] = {
            "y": lambda: True,
            "a": lambda: self._remember(call.name),
            "n": lambda: False,
            "": lambda: False,
        }
        whole = {"yes": "y", "always": "a", "no": "n"}.get(word.lower(), word.lower())
        return answers[whole]() if whole in answers else word

    def _remember(self, name: str) -> bool:
        self._always.add(name)
        return True
