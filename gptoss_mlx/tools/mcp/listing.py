"""A server's list of tools as ours: names that the model can write, schemas that hold, descriptions that are short."""

import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gptoss_mlx.errors import UsageError
from gptoss_mlx.tools.mcp.names import plain_name
from gptoss_mlx.tools.mcp.schemas import tame_schema
from gptoss_mlx.tools.mcp.spec import ServerSpec
from gptoss_mlx.tools.namespaces import Namespace
from gptoss_mlx.tools.tool import Tool

MOST_TOOLS: Final = 200
"""Tools of one server: all of them are in every prompt."""

MOST_CHARACTERS: Final = 100_000
"""Characters of all descriptions and schemas of one server, some 25,000 tokens."""

LONGEST_DESCRIPTION: Final = 4_000
"""Characters of the description of a tool, and of a server."""


class ListedTool(Protocol):
    """What the library tells of a tool."""

    name: str
    title: str | None
    description: str | None
    input_schema: dict[str, Any]


Run = Callable[[str, dict[str, Any]], str]
"""Calls the tool that the server knows by that name."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The tools that a server has."""

    tools: tuple[Tool, ...] = ()
    notices: tuple[str, ...] = ()
    """A sentence on each tool that is left out, or is called differently here."""


def read_listing(spec: ServerSpec, listed: Iterable[ListedTool], instructions: str | None, run: Run) -> Listing:
    """The tools of the server `spec`, which are run by `run`."""
    described = Namespace(spec.name, shortened(instructions or "") or None)
    tools: dict[str, Tool] = {}
    notices: list[str] = []
    seen: set[str] = set()
    left_out = characters = 0
    for tool in listed:
        if len(tools) >= MOST_TOOLS or characters > MOST_CHARACTERS:
            left_out += 1
            continue
        if tool.name in seen:
            notices.append(f"the tool {tool.name!r} is listed twice; its first description holds")
            continue
        seen.add(tool.name)
        name = plain_name(tool.name, tools)
        try:
            told, schema = shortened(tool.description or tool.title or ""), tame_schema(tool.input_schema)
            tools[name] = Tool(
                name,
                told,
                schema,
                function=_runner(run, tool.name),
                policy=spec.policies.get(name, spec.policy),
                max_seconds=spec.call_seconds,
                namespace=described,
            )
        except UsageError as error:
            notices.append(f"the tool {tool.name!r} is left out: {error}")
            continue
        characters += len(told) + len(json.dumps(schema))
        if name != tool.name:
            notices.append(f"the tool {tool.name!r} is called {name} here")
    if left_out:
        notices.append(
            f"its last {left_out} tools are left out: expected {MOST_TOOLS} at most, and {MOST_CHARACTERS} characters "
            "in all, since every prompt holds them"
        )
    return Listing(tuple(tools.values()), tuple(notices))


def _runner(run: Run, name: str) -> Callable[..., str]:
    return lambda **arguments: run(name, arguments)


def shortened(text: str) -> str:
    """A description without control characters and the indentation of a docstring, of a length that leaves room for
    a chat."""
    text = "".join(sign for sign in inspect.cleandoc(text) if sign == "\n" or sign.isprintable()).strip()
    return text if len(text) <= LONGEST_DESCRIPTION else f"{text[:LONGEST_DESCRIPTION].rstrip()} [...]"
