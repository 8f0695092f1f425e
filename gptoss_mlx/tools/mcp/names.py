"""Names for servers and for their tools that the model can write in the header of a call."""

import re
from collections.abc import Container, Sequence
from pathlib import PurePath
from typing import Final
from urllib.parse import urlsplit

from gptoss_mlx.tools.namespaces import NAME, RESERVED

LONGEST: Final = 64
"""Characters of a name."""

_RUNNERS: Final = frozenset(
    ("bun", "bunx", "deno", "docker", "env", "node", "npx", "pipx", "podman", "pnpm", "uv", "uvx", "yarn")
)
"""Programs whose arguments name what they run; any Python is one, too."""

_VERBS: Final = frozenset(("run", "dlx", "exec", "tool", "x"))
"""Words of theirs that name nothing."""

_AFFIX: Final = re.compile(r"^(mcp[-_]server|server|mcp)[-_]|[-_](mcp[-_]server|server[-_]mcp|mcp|server)$")


def name_from_command(command: Sequence[str]) -> str:
    """A name for the server that `command` starts (or the URL that is its only word): `filesystem` for
    `npx -y @modelcontextprotocol/server-filesystem /data`."""
    word = command[0]
    if word.startswith(("http://", "https://")):
        parts = urlsplit(word)
        labels = [label for label in (parts.hostname or "").split(".") if label not in ("www", "mcp", "api")]
        return _short(labels[-2] if len(labels) > 1 and not labels[-1].isdigit() else "".join(labels[:1]))
    program = PurePath(word).name
    if program in _RUNNERS or re.fullmatch(r"python[\d.]*", program):
        rest = (each for each in command[1:] if each[:1] != "-" and not set("=:") & set(each) and each not in _VERBS)
        word = next(rest, program)
    path = PurePath(word.rpartition("@")[0] or word) if "@" in word[1:] else PurePath(word)
    return _short(path.stem if path.suffix in (".py", ".js", ".ts", ".mjs", ".sh") else path.name)


def plain_name(name: str, taken: Container[str] = ()) -> str:
    """`name`, or the nearest name that the model can write and that is not taken."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:LONGEST] or "_"
    if NAME.fullmatch(plain) is None:
        plain = f"_{plain}"[:LONGEST]
    number, found = 1, plain
    while found in taken:
        number += 1
        ending = f"_{number}"
        found = plain[: LONGEST - len(ending)] + ending
    return found


def _short(word: str) -> str:
    short = _AFFIX.sub("", _AFFIX.sub("", word)) or word
    plain = plain_name(short)
    return f"{plain}_server" if plain in RESERVED or not plain.strip("_") else plain
