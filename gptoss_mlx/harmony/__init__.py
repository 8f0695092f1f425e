"""Harmony, the conversation format of gpt-oss: messages, their rendering to token ids, and the parsing of ids back.

Each name is loaded when it is first used: whoever only keeps messages needs neither parser nor tokenizer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptoss_mlx.harmony.builtin_tools import BROWSER, PYTHON
    from gptoss_mlx.harmony.citations import CitationMark, DisplayHeader, find_marks, read_display_header
    from gptoss_mlx.harmony.messages import (
        ANALYSIS,
        BUILTIN_NAMESPACES,
        COMMENTARY,
        FINAL,
        FUNCTIONS,
        REASONING_EFFORTS,
        ROLES,
        ChannelConfig,
        Content,
        DeveloperContent,
        JsonObject,
        Message,
        ReasoningEffort,
        Role,
        SystemContent,
        TextContent,
        ToolDescription,
        ToolNamespace,
        is_builtin,
        is_tool,
        tool_result,
    )
    from gptoss_mlx.harmony.parse import StreamParser, parse_tokens
    from gptoss_mlx.harmony.parser_events import (
        ContentDelta,
        Header,
        MarkupSkipped,
        MessageFinished,
        MessageStarted,
        ParserEvent,
        ParserState,
        StreamWarning,
        event_text,
    )
    from gptoss_mlx.harmony.render import (
        DropAnalysis,
        Piece,
        Sampled,
        Special,
        Text,
        encode_pieces,
        message_pieces,
        render_conversation,
        render_for_completion,
        render_for_training,
        render_message,
        render_pieces,
        render_text,
    )

_HOMES = {
    "gptoss_mlx.harmony.builtin_tools": ("BROWSER", "PYTHON"),
    "gptoss_mlx.harmony.citations": ("CitationMark", "DisplayHeader", "find_marks", "read_display_header"),
    "gptoss_mlx.harmony.messages": (
        "ANALYSIS",
        "BUILTIN_NAMESPACES",
        "COMMENTARY",
        "FINAL",
        "FUNCTIONS",
        "REASONING_EFFORTS",
        "ROLES",
        "ChannelConfig",
        "Content",
        "DeveloperContent",
        "JsonObject",
        "Message",
        "ReasoningEffort",
        "Role",
        "SystemContent",
        "TextContent",
        "ToolDescription",
        "ToolNamespace",
        "is_builtin",
        "is_tool",
        "tool_result",
    ),
    "gptoss_mlx.harmony.parse": ("StreamParser", "parse_tokens"),
    "gptoss_mlx.harmony.parser_events": (
        "ContentDelta",
        "Header",
        "MarkupSkipped",
        "MessageFinished",
        "MessageStarted",
        "ParserEvent",
        "ParserState",
        "StreamWarning",
        "event_text",
    ),
    "gptoss_mlx.harmony.render": (
        "DropAnalysis",
        "Piece",
        "Sampled",
        "Special",
        "Text",
        "encode_pieces",
        "message_pieces",
        "render_conversation",
        "render_for_completion",
        "render_for_training",
        "render_message",
        "render_pieces",
        "render_text",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ANALYSIS",
    "BROWSER",
    "BUILTIN_NAMESPACES",
    "COMMENTARY",
    "FINAL",
    "FUNCTIONS",
    "PYTHON",
    "REASONING_EFFORTS",
    "ROLES",
    "ChannelConfig",
    "CitationMark",
    "Content",
    "ContentDelta",
    "DeveloperContent",
    "DisplayHeader",
    "DropAnalysis",
    "Header",
    "JsonObject",
    "MarkupSkipped",
    "Message",
    "MessageFinished",
    "MessageStarted",
    "ParserEvent",
    "ParserState",
    "Piece",
    "ReasoningEffort",
    "Role",
    "Sampled",
    "Special",
    "StreamParser",
    "StreamWarning",
    "SystemContent",
    "Text",
    "TextContent",
    "ToolDescription",
    "ToolNamespace",
    "encode_pieces",
    "event_text",
    "find_marks",
    "is_builtin",
    "is_tool",
    "message_pieces",
    "parse_tokens",
    "read_display_header",
    "render_conversation",
    "render_for_completion",
    "render_for_training",
    "render_message",
    "render_pieces",
    "render_text",
    "tool_result",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
