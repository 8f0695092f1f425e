"""The names under which the model calls tools: `namespace.tool`; each place that tools come from has its namespace."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import BUILTIN_NAMESPACES, FUNCTIONS, ToolDescription, ToolNamespace

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
    builtin: bool = False
    """Whether gpt-oss was trained with its tools: the system message offers them, and the analysis calls them."""

    def __post_init__(self) -> None:
        if NAME.fullmatch(self.name) is None:
            raise UsageError(
                f"{self.name!r} cannot name a namespace of tools; expected letters, digits, _ and -, at most 64, no "
                "digit first"
            )
        if self.builtin:
            if self.name not in BUILTIN_NAMESPACES:
                raise UsageError(f"gpt-oss has no built-in tool {self.name!r}; expected browser or python")
        elif self.name in RESERVED and (self.name != FUNCTIONS or self.description is not None):
            raise UsageError(
                f"{self.name!r} cannot name a namespace of tools, since it means something else to the model; give "
                "another name"
            )

    def is_tool(self, name: str) -> bool:
        """Whether a tool of that name in it is called by the namespace's name alone: `python`."""
        return self.builtin and name == self.name


OWN_FUNCTIONS: Final = Namespace()
"""The namespace of a caller's own functions."""


def short_name(name: str) -> str:
    """How people name the tool of that full name: `get_weather` for `functions.get_weather`, `files.read` as it is."""
    return name.removeprefix(f"{FUNCTIONS}.")


def group_tools(tools: Sequence[ToolDescription]) -> tuple[ToolNamespace, ...]:
    """The tools in harmony's form, each namespace in the order of its first tool."""
    groups: dict[str, tuple[Namespace, list[ToolDescription]]] = {}
    for tool in tools:
        namespace = getattr(tool, "namespace", OWN_FUNCTIONS)
        groups.setdefault(namespace.name, (namespace, []))[1].append(tool)
    return tuple(
        ToolNamespace(
            namespace.name,
            namespace.description,
            # Of a tool that is its whole namespace, the model knows the description of that.
            tuple(tool for tool in members if not namespace.is_tool(tool.name)),
        )
        for namespace, members in groups.values()
    )
