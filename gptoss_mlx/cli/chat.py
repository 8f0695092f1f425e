"""`gptoss` and `gptoss chat`: the app at a terminal, else the line mode. Imports only what that one needs."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.app.app import GptossApp
    from gptoss_mlx.app.toolbox import Toolbox
    from gptoss_mlx.tools.mcp import ServerSpec

_SETTINGS: Final = ("effort", "temperature", "top_p", "max_tokens", "max_reasoning_tokens")
"""Options that a conversation of the app has as its own settings, under the same names; `--system` is another."""

END_SECONDS: Final = 3.0
"""How long a model that is still being loaded is waited for at the end. It ends at its next report, after a few
megabytes; importing MLX takes half a second."""

_DEFAULTS: Final = ("top_k", "min_p", "repetition_penalty", "seed", "stop")
"""Options that hold for every answer while the app runs."""


def run(arguments: argparse.Namespace) -> int:
    """Holds the conversation; gives the exit code."""
    if arguments.resume is not None and arguments.go_on:
        raise UsageError("--resume and --continue exclude each other: one chat can be gone on with")
    if arguments.plain or not at_terminal():
        from gptoss_mlx.cli import plain_chat

        return plain_chat.run(arguments)
    app = make_app(arguments)
    app.run()
    code = app.return_code or 0
    if not app.session.wait_until_ended(END_SECONDS):
        # Python would take the ground from under a thread that is inside MLX, which aborts the process. All is saved.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def at_terminal() -> bool:
    """Whether somebody sits at a terminal that the app can draw on."""
    # Textual draws on standard error.
    at_one = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    return at_one and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def make_app(arguments: argparse.Namespace) -> "GptossApp":
    """The app as the command line asks for it."""
    # Collecting garbage among objects that all stay takes a tenth of the time to the first screen.
    import gc

    gc.disable()
    from gptoss_mlx.app.app import GptossApp
    from gptoss_mlx.app.store import Store

    with_python = arguments.python or arguments.python_unsandboxed
    # Before anything is opened: what is wrong with the command line is told at the terminal.
    toolbox = _toolbox(arguments)
    servers = _servers(arguments)
    forms = _forms(arguments)
    store = Store()
    resume: int | None = None
    if arguments.resume is not None:
        from gptoss_mlx.app.recording import import_chat

        resume = import_chat(store, arguments.resume).id
    elif arguments.go_on:
        latest = store.latest()
        if latest is None:
            raise UsageError("there is no conversation to go on with; begin one with gptoss chat")
        resume = latest.id
    return GptossApp(
        model=arguments.model,
        context=arguments.context,
        resume=resume,
        store=store,
        settings=_given(arguments, _SETTINGS, instructions=arguments.system, python=with_python or None),
        overflow=arguments.overflow,
        hosts=arguments.hosts,
        host_mode=arguments.host_mode,
        host_timeout_seconds=arguments.host_timeout,
        defaults={**_given(arguments, _DEFAULTS), **forms},
        date=arguments.date,
        toolbox=toolbox,
        servers=servers,
    )


def _toolbox(arguments: argparse.Namespace) -> "Toolbox":
    """The tools of the command line. Raises UsageError for one that cannot be loaded, SandboxError."""
    from gptoss_mlx.app.toolbox import Browsing, Source, Toolbox

    sources: list[Source] = []
    browsing = Browsing(tuple(arguments.browse or ()), arguments.browse_web, arguments.search_provider)
    if arguments.tool or browsing:
        # It brings more with it than a chat without tools needs.
        from gptoss_mlx.cli.tools import load_browser, load_tool

        sources = [Source(load_tool(word), f"--tool {word}") for word in arguments.tool or ()]
        # A folder that is not there is told now.
        load_browser(arguments)
    toolbox = Toolbox(
        sources, run_all=arguments.yes, browsing=browsing or None, unsandboxed=arguments.python_unsandboxed
    )
    if arguments.python or arguments.python_unsandboxed:
        if not toolbox.has_python:
            raise UsageError("--python and a --tool are both called 'python'; expected each name once")
        toolbox.check_python()
    return toolbox


def _servers(arguments: argparse.Namespace) -> "Sequence[ServerSpec]":
    """The servers of `--mcp`, which the app starts. Raises UsageError for one that cannot be."""
    if not arguments.mcp:
        return ()
    from gptoss_mlx.cli.servers import read_words

    return read_words(arguments.mcp)


def _forms(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """`--schema`, `--regex` and `--choices` as options, checked. Raises UsageError."""
    if arguments.schema is None and arguments.regex is None and arguments.choices is None:
        return {}
    from gptoss_mlx.cli.terminal import turn_options
    from gptoss_mlx.options import Options

    options = turn_options(arguments)
    Options.from_arguments(options)
    return {name: value for name, value in options.items() if name in ("schema", "regex", "choices")}


def _given(arguments: argparse.Namespace, names: tuple[str, ...], **more: Any) -> Mapping[str, Any]:
    """What was said on the command line of these options."""
    values = {name: getattr(arguments, name) for name in names} | more
    return {name: value for name, value in values.items() if value is not None}
