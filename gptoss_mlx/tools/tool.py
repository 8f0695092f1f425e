"""A function that the model may call: what the model is told of it, and what runs when it calls."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import FUNCTIONS, Message, ToolDescription, ToolNamespace
from gptoss_mlx.json_schema import check_schema
from gptoss_mlx.tools.signatures import read_signature

Policy: TypeAlias = Literal["ask", "always", "never"]
"""Whether a call runs: after somebody agreed, at once, or not at all (which the model is told)."""
POLICIES: tuple[Policy, ...] = get_args(Policy)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Tool(ToolDescription):
    """A tool that runs here. `make_tool` makes one of a function; `Tool(name, description, schema, function=f)` sets a
    JSON schema beside a function, which is called with the arguments by name.

    Raises UsageError for a name that cannot be one, or a schema that is none of an object.
    """

    function: Callable[..., Any] = field(kw_only=True)
    """What runs; a coroutine function is awaited. It runs on a thread of its own, never on the model's."""
    policy: Policy | None = field(default=None, kw_only=True)
    """None: what the option `approve` of the turn says."""
    max_seconds: float | None = field(default=None, kw_only=True)
    """How long a call may take; None: the turn's `tool_limits`."""
    readers: Mapping[str, Callable[[Any], Any]] | None = field(default=None, kw_only=True, repr=False, compare=False)
    """Parameter -> what makes its value out of JSON; None: the arguments are checked against the schema, and passed as
    they are."""
    builtin: ToolNamespace | None = field(default=None, kw_only=True, repr=False)
    """The namespace (`harmony.BROWSER`) of a tool that gpt-oss was trained with: it is offered in the system message.
    None: a developer's function."""
    asks: "Callable[[Mapping[str, Any], Sequence[Message]], bool] | None" = field(
        default=None, kw_only=True, repr=False, compare=False
    )
    """With a policy of `ask`: whether a call with these arguments, after these messages, has to ask. None: each does.
    It must not raise."""
    about: "Callable[[Mapping[str, Any], Sequence[Message]], str] | None" = field(
        default=None, kw_only=True, repr=False, compare=False
    )
    """What such a call is about where its arguments do not say it, for whoever decides on it: `ToolCall.about`. It must
    not raise."""

    @property
    def full_name(self) -> str:
        """The name by which the model calls it: `functions.get_weather`, `browser.search`."""
        return f"{FUNCTIONS if self.builtin is None else self.builtin.name}.{self.name}"

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise UsageError(
                f"{self.name!r} cannot name a tool; expected letters, digits, _ and -, at most 64, no digit first"
            )
        if not callable(self.function):
            raise UsageError(f"the function of tool {self.name!r} is {self.function!r}; expected a callable")
        if self.policy is not None and self.policy not in POLICIES:
            raise UsageError(f"the policy of tool {self.name!r} is {self.policy!r}; expected {', '.join(POLICIES)}")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise UsageError(f"max_seconds of tool {self.name!r} is {self.max_seconds!r}; expected more than 0")
        if self.parameters is not None and self.readers is None:
            if self.parameters.get("type", "object") != "object":
                raise UsageError(
                    f"the parameters of tool {self.name!r} are {dict(self.parameters)!r}; expected a JSON schema of "
                    "type object"
                )
            check_schema(self.parameters, f"the schema of tool {self.name!r}")


class ToolGroup:
    """Tools that belong together and are given as one: `tools=[Browser("notes")]`."""

    name: str
    """What the group is called."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools."""
        raise NotImplementedError


def make_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    policy: Policy | None = None,
    strict: bool = False,
    max_seconds: float | None = None,
) -> Tool:
    """A tool of a function: its name, what it does and its parameters come from the function, its type hints and its
    docstring, as far as they are not given.

    Arguments reach the function as its hints say: dataclasses, enums and models are made of the JSON that the model
    wrote. With `parameters` (a JSON schema) they are passed as they are. Raises UsageError.
    """
    described = getattr(function, "func", function)
    called = name if name is not None else getattr(described, "__name__", type(described).__name__)
    if _NAME.fullmatch(called) is None:
        raise UsageError(
            f"the function {function!r} has the name {called!r}; give the tool one: make_tool(f, name=...)"
        )
    if parameters is not None:
        told = description if description is not None else (inspect.getdoc(function) or "")
        return Tool(called, told, parameters, function=function, policy=policy, strict=strict, max_seconds=max_seconds)
    signature = read_signature(function, called)
    return Tool(
        called,
        signature.description if description is None else description,
        signature.parameters,
        function=function,
        policy=policy,
        strict=strict,
        max_seconds=max_seconds,
        readers=signature.readers,
    )
