"""What a conversation is made of: messages, their content, and the tools offered in it.

Owns the types and their JSON form. It knows neither tokens nor how a message is written in harmony (see render.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, cast, get_args

from gptoss_mlx.errors import HarmonyError

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
"""Who a message is from."""
ROLES: tuple[Role, ...] = get_args(Role)

ReasoningEffort: TypeAlias = Literal["low", "medium", "high"]
"""How long the model should think."""
REASONING_EFFORTS: tuple[ReasoningEffort, ...] = get_args(ReasoningEffort)

JsonObject: TypeAlias = Mapping[str, Any]

ANALYSIS = "analysis"
"""The channel of reasoning, not meant for the reader."""
COMMENTARY = "commentary"
"""The channel of tool calls and of text said before them."""
FINAL = "final"
"""The channel of the answer."""

DEFAULT_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
DEFAULT_KNOWLEDGE_CUTOFF = "2024-06"
FUNCTIONS = "functions"
"""The namespace of the tools that a developer offers."""
BUILTIN_NAMESPACES = ("browser", "python")
"""The namespaces of the tools that gpt-oss was trained with (builtin_tools.py)."""


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """One tool: its name, what it does, and its arguments as a JSON schema (None: it takes no arguments)."""

    name: str
    description: str
    parameters: JsonObject | None = None
    strict: bool = False
    """Whether the model is held to the schema while it writes the arguments."""

    @property
    def full_name(self) -> str:
        """The name by which the model calls it."""
        return f"{FUNCTIONS}.{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """The tool as JSON."""
        out: dict[str, Any] = {"name": self.name, "description": self.description}
        if self.parameters is not None:
            out["parameters"] = dict(self.parameters)
        if self.strict:
            out["strict"] = True
        return out

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """A tool from its JSON. Raises HarmonyError."""
        where = "a tool"
        parameters = _object(data, where).get("parameters")
        if parameters is not None:
            parameters = _object(parameters, "a tool's parameters")
        strict = data.get("strict") is True
        return cls(_text(data, "name", where), _text(data, "description", where), parameters, strict)


@dataclass(frozen=True, slots=True)
class ToolNamespace:
    """A group of tools under one name; a tool in it is called `name.tool`."""

    name: str
    description: str | None = None
    tools: tuple[ToolDescription, ...] = ()

    @classmethod
    def functions(cls, tools: tuple[ToolDescription, ...] | list[ToolDescription]) -> Self:
        """The namespace of a developer's own tools."""
        return cls(FUNCTIONS, None, tuple(tools))

    def to_dict(self) -> dict[str, Any]:
        """The namespace as JSON."""
        out: dict[str, Any] = {"name": self.name, "tools": [tool.to_dict() for tool in self.tools]}
        if self.description is not None:
            out["description"] = self.description
        return out

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """A namespace from its JSON. Raises HarmonyError."""
        where = "a tool namespace"
        tools = _list(_object(data, where).get("tools", []), f"{where}'s tools")
        return cls(
            _text(data, "name", where),
            _text_or_none(data, "description", where),
            tuple(ToolDescription.from_dict(tool) for tool in tools),
        )


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """The channels that the system message names, and whether each message must have one."""

    valid_channels: tuple[str, ...] = (ANALYSIS, COMMENTARY, FINAL)
    channel_required: bool = True


@dataclass(frozen=True, slots=True)
class TextContent:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class SystemContent:
    """The settings of a conversation, written into the system message. None leaves a line out."""

    model_identity: str | None = DEFAULT_IDENTITY
    reasoning_effort: ReasoningEffort | None = "medium"
    conversation_start_date: str | None = None
    """Such as "2026-11-23"."""
    knowledge_cutoff: str | None = DEFAULT_KNOWLEDGE_CUTOFF
    channel_config: ChannelConfig | None = field(default_factory=ChannelConfig)
    tools: tuple[ToolNamespace, ...] = ()
    """Built-in tools (see builtin_tools.py); a developer's own go into DeveloperContent."""

    def __post_init__(self) -> None:
        if self.reasoning_effort is not None and self.reasoning_effort not in REASONING_EFFORTS:
            raise HarmonyError(
                f"{self.reasoning_effort!r} is no reasoning effort; expected low, medium, high or None. Pass one."
            )
        _refuse_double_namespaces(self.tools)


@dataclass(frozen=True, slots=True)
class DeveloperContent:
    """The developer's instructions and tools."""

    instructions: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    response_format: str | None = None
    """What the answer has to look like: the text below "# Response Formats", at the end."""

    def __post_init__(self) -> None:
        _refuse_double_namespaces(self.tools)

    @property
    def has_functions(self) -> bool:
        """Whether the developer offers tools of their own."""
        return any(namespace.name == FUNCTIONS and namespace.tools for namespace in self.tools)


Content: TypeAlias = TextContent | SystemContent | DeveloperContent


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: tuple[Content, ...] = ()
    name: str | None = None
    """The tool's name for role tool (such as "functions.get_weather"); optional for the others."""
    recipient: str | None = None
    """Who it is for, when not everybody: a tool's name in a call, "assistant" in a tool's result."""
    channel: str | None = None
    content_type: str | None = None
    """Such as "json" or "<|constrain|>json"."""
    tokens: tuple[int, ...] | None = None
    """The ids of the whole message as the model sampled it, from `<|start|>` to its end, if it was generated here.
    They are rendered as they are while they say what the fields say, so that the KV cache of the turn stays valid."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise HarmonyError(f"{self.role!r} is no role; expected one of {', '.join(ROLES)}. Pass one of them.")

    @classmethod
    def system(cls, content: str | SystemContent | None = None) -> Self:
        """A system message: the given settings, or text as it is, or the default settings."""
        return cls("system", (_content(SystemContent() if content is None else content),))

    @classmethod
    def developer(cls, content: str | DeveloperContent) -> Self:
        """A developer message. Text becomes its instructions."""
        return cls("developer", (DeveloperContent(content) if isinstance(content, str) else content,))

    @classmethod
    def user(cls, text: str, *, name: str | None = None) -> Self:
        """A message of the user."""
        return cls("user", (TextContent(text),), name=name)

    @classmethod
    def assistant(
        cls,
        text: str,
        *,
        channel: str | None = FINAL,
        recipient: str | None = None,
        content_type: str | None = None,
        tokens: tuple[int, ...] | None = None,
    ) -> Self:
        """A message of the assistant; with a tool as recipient it is a call."""
        return cls(
            "assistant",
            (TextContent(text),),
            recipient=recipient,
            channel=channel,
            content_type=content_type,
            tokens=tokens,
        )

    @classmethod
    def tool(
        cls, name: str, text: str, *, channel: str | None = COMMENTARY, recipient: str | None = "assistant"
    ) -> Self:
        """The result of the tool `name` (such as "functions.get_weather"), on the channel where it was called
        (`tool_result`)."""
        return cls("tool", (TextContent(text),), name=name, recipient=recipient, channel=channel)

    @property
    def text(self) -> str:
        """The plain text of the message; settings and developer content are not part of it."""
        return "".join(item.text for item in self.content if isinstance(item, TextContent))

    @property
    def tool_name(self) -> str | None:
        """The tool that this message calls, or None if it calls none."""
        return self.recipient if self.role == "assistant" and is_tool(self.recipient) else None

    def to_dict(self) -> dict[str, Any]:
        """The message as JSON, without the fields that are None."""
        out: dict[str, Any] = {"role": self.role, "content": [_content_to_dict(item) for item in self.content]}
        for key in ("name", "recipient", "channel", "content_type"):
            if (value := getattr(self, key)) is not None:
                out[key] = value
        if self.tokens is not None:
            out["tokens"] = list(self.tokens)
        return out

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """A message from its JSON; its content may also be one string. Raises HarmonyError."""
        where = "a message"
        content = _object(data, where).get("content")
        items = (
            [{"type": "text", "text": content}] if isinstance(content, str) else _list(content, f"{where}'s content")
        )
        tokens = data.get("tokens")
        if tokens is not None:
            tokens = tuple(_list(tokens, f"{where}'s tokens"))
            if not all(type(token) is int for token in tokens):
                raise HarmonyError(f"{where}'s tokens hold more than integers; expected token ids. Remove them.")
        return cls(
            cast(Role, _text(data, "role", where)),
            tuple(_content_from_dict(item) for item in items),
            name=_text_or_none(data, "name", where),
            recipient=_text_or_none(data, "recipient", where),
            channel=_text_or_none(data, "channel", where),
            content_type=_text_or_none(data, "content_type", where),
            tokens=tokens,
        )


def tool_result(messages: Sequence[Message], name: str, text: str) -> Message:
    """The result of the last call of the tool `name` in `messages`.

    A built-in tool answers on the channel on which it was called, so that what is read of the past holds both or
    neither; functions answer on commentary.
    """
    if not is_builtin(name):
        return Message.tool(name, text)
    calls = (message.channel for message in reversed(messages) if message.tool_name == name)
    return Message.tool(name, text, channel=next(calls, None) or ANALYSIS)


NOT_TOOLS = frozenset(("all", "assistant", "user"))
"""Recipients that are no tools."""


def is_tool(recipient: str | None) -> bool:
    """Whether a message to this recipient is a tool call."""
    return bool(recipient) and recipient not in NOT_TOOLS


def is_builtin(name: str) -> bool:
    """Whether the full name of a tool is that of one that gpt-oss was trained with (builtin_tools.py)."""
    return name.partition(".")[0] in BUILTIN_NAMESPACES


def _refuse_double_namespaces(tools: tuple[ToolNamespace, ...]) -> None:
    names = [namespace.name for namespace in tools]
    for name in names:
        if names.count(name) > 1:
            raise HarmonyError(
                f"The tool namespace {name!r} is given twice; expected each once. Put their tools into one namespace."
            )


def _content(content: str | Content) -> Content:
    return TextContent(content) if isinstance(content, str) else content


def _content_to_dict(item: Content) -> dict[str, Any]:
    match item:
        case TextContent():
            return {"type": "text", "text": item.text}
        case SystemContent():
            out: dict[str, Any] = {
                "type": "system_content",
                "model_identity": item.model_identity,
                "reasoning_effort": item.reasoning_effort,
                "conversation_start_date": item.conversation_start_date,
                "knowledge_cutoff": item.knowledge_cutoff,
                "channel_config": None,
                "tools": {namespace.name: namespace.to_dict() for namespace in item.tools},
            }
            if item.channel_config is not None:
                out["channel_config"] = {
                    "valid_channels": list(item.channel_config.valid_channels),
                    "channel_required": item.channel_config.channel_required,
                }
            return out
        case DeveloperContent():
            out = {
                "type": "developer_content",
                "instructions": item.instructions,
                "tools": {namespace.name: namespace.to_dict() for namespace in item.tools},
            }
            if item.response_format is not None:
                out["response_format"] = item.response_format
            return out


def _content_from_dict(data: Any) -> Content:
    where = "a message's content"
    kind = _object(data, where).get("type")
    if kind == "text":
        return TextContent(_text(data, "text", where))
    if kind not in ("system_content", "developer_content"):
        raise HarmonyError(
            f"{kind!r} is no kind of content; expected text, system_content or developer_content. Correct the file."
        )
    namespaces = _object(data.get("tools") or {}, f"{where}'s tools")
    tools = tuple(ToolNamespace.from_dict(namespace) for namespace in namespaces.values())
    if kind == "developer_content":
        response_format = _text_or_none(data, "response_format", where)
        return DeveloperContent(_text_or_none(data, "instructions", where), tools, response_format)
    effort = _text_or_none(data, "reasoning_effort", where)
    channels = data.get("channel_config")
    if channels is not None:
        valid = _list(_object(channels, "channel_config").get("valid_channels"), "valid_channels")
        channels = ChannelConfig(tuple(str(channel) for channel in valid), bool(channels.get("channel_required")))
    return SystemContent(
        model_identity=_text_or_none(data, "model_identity", where),
        reasoning_effort=None if effort is None else cast(ReasoningEffort, effort.lower()),
        conversation_start_date=_text_or_none(data, "conversation_start_date", where),
        knowledge_cutoff=_text_or_none(data, "knowledge_cutoff", where),
        channel_config=channels,
        tools=tools,
    )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HarmonyError(f"{str(value)[:80]!r} cannot be {what}; expected a JSON object. Correct the file.")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise HarmonyError(f"{str(value)[:80]!r} cannot be {what}; expected a JSON list. Correct the file.")
    return value


def _text(data: dict[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise HarmonyError(f"{where} has the {key} {str(value)[:80]!r}; expected text. Correct the file.")
    return value


def _text_or_none(data: dict[str, Any], key: str, where: str) -> str | None:
    return None if data.get(key) is None else _text(data, key, where)
