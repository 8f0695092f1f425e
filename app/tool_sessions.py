"""What tools keep of conversations between their calls: an interpreter each, while the conversation is in use.

An answer is made with a chat of its own, so what has to outlast it is here. Only a few live at a time: a conversation
that was left for long begins anew, which its model is told.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gptoss_mlx.tools import ToolSessions

AT_ONCE: Final = 4
"""Conversations whose tools keep something."""


class ConversationSessions:
    """For the app's loop; `close` may be called on any thread."""

    def __init__(self) -> None:
        self._held: dict[int, ToolSessions] = {}
        """By conversation, the one used last at the end."""

    def of(self, conversation: int) -> "ToolSessions":
        """What the tools of that conversation keep."""
        # Not needed before the first answer.
        from gptoss_mlx.tools import ToolSessions

        sessions = self._held.pop(conversation, None) or ToolSessions()
        self._held[conversation] = sessions
        while len(self._held) > AT_ONCE:
            self._held.pop(next(iter(self._held))).close()
        return sessions

    def forget(self, gone: Callable[[int], bool]) -> None:
        """Lets go of what belongs to conversations that are gone."""
        for conversation in [known for known in self._held if gone(known)]:
            self._held.pop(conversation).close()

    def close(self) -> None:
        """Lets go of everything."""
        held, self._held = self._held, {}
        for sessions in held.values():
            sessions.close()
