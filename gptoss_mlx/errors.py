"""Every error that a user can cause, in one tree.

    GptOssError
    ├── UsageError               an argument that cannot be used as it is
    ├── ModelNotFound            no model under this name or in this folder
    ├── ConfigError              config.json says what this code does not run
    ├── WeightsError             a tensor or a weights file is missing, damaged or of the wrong kind
    ├── TokenizerError           tokenizer.json is missing, damaged or of another kind
    ├── HarmonyError             a conversation that harmony cannot express, or (strict mode) a broken stream
    ├── ContextOverflow          the conversation does not fit the context length
    ├── NotEnoughMemory          the model or the request does not fit this machine
    ├── NotEnoughDisk            the files do not fit this disk
    ├── SandboxError             there is nothing here to run a model's code in safely
    ├── StoreError               the file of conversations is of another kind, or cannot be read
    ├── DownloadError            the hub or the network failed
    │   └── ChecksumError        a file arrived with the wrong bytes
    ├── ToolServerError          a server of tools (MCP) cannot be started, or does not speak the protocol
    ├── EngineError              the engine thread failed; the cause is attached
    │   └── EngineClosed         the engine was used after it was closed
    ├── HostsError               a host cannot take part: out of reach, another version, no or another model
    │   └── HostLost             a host that took part is gone, or says nothing any more
    ├── PeerFailed               another machine that has a part of the model failed
    └── Cancelled                the caller stopped the work

A message is one sentence that names the value and the file, then what was expected, then what to do.
"""

__all__ = [
    "Cancelled",
    "ChecksumError",
    "ConfigError",
    "ContextOverflow",
    "DownloadError",
    "EngineClosed",
    "EngineError",
    "GptOssError",
    "HarmonyError",
    "HostLost",
    "HostsError",
    "ModelNotFound",
    "NotEnoughDisk",
    "NotEnoughMemory",
    "PeerFailed",
    "SandboxError",
    "StoreError",
    "TokenizerError",
    "ToolServerError",
    "UsageError",
    "WeightsError",
]


class GptOssError(Exception):
    """The root of every error that a user can cause."""


class UsageError(GptOssError, ValueError):
    """An argument is out of range or contradicts another."""


class ModelNotFound(GptOssError):
    """No model has this name, or the folder holds none."""


class ConfigError(GptOssError):
    """config.json is missing, damaged, or asks for something that would change the model and is not supported."""


class WeightsError(GptOssError):
    """A tensor is missing, extra, of the wrong shape or dtype, not finite, or its file is damaged."""


class TokenizerError(GptOssError):
    """tokenizer.json is missing, damaged, or not a byte-level BPE like gpt-oss's."""


class HarmonyError(GptOssError):
    """A conversation that the harmony format cannot express, or, in strict parsing, a malformed stream."""


class ContextOverflow(GptOssError):
    """The conversation does not fit the context length; nothing was dropped."""

    def __init__(self, prompt_tokens: int, context_limit: int) -> None:
        self.prompt_tokens = prompt_tokens
        """Tokens of the rendered conversation."""
        self.context_limit = context_limit
        """Tokens that the model was loaded for."""
        super().__init__(
            f"the conversation is {prompt_tokens} tokens and the context length is {context_limit}: at least one token "
            "must be left for the answer; shorten it, undo turns, load the model with a larger context, or let "
            'overflow="drop_oldest" leave the oldest turns out'
        )


class NotEnoughMemory(GptOssError):
    """The model or the request does not fit this machine's memory."""


class NotEnoughDisk(GptOssError):
    """The files do not fit the free space of this disk."""


class SandboxError(GptOssError):
    """The code of a model cannot be run in a sandbox on this machine."""


class StoreError(GptOssError):
    """The file of conversations is of a newer version, another program's, or cannot be read."""


class DownloadError(GptOssError):
    """The hub could not be reached or refused."""


class ChecksumError(DownloadError):
    """A file's bytes are not those that the hub announced."""


class ToolServerError(GptOssError):
    """A server of tools (MCP) cannot be started, or does not speak the protocol."""


class EngineError(GptOssError):
    """The engine thread failed; `__cause__` holds the original exception."""


class EngineClosed(EngineError):
    """The model was used after `close()`."""


class HostsError(GptOssError):
    """A host cannot take part: it is out of reach, runs another version, or lacks the model."""


class HostLost(HostsError):
    """A host that took part is gone, or says nothing any more. The next request starts the hosts again."""


class PeerFailed(GptOssError):
    """Another machine that has a part of the model failed, or cannot be reached."""


class Cancelled(GptOssError):
    """The caller stopped the work before it had a result."""
