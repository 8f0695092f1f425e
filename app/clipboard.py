"""Copying: the first way that is there, and one sentence that says no more than is known.

    macOS                       pbcopy
    Wayland, X11                wl-copy; xclip or xsel
    tmux                        tmux's own buffer, which tmux also sends on to the terminal
    any other terminal, ssh     OSC 52: the terminal takes it or does not, and never says so

Over ssh the clipboard that is meant is that of the machine where the terminal is, so pbcopy is not used there.
"""

import asyncio
import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gptoss_mlx.errors import UsageError

OSC52_LIMIT: Final = 74_994
"""Characters of a sequence's base64 that terminals commonly take; what is longer, they drop without a word."""

_SECONDS: Final = 3.0
"""How long a program may take."""

_SCREEN_PIECE: Final = 700
"""Characters that GNU screen passes on at once."""


async def copy_text(
    text: str, write: Callable[[str], None], environment: Mapping[str, str] | None = None, platform: str = sys.platform
) -> str:
    """Copies the text; what is known of it, as one sentence: "Copied ..." only when it was.

    `write` sends a control sequence to the terminal. Raises UsageError when there is nothing to copy, and when no way
    is left.
    """
    if not text:
        raise UsageError("there is nothing to copy")
    environment = os.environ if environment is None else environment
    size = f"{len(text):,} characters" if len(text) != 1 else "1 character"
    for command in programs(environment, platform):
        if await asyncio.to_thread(_run, command, text, environment):
            return f"Copied {size}"
    if environment.get("TMUX"):
        in_tmux = await asyncio.to_thread(_run, ["tmux", "load-buffer", "-w", "-"], text, environment)
        if in_tmux:
            return f"Copied {size} to tmux's buffer, and sent them to the terminal's clipboard"
    write(terminal_sequence(text, environment))
    return f"Sent {size} to the terminal's clipboard; it does not say whether it took them"


def programs(environment: Mapping[str, str], platform: str) -> list[Sequence[str]]:
    """The programs that may copy here, in the order to try them; those that are not installed are left out."""
    found: list[Sequence[str]] = []
    remote = bool(environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"))
    if platform == "darwin" and not remote:
        found.append(["pbcopy"])
    if environment.get("WAYLAND_DISPLAY"):
        found.append(["wl-copy"])
    if environment.get("DISPLAY"):
        found += [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    return [command for command in found if shutil.which(command[0], path=environment.get("PATH"))]


def terminal_sequence(text: str, environment: Mapping[str, str]) -> str:
    """OSC 52 for the text, wrapped so that tmux and GNU screen pass it on to the terminal.

    Raises UsageError when it is too long for terminals.
    """
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    if len(encoded) > OSC52_LIMIT:
        most = OSC52_LIMIT * 3 // 4 // 1000
        raise UsageError(
            f"this is too long to copy through the terminal ({len(encoded) * 3 // 4 // 1000} kB, about {most} kB at "
            "most); export the chat to a file"
        )
    sequence = f"\x1b]52;c;{encoded}\x07"
    if environment.get("TMUX"):
        return f"\x1bPtmux;{sequence.replace(chr(27), chr(27) * 2)}\x1b\\"
    if environment.get("STY"):
        pieces = [sequence[at : at + _SCREEN_PIECE] for at in range(0, len(sequence), _SCREEN_PIECE)]
        return "".join(f"\x1bP{piece}\x1b\\" for piece in pieces)
    return sequence


def _run(command: Sequence[str], text: str, environment: Mapping[str, str]) -> bool:
    """Whether the program took the text."""
    # pbcopy takes the text for MacRoman where the locale names no encoding.
    locale = {"LC_ALL": "en_US.UTF-8"} if command[0] == "pbcopy" else {}
    try:
        # Some go on in the background to serve the clipboard: with a pipe for their output, this would wait for them.
        result = subprocess.run(
            command,
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
            env={**environment, **locale},
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0
