"""The app's last conversation, gone on with in the line mode: what is said there goes into it."""

from typing import TYPE_CHECKING, cast

from gptoss_mlx.app.recording import Recorder
from gptoss_mlx.app.store import Store
from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.api import GptOss
    from gptoss_mlx.chat import Chat
    from gptoss_mlx.options import OptionArguments
    from gptoss_mlx.stream import Stream


class LastConversation:
    """The conversation in which something was said or changed last. `close` it."""

    def __init__(self) -> None:
        """Raises UsageError when there is none."""
        self._store = Store()
        latest = self._store.latest()
        if latest is None:
            self._store.close()
            raise UsageError("there is no conversation to go on with; begin one with gptoss chat")
        self._conversation = latest
        self._recorder = Recorder(self._store, latest.id)

    @property
    def model(self) -> str | None:
        """Who answered last."""
        return self._conversation.model

    def chat(self, model: "GptOss", options: "OptionArguments") -> "Chat":
        """A chat that stands where the conversation does; `options` go over its settings."""
        settings = self._conversation.settings
        own = {
            name: value
            for name in ("effort", "temperature", "top_p", "max_tokens", "max_reasoning_tokens")
            if (value := getattr(settings, name)) is not None
        }
        merged = cast("OptionArguments", {"date": self._conversation.date, **own, **options})
        return model.chat(developer=settings.instructions, turns=self._recorder.messages, **merged)

    def record(self, chat: "Chat", model: str, last: "Stream | None") -> None:
        """Puts what was said into the conversation. `last` is the stream of the last answer."""
        reply = None if last is None else last.reply
        self._recorder.record(
            chat.turns,
            model=model,
            finish_reason=None if reply is None else reply.finish_reason,
            stats=None if reply is None else reply.stats.to_dict(),
        )

    def close(self) -> None:
        """Closes the file of chats."""
        self._store.close()
