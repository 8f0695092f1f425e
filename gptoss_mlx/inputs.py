"""From what callers have (a string, OpenAI-style dicts, harmony messages) to a conversation in harmony's terms.

The system message of harmony holds settings (effort, date, channels); a caller's "system prompt" is harmony's developer
instructions, as OpenAI's guide to the format has it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import (
    ANALYSIS,
    COMMENTARY,
    FINAL,
    FUNCTIONS,
    DeveloperContent,
    Message,
    SystemContent,
    is_builtin,
    tool_result,
)
from gptoss_mlx.options import Options
from gptoss_mlx.tools import group_tools

MessageLike: TypeAlias = Message | Mapping[str, Any]
"""A harmony Message, or a dict in OpenAI's form: role, content, and for tools tool_calls / tool_call_id."""
Prompt: TypeAlias = str | Sequence[MessageLike]

_JSON = "<|constrain|>json"


def read_conversation(prompt: Prompt, options: Options) -> list[Message]:
    """The whole conversation, system message first, ready to be rendered.

    A system message is added unless `prompt` brings a harmony one; the tools of `options` are offered in the developer
    message, which also says what the answer has to look like. Raises UsageError for a message that cannot be read.
    """
    messages = [Message.user(prompt)] if isinstance(prompt, str) else _read_messages(prompt)
    if not messages:
        raise UsageError("the conversation is empty; expected at least one message")
    if not any(isinstance(item, SystemContent) for item in messages[0].content) and messages[0].role != "system":
        messages.insert(0, system_message(options))
    elif options.builtin_tools:
        messages[0] = _add_to_system(messages[0], options)
    if options.offered_functions or options.response_format is not None:
        messages = _add_to_developer(messages, options)
    return messages


def system_message(options: Options) -> Message:
    """Harmony's system message for these options."""
    return Message.system(
        SystemContent(
            reasoning_effort=options.system_effort,
            conversation_start_date=options.date,
            tools=options.builtin_tools,
        )
    )


def developer_message(instructions: str | None, options: Options) -> Message | None:
    """The developer's instructions, functions and the form of the answer; None when there is nothing to say."""
    tools = options.offered_functions
    told = None if options.response_format is None else options.response_format.told
    if instructions is None and not tools and told is None:
        return None
    return Message.developer(DeveloperContent(instructions, group_tools(tools), told))


def _add_to_system(message: Message, options: Options) -> Message:
    """The caller's system message, with the built-in tools of the options."""
    for index, item in enumerate(message.content):
        if isinstance(item, SystemContent):
            there = {namespace.name for namespace in item.tools}
            added = [each for each in options.builtin_tools if each not in item.tools]
            if double := next((each.name for each in added if each.name in there), None):
                raise UsageError(
                    f"the tool {double!r} is given both in the system message and as an option; expected one of the two"
                )
            offered = replace(item, tools=(*item.tools, *added))
            return replace(message, content=(*message.content[:index], offered, *message.content[index + 1 :]))
    names = ", ".join(namespace.name for namespace in options.builtin_tools)
    raise UsageError(
        f"the system message is plain text, and {names} belongs into it; expected Message.system(SystemContent(...)), "
        "or no system message"
    )


def _add_to_developer(messages: list[Message], options: Options) -> list[Message]:
    """The conversation with the tools and the form of the answer in its developer message, made if there is none."""
    offer = developer_message(None, options)
    assert offer is not None
    (added,) = (item for item in offer.content if isinstance(item, DeveloperContent))
    for index, message in enumerate(messages):
        for item in message.content:
            if isinstance(item, DeveloperContent):
                if {namespace.name for namespace in item.tools} & {namespace.name for namespace in added.tools}:
                    raise UsageError(
                        "tools are given both in the developer message and as an option; expected one of the two"
                    )
                if item.response_format is not None and added.response_format is not None:
                    raise UsageError(
                        "a response format is given both in the developer message and as an option; expected one"
                    )
                offered = DeveloperContent(
                    item.instructions, (*item.tools, *added.tools), added.response_format or item.response_format
                )
                return [*messages[:index], Message.developer(offered), *messages[index + 1 :]]
    return [messages[0], offer, *messages[1:]]


def _read_messages(prompt: Sequence[MessageLike]) -> list[Message]:
    messages: list[Message] = []
    names: dict[str, str] = {}
    for number, entry in enumerate(prompt, 1):
        if isinstance(entry, Message):
            messages.append(entry)
        elif isinstance(entry, Mapping):
            messages += _read_dict(entry, f"message {number}", names)
        else:
            raise UsageError(f"message {number} is {entry!r}; expected a Message or a dict with role and content")
    return messages


def _read_dict(entry: Mapping[str, Any], where: str, names: dict[str, str]) -> list[Message]:
    """Harmony messages for one OpenAI-style dict (an assistant's may become several: reasoning, calls, answer)."""
    role = entry.get("role")
    text = _read_content(entry.get("content"), where)
    match role:
        case "system" | "developer":
            return [Message.developer(text)]
        case "user":
            return [Message.user(text)]
        case "assistant":
            return _read_assistant(entry, text, where, names)
        case "tool":
            name = names.get(str(entry.get("tool_call_id"))) or _full_name(entry.get("name"))
            if name is None:
                raise UsageError(
                    f"{where} is a tool's result for no known call; expected tool_call_id of an earlier call, or name"
                )
            return [tool_result((), name, text)]
    raise UsageError(f"{where} has the role {role!r}; expected system, developer, user, assistant or tool")


def _read_assistant(entry: Mapping[str, Any], text: str, where: str, names: dict[str, str]) -> list[Message]:
    messages: list[Message] = []
    reasoning = entry.get("reasoning") or entry.get("reasoning_content") or entry.get("thinking")
    if reasoning:
        messages.append(Message.assistant(str(reasoning), channel=ANALYSIS))
    tool_calls = entry.get("tool_calls") or ()
    if text or not tool_calls:
        # Beside a call, text is a preamble to the user; it belongs to the commentary channel and ends no turn.
        messages.append(Message.assistant(text, channel=COMMENTARY if tool_calls else FINAL))
    for call in tool_calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = _full_name(function.get("name")) if isinstance(function, Mapping) else None
        if name is None or not isinstance(function, Mapping):
            raise UsageError(
                f"{where} has the tool call {call!r}; expected a dict with the function's name and arguments"
            )
        arguments = function.get("arguments", "{}")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        names[str(call.get("id"))] = name
        channel, content_type = (ANALYSIS, "code") if is_builtin(name) else (COMMENTARY, _JSON)
        messages.append(Message.assistant(arguments, channel=channel, recipient=name, content_type=content_type))
    return messages


def _full_name(name: Any) -> str | None:
    if not isinstance(name, str) or not name:
        return None
    return name if "." in name or is_builtin(name) else f"{FUNCTIONS}.{name}"


def _read_content(content: Any, where: str) -> str:
    """Text of a message's content: a string, None, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts: list[str] = []
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else None
            if not isinstance(text, str):
                raise UsageError(f"{where} holds the part {part!r}; expected text: gpt-oss reads nothing else")
            parts.append(text)
        return "".join(parts)
    raise UsageError(f"{where} has the content {content!r}; expected text")
