"""What the parts of the app tell one another: Textual messages, posted by the chat screen and the app.

Whoever shows something of the model or of an answer under way (status line, statistics) listens to these and asks
nobody. All of an answer's messages are about the conversation on the screen; an answer that goes on behind another
conversation posts none.
"""

from typing import TYPE_CHECKING

from textual.message import Message

from gptoss_mlx.app.conversation import Turn

if TYPE_CHECKING:
    from gptoss_mlx.events import PromptProgress


class SessionChanged(Message):
    """The model was closed, began to load, came further, is ready, or failed: see `app.session`."""

    def can_replace(self, message: Message) -> bool:
        """Only how it stands now matters."""
        return isinstance(message, SessionChanged)


class DownloadChanged(Message):
    """The download of a model began, came further, or ended: see `app.download`."""

    def can_replace(self, message: Message) -> bool:
        """Only how it stands now matters."""
        return isinstance(message, DownloadChanged)


class ReadingKept(Message):
    """What was read of a conversation is in its file: see `app.kept`."""

    def can_replace(self, message: Message) -> bool:
        """Only how it stands now matters."""
        return isinstance(message, ReadingKept)


class TurnStarted(Message):
    """An answer is under way: its prompt is being read."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn


class TurnProgress(Message):
    """How far the prompt has been read."""

    def __init__(self, progress: "PromptProgress") -> None:
        super().__init__()
        self.progress = progress


class TurnSpeed(Message):
    """How fast the answer comes; a few times a second."""

    def __init__(self, tokens: int, tokens_per_second: float, ttft_seconds: float) -> None:
        super().__init__()
        self.tokens = tokens
        """Generated so far."""
        self.tokens_per_second = tokens_per_second
        """Since the first token."""
        self.ttft_seconds = ttft_seconds
        """From the request to the first text."""


class TurnFinished(Message):
    """The answer is over: complete, stopped or failed (`turn.state`); it is saved."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn


class ContextChanged(Message):
    """How much of the context length the conversation on the screen takes."""

    def __init__(self, used: int, limit: int) -> None:
        super().__init__()
        self.used = used
        """Tokens of the conversation as the model reads it, the answer so far included."""
        self.limit = limit
        """Tokens that the model was loaded for."""


class SettingsChanged(Message):
    """Effort, instructions or limits of the conversation on the screen changed, or another conversation is on it: see
    `app.chat_settings`."""


class ServersChanged(Message):
    """A server of tools started, failed, crashed, has other tools or something to say."""


class ServersAwaited(Message):
    """An answer waits for servers of tools that start."""


class SaveFailed(Message):
    """What was said could not be saved: the disk is full, for example. It is tried again while the answer goes on."""

    def __init__(self, error: str) -> None:
        super().__init__()
        self.error = error
