"""The names under which the model calls tools: `namespace.tool`; each place that tools come from has its namespace."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import FUNCTIONS, ToolDescription, ToolNamespace

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
"""What can name a tool or a namespace: a header of a call is split at spaces, dots and special tokens."""

RESERVED: Final = frozenset(
    (FUNCTIONS, "all", "assistant", "browser", "code", "developer", "json", "python", "system", "text", "tool", "user")
)
"""What no other namespace can be called: a caller's own functions, roles, content types, and the tools that gpt-oss
was trained with."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where a tool belongs. Raises UsageError for a name that cannot be one."""

    name: str = FUNCTIONS
    description: str | None = None
    """What the model is told of its tools together."""

    def __post_init__(self) -> None:
        if NAME.fullmatch(self.name) is None:
            raise UsageError(
                f"{self.name!r} cannot name a namespace of tools; expected letters, digits, _ and -, at most 64, no "
                "digit first"
            )
        if self.name in RESERVED and (self.name != FUNCTIONS or self.description is not None):
            raise UsageError(
                f"{self.name!r} cannot name a namespace of tools, since it means something else to the model; give "
                "another name"
            )


OWN_FUNCTIONS: Final = Namespace()
"""The namespace of a caller's own functions."""


def namespace_of(tool: ToolDescription) -> Namespace:
    """Where `tool` belongs: tools that only the caller can run are functions."""
    found = getattr(tool, "namespace", OWN_FUNCTIONS)
    assert isinstance(found, Namespace)
    return found


def full_name(tool: ToolDescription) -> str:
    """`functions.get_weather`: how the model calls it."""
    return f"{namespace_of(tool).name}.{tool.name}"


def short_name(name: str) -> str:
    """How people name the tool of that full name: `get_weather` for `functions.get_weather`, `files.read` as it is."""
    return name.removeprefix(f"{FUNCTIONS}.")


def group_tools(tools: Sequence[ToolDescription]) -> tuple[ToolNamespace, ...]:
    """The tools in harmony's form, each namespace in the order of its first tool."""
    groups: dict[str, list[ToolDescription]] = {}
    for tool in tools:
        groups.setdefault(namespace_of(tool).name, []).append(tool)
    return tuple(
        ToolNamespace(name, namespace_of(members[0]).description, tuple(members)) for name, members in groups.items()
    )
