"""OpenAI's gpt-oss on Apple Silicon: a typed Python API.

    from gptoss_mlx import load

    with load("pocket") as model:
        print(model.ask("What is 17 plus 25?"))

All but the exceptions is loaded when it is first used, so that the import costs next to nothing. On chips that gain by
it, the import sets how much MLX puts into a command buffer (`command_buffers`), unless MLX is there already.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gptoss_mlx.command_buffers import set_limits
from gptoss_mlx.errors import (
    Cancelled,
    ChecksumError,
    ConfigError,
    ContextOverflow,
    DownloadError,
    EngineClosed,
    EngineError,
    GptOssError,
    HarmonyError,
    HostLost,
    HostsError,
    ModelNotFound,
    NotEnoughDisk,
    NotEnoughMemory,
    PeerFailed,
    SandboxError,
    StoreError,
    TokenizerError,
    ToolServerError,
    UsageError,
    WeightsError,
)
from gptoss_mlx.version import __version__

if TYPE_CHECKING:
    from gptoss_mlx.api import GptOss, load
    from gptoss_mlx.chat import Chat
    from gptoss_mlx.convert.conversion import ConvertReport, convert_model
    from gptoss_mlx.convert.download import DownloadReport, download
    from gptoss_mlx.convert.download_plan import DownloadPlan
    from gptoss_mlx.convert.fetch import FetchOptions
    from gptoss_mlx.convert.fit import Fit
    from gptoss_mlx.convert.landing import DownloadProgress
    from gptoss_mlx.convert.verify import VerifyReport, verify_model
    from gptoss_mlx.events import (
        ChannelStart,
        Citation,
        Done,
        Event,
        ParseWarning,
        PromptProgress,
        Reply,
        Source,
        Stats,
        TextDelta,
        ToolCall,
        ToolResult,
        TurnsDropped,
    )
    from gptoss_mlx.harmony import Message, ToolDescription
    from gptoss_mlx.hosts.sharing import HostShare
    from gptoss_mlx.kv_store import KVSaved, KVStore, StoredKV
    from gptoss_mlx.memory import MemoryEstimate
    from gptoss_mlx.memory_limits import MemoryReport
    from gptoss_mlx.models import ListedModel, find_model, list_models, remove_model
    from gptoss_mlx.published_fit import published_fit
    from gptoss_mlx.python_sandbox.limits import PythonLimits
    from gptoss_mlx.python_sandbox.tool import make_python_tool
    from gptoss_mlx.stream import Stream
    from gptoss_mlx.tools import RunningCall, Tool, ToolFailure, ToolLimits, ToolSessions, current_call, make_tool
    from gptoss_mlx.tools.browser import BraveSearch, Browser, ExaSearch, FolderBackend, UrlBackend
    from gptoss_mlx.tools.mcp import McpServer

# Whoever imports MLX through this package comes by here first, and MLX reads the limits when it is imported.
set_limits()

_HOMES = {
    "gptoss_mlx.api": ("GptOss", "load"),
    "gptoss_mlx.chat": ("Chat",),
    "gptoss_mlx.convert.conversion": ("ConvertReport", "convert_model"),
    "gptoss_mlx.convert.download": ("DownloadReport", "download"),
    "gptoss_mlx.convert.download_plan": ("DownloadPlan",),
    "gptoss_mlx.convert.fetch": ("FetchOptions",),
    "gptoss_mlx.convert.fit": ("Fit",),
    "gptoss_mlx.convert.landing": ("DownloadProgress",),
    "gptoss_mlx.convert.verify": ("VerifyReport", "verify_model"),
    "gptoss_mlx.events": (
        "ChannelStart",
        "Citation",
        "Done",
        "Event",
        "ParseWarning",
        "PromptProgress",
        "Reply",
        "Source",
        "Stats",
        "TextDelta",
        "ToolCall",
        "ToolResult",
        "TurnsDropped",
    ),
    "gptoss_mlx.harmony": ("Message", "ToolDescription"),
    "gptoss_mlx.hosts.sharing": ("HostShare",),
    "gptoss_mlx.kv_store": ("KVSaved", "KVStore", "StoredKV"),
    "gptoss_mlx.memory": ("MemoryEstimate",),
    "gptoss_mlx.memory_limits": ("MemoryReport",),
    "gptoss_mlx.models": ("ListedModel", "find_model", "list_models", "remove_model"),
    "gptoss_mlx.published_fit": ("published_fit",),
    "gptoss_mlx.python_sandbox.limits": ("PythonLimits",),
    "gptoss_mlx.python_sandbox.tool": ("make_python_tool",),
    "gptoss_mlx.stream": ("Stream",),
    "gptoss_mlx.tools": (
        "RunningCall",
        "Tool",
        "ToolFailure",
        "ToolLimits",
        "ToolSessions",
        "current_call",
        "make_tool",
    ),
    "gptoss_mlx.tools.browser": ("BraveSearch", "Browser", "ExaSearch", "FolderBackend", "UrlBackend"),
    "gptoss_mlx.tools.mcp": ("McpServer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BraveSearch",
    "Browser",
    "Cancelled",
    "ChannelStart",
    "Chat",
    "ChecksumError",
    "Citation",
    "ConfigError",
    "ContextOverflow",
    "ConvertReport",
    "Done",
    "DownloadError",
    "DownloadPlan",
    "DownloadProgress",
    "DownloadReport",
    "EngineClosed",
    "EngineError",
    "Event",
    "ExaSearch",
    "FetchOptions",
    "Fit",
    "FolderBackend",
    "GptOss",
    "GptOssError",
    "HarmonyError",
    "HostLost",
    "HostShare",
    "HostsError",
    "KVSaved",
    "KVStore",
    "ListedModel",
    "McpServer",
    "MemoryEstimate",
    "MemoryReport",
    "Message",
    "ModelNotFound",
    "NotEnoughDisk",
    "NotEnoughMemory",
    "ParseWarning",
    "PeerFailed",
    "PromptProgress",
    "PythonLimits",
    "Reply",
    "RunningCall",
    "SandboxError",
    "Source",
    "Stats",
    "StoreError",
    "StoredKV",
    "Stream",
    "TextDelta",
    "TokenizerError",
    "Tool",
    "ToolCall",
    "ToolDescription",
    "ToolFailure",
    "ToolLimits",
    "ToolResult",
    "ToolServerError",
    "ToolSessions",
    "TurnsDropped",
    "UrlBackend",
    "UsageError",
    "VerifyReport",
    "WeightsError",
    "__version__",
    "convert_model",
    "current_call",
    "download",
    "find_model",
    "list_models",
    "load",
    "make_python_tool",
    "make_tool",
    "published_fit",
    "remove_model",
    "verify_model",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
