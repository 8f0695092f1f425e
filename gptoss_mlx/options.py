"""What can be chosen for a turn, in one place: the keyword arguments of the API, checked, and their defaults."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from gptoss_mlx.context import OVERFLOWS, Overflow
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony.messages import ReasoningEffort, ToolDescription, ToolNamespace, is_builtin
from gptoss_mlx.memory import PREFILL_CHUNK_TOKENS
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.structured import ResponseFormat, make_response_format
from gptoss_mlx.tools import ApproveOption, Tool, ToolLimits, ToolSource, group_tools, make_tool, short_name

Effort: TypeAlias = Literal["none", "low", "medium", "high"]
"""How long to think before answering. `none` answers at once: the analysis channel is closed empty."""
EFFORTS: tuple[Effort, ...] = get_args(Effort)

ToolLike: TypeAlias = Callable[..., Any] | ToolDescription | Mapping[str, Any] | ToolSource
"""A tool that the model may call. A function (with type hints and a docstring) or a `Tool` runs by itself, and so does
what a `ToolSource` (a `Browser`, an `McpServer`) has when the turn begins; `make_python_tool()` is the one in which the
model runs Python. A
ToolDescription, or a dict in OpenAI's form `{"type": "function", "function": {"name": ..., "description": ...,
"parameters": JSON schema}}` (or the inner dict alone), is only offered: the caller gives the result."""

ToolChoice: TypeAlias = Literal["auto", "none", "required"] | str
"""Whether the model decides, may call nothing, or has to begin with a call: of any tool, or of the one that is named.
What follows the first call is up to the model again."""


class OptionArguments(TypedDict, total=False):
    """Keyword arguments that every call of the API takes. What is left out keeps its default (see `Options`)."""

    effort: Effort
    max_tokens: int | None
    max_reasoning_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None
    logit_bias: Mapping[int, float]
    logprobs: bool
    stop: str | Sequence[str] | None
    tools: Sequence[ToolLike]
    tool_choice: ToolChoice
    tool_limits: ToolLimits
    approve: ApproveOption
    schema: Mapping[str, Any] | type | None
    regex: str | None
    choices: Sequence[str] | None
    date: str | None
    prefill_chunk: int
    overflow: Overflow


@dataclass(frozen=True, slots=True)
class Options:
    """The choices of one turn."""

    effort: Effort = "medium"
    max_tokens: int | None = None
    """Sampled tokens at most, reasoning included; None: up to the context length."""
    max_reasoning_tokens: int | None = None
    """Tokens of analysis at most: then it is closed and the model answers with what it has. None: no limit."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""
    tools: tuple[ToolDescription, ...] = ()
    """Those of type `Tool` run by themselves, the others wait for the caller."""
    tool_choice: ToolChoice = "auto"
    tool_limits: ToolLimits = field(default_factory=ToolLimits)
    approve: ApproveOption = "always"
    """What holds for tools without a policy of their own."""
    response_format: ResponseFormat | None = None
    """What the answer has to look like: of `schema`, `regex` or `choices`."""
    date: str | None = None
    """`Current date` of the system message, YYYY-MM-DD; None leaves the line out."""
    prefill_chunk: int = PREFILL_CHUNK_TOKENS
    """Prompt tokens read between two looks at a cancel request; fewer where memory is near its limit."""
    overflow: Overflow = "error"
    """What happens when the conversation does not fit the context: `error`, or `drop_oldest` turns, whole, of what the
    model reads (`context`)."""

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise UsageError(f"effort is {self.effort!r}; expected one of {', '.join(EFFORTS)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens!r}; expected 1 or more, or None for no limit")
        if self.max_reasoning_tokens is not None and self.max_reasoning_tokens < 0:
            raise UsageError(
                f"max_reasoning_tokens is {self.max_reasoning_tokens!r}; expected 0 or more, or None for no limit"
            )
        if self.prefill_chunk < 1:
            raise UsageError(f"prefill_chunk is {self.prefill_chunk!r}; expected 1 or more")
        if self.overflow not in OVERFLOWS:
            raise UsageError(f"overflow is {self.overflow!r}; expected one of {', '.join(OVERFLOWS)}")
        self._check_tools()
        if self.stop and self.response_format is not None:
            raise UsageError(
                "stop is given with schema, regex or choices; expected one of them: the form ends the answer"
            )
        if "" in self.stop:
            raise UsageError("stop holds an empty string; expected text that the answer could contain")

    @property
    def offered_tools(self) -> tuple[ToolDescription, ...]:
        """The tools that the model is told of."""
        return () if self.tool_choice == "none" else self.tools

    @property
    def runs_tools(self) -> bool:
        """Whether a call may be answered by itself."""
        return any(isinstance(tool, Tool) for tool in self.tools)

    @property
    def forced_tools(self) -> tuple[ToolDescription, ...]:
        """The tools of which the model has to call one first; none where it is free."""
        if self.tool_choice in ("auto", "none"):
            return ()
        if self.tool_choice == "required":
            return self.tools
        wanted = short_name(self.tool_choice)
        named = tuple(tool for tool in self.tools if short_name(tool.full_name) == wanted)
        return named or tuple(tool for tool in self.tools if tool.name == wanted)

    @property
    def offered_functions(self) -> tuple[ToolDescription, ...]:
        """Those of the offered tools that the developer message describes: all but built-in ones."""
        return tuple(tool for tool in self.offered_tools if not is_builtin(tool.full_name))

    @property
    def builtin_tools(self) -> tuple[ToolNamespace, ...]:
        """The offered built-in tools, as the system message describes them; of a namespace only what is offered."""
        return group_tools([tool for tool in self.offered_tools if is_builtin(tool.full_name)])

    def _check_tools(self) -> None:
        names = [short_name(tool.full_name) for tool in self.tools]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise UsageError(f"there are two tools of the name {double!r}; expected each name once")
        if self.tool_choice not in ("auto", "none") and not self.forced_tools:
            known = ", ".join(("auto", "none", "required", *names)) if names else "auto or none, as no tool is given"
            raise UsageError(f"tool_choice is {self.tool_choice!r}; expected one of {known}")
        if not callable(self.approve) and self.approve not in ("always", "never"):
            raise UsageError(
                f"approve is {self.approve!r}; expected always, never or a function that decides on a call"
            )
        for tool in self.tools:
            if isinstance(tool, Tool) and tool.policy == "ask" and not callable(self.approve):
                raise UsageError(
                    f"the tool {short_name(tool.full_name)!r} asks before it runs, and there is nobody to ask; give "
                    "approve=, a function that decides on a call"
                )

    @property
    def system_effort(self) -> ReasoningEffort:
        """The `Reasoning:` line of the system message. Harmony knows no `none`; its nearest is low."""
        return "low" if self.effort == "none" else self.effort

    @classmethod
    def from_arguments(cls, arguments: OptionArguments, defaults: OptionArguments | None = None) -> "Options":
        merged: dict[str, Any] = {**(defaults or {}), **arguments}
        unknown = sorted(set(merged) - set(OptionArguments.__annotations__))
        if unknown:
            known = ", ".join(OptionArguments.__annotations__)
            raise UsageError(f"unknown option {unknown[0]!r}; expected one of {known}")
        sampling = Sampling(
            **{name: merged.pop(name) for name in list(merged) if name in Sampling.__dataclass_fields__}
        )
        stop = merged.pop("stop", None)
        tools = merged.pop("tools", ())
        forms = {name: merged.pop(name, None) for name in ("schema", "regex", "choices")}
        return cls(
            response_format=make_response_format(**forms),
            sampling=sampling,
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
            tools=read_tools(tools),
            **merged,
        )


def read_tools(tools: Iterable[ToolLike]) -> tuple[ToolDescription, ...]:
    """Tools in harmony's form, those of sources one by one. Raises UsageError."""
    tools = list(tools)
    sources = [tool.name for tool in tools if isinstance(tool, ToolSource)]
    double = next((name for name in sources if sources.count(name) > 1), None)
    if double is not None:
        raise UsageError(f"there are two sources of tools called {double!r}; give one of them another name")
    found: list[ToolDescription] = []
    for tool in tools:
        found += tool.offered_tools() if isinstance(tool, ToolSource) else [read_tool(tool)]
    return tuple(found)


def read_tool(tool: Callable[..., Any] | ToolDescription | Mapping[str, Any]) -> ToolDescription:
    """A tool in harmony's form. Raises UsageError when it has no name, or when its schema is not an object."""
    if isinstance(tool, ToolDescription):
        return tool
    if callable(tool):
        return make_tool(tool)
    if not isinstance(tool, Mapping):
        raise UsageError(
            f"{tool!r} is no tool; expected a function, a ToolDescription or a dict with a name and a JSON schema"
        )
    inner = tool.get("function", tool)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"the tool {dict(tool)!r} has no name; expected {{'name': ..., 'parameters': JSON schema}}")
    parameters = inner.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UsageError(f"the parameters of tool {name!r} are {parameters!r}; expected a JSON schema of type object")
    return ToolDescription(name, str(inner.get("description") or ""), parameters, inner.get("strict") is True)
