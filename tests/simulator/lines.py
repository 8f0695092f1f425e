"""Which file and line each line of a kernel's flattened source comes from."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from gptoss_mlx.metal import library

_INCLUDE: Final = re.compile(r'^#include "(?P<name>\w+\.h)"$')


def place(header: str, stem: str, line: int) -> tuple[str, int]:
    """File and line that `with_markers` gives to `line` of `header`, counted from 1."""
    places = _places(stem)
    return places[line - 1] if len(places) == header.count("\n") + 1 else (f"{stem} header", line)


def with_markers(header: str, stem: str) -> str:
    """`header`, which `library.read_source(stem)` gave, with markers that name each line's own file.

    A header that is not such a source keeps its own lines, as `<stem> header`.
    """
    lines = header.split("\n")
    places = _places(stem)
    if len(places) != len(lines):
        return f'# 1 "{stem} header"\n{header}\n'
    marked: list[str] = []
    previous: tuple[str, int] | None = None
    for line, (file, number) in zip(lines, places, strict=True):
        if previous is None or previous != (file, number - 1):
            marked.append(f'# {number} "{file}"')
        marked.append(line)
        previous = file, number
    return "\n".join(marked) + "\n"


@cache
def _places(stem: str) -> list[tuple[str, int]]:
    """File and line of every line of `library.read_source(stem)`; empty if there is no such file."""
    included: set[str] = set()

    def places(name: str) -> Iterator[tuple[str, int]]:
        for number, line in enumerate(library._read(name).split("\n"), 1):
            match = _INCLUDE.match(line)
            if match is None:
                yield name, number
                continue
            if match["name"] in included:
                yield name, number
                continue
            included.add(match["name"])
            yield from places(match["name"])

    try:
        return list(places(f"{stem}.metal"))
    except FileNotFoundError:
        return []
