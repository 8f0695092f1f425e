"""What can be chosen for a turn, in one place: the keyword arguments of the API, checked, and their defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from gptoss_mlx.context import OVERFLOWS, Overflow
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony.messages import ReasoningEffort, ToolDescription
from gptoss_mlx.memory import PREFILL_CHUNK_TOKENS
from gptoss_mlx.sampling import Sampling

Effort: TypeAlias = Literal["none", "low", "medium", "high"]
"""How long to think before answering. `none` answers at once: the analysis channel is closed empty."""
EFFORTS: tuple[Effort, ...] = get_args(Effort)

ToolLike: TypeAlias = ToolDescription | Mapping[str, Any]
"""A tool that the model may call: a ToolDescription, or a dict in OpenAI's form
`{"type": "function", "function": {"name": ..., "description": ..., "parameters": JSON schema}}` (or the inner dict
alone)."""


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
        if "" in self.stop:
            raise UsageError("stop holds an empty string; expected text that the answer could contain")

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
        return cls(
            sampling=sampling,
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
            tools=tuple(read_tool(tool) for tool in tools),
            **merged,
        )


def read_tool(tool: ToolLike) -> ToolDescription:
    """A tool in harmony's form. Raises UsageError when it has no name, or when its schema is not an object."""
    if isinstance(tool, ToolDescription):
        return tool
    if not isinstance(tool, Mapping):
        raise UsageError(f"{tool!r} is no tool; expected a ToolDescription or a dict with a name and a JSON schema")
    inner = tool.get("function", tool)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"the tool {dict(tool)!r} has no name; expected {{'name': ..., 'parameters': JSON schema}}")
    parameters = inner.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UsageError(f"the parameters of tool {name!r} are {parameters!r}; expected a JSON schema of type object")
    return ToolDescription(name, str(inner.get("description") or ""), parameters)
