"""From what the user set to what the engine is asked: settings over preferences, and the path's turns as messages."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final, cast

import gptoss_mlx.harmony as harmony
from gptoss_mlx.app.conversation import TOOL_SETTINGS, ChatSettings, Turn
from gptoss_mlx.app.first_model import usual_effort
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.toolbox import Toolbox

if TYPE_CHECKING:
    from gptoss_mlx.api import GptOss
    from gptoss_mlx.app.answering import Begun
    from gptoss_mlx.app.approval import Approval
    from gptoss_mlx.chat import Chat
    from gptoss_mlx.events import ToolCall
    from gptoss_mlx.harmony import Message
    from gptoss_mlx.options import OptionArguments
    from gptoss_mlx.tools import ToolSessions

NO_RESULT: Final = "Error: the call was cut off before it gave a result."
"""What the model reads where a call has no result."""


def settle(settings: ChatSettings, preferences: Preferences, model: str | None) -> ChatSettings:
    """The settings that hold: the conversation's own, and the preferences' where it has none. The effort that nobody
    chose is the model's usual one."""
    settled = ChatSettings(
        **{
            field.name: getattr(preferences, field.name, None)
            if getattr(settings, field.name) is None
            else getattr(settings, field.name)
            for field in fields(ChatSettings)
        }
    )
    return settled if settled.effort is not None else replace(settled, effort=usual_effort(model))


def make_chat(
    model: "GptOss",
    path: Sequence[Turn],
    settings: ChatSettings,
    toolbox: Toolbox,
    *,
    date: str,
    overflow: str,
    approval: "Approval | None" = None,
    sessions: "ToolSessions | None" = None,
) -> "Chat":
    """A chat that stands where the path ends. `settings` are settled ones; `overflow` as in the preferences; `approval`
    decides on calls of tools, and `sessions` are what these keep between calls."""
    options: dict[str, object] = {
        field.name: value
        for field in fields(ChatSettings)
        if field.name not in ("instructions", *TOOL_SETTINGS) and (value := getattr(settings, field.name)) is not None
    }
    options |= {"date": date, "overflow": overflow}
    if tools := toolbox.offered(settings.tools_off or (), python=bool(settings.python)):
        options |= {"tools": tools, "approve": _nobody if approval is None else approval.ask}
    messages = [message for turn in path for message in _messages(turn, model.name)]
    return model.chat(
        developer=settings.instructions or None,
        turns=messages,
        sessions=sessions,
        **cast("OptionArguments", options),
    )


def begin_answer(
    model: "GptOss",
    path: Sequence[Turn],
    settings: ChatSettings,
    toolbox: Toolbox,
    *,
    date: str,
    overflow: str,
    approval: "Approval",
    sessions: "ToolSessions",
    goes_on: bool = False,
) -> "Begun":
    """Asks the engine for the answer to the path's last turn, or (`goes_on`) to go on with it.

    Raises ContextOverflow and UsageError before any work.
    """
    from gptoss_mlx.app.answering import Begun

    chat = make_chat(model, path, settings, toolbox, date=date, overflow=overflow, approval=approval, sessions=sessions)
    said = sum(len(_messages(turn, model.name)) for turn in (path[:-1] if goes_on else path))
    # Events begin with what was said since the last result.
    own = chat.turns[said:]
    before = next((own[:at] for at in range(len(own), 0, -1) if own[at - 1].role == "tool"), [])
    stream = chat.stream_continue() if goes_on else chat.stream_regenerate()
    return Begun(chat, stream, said, model.context_limit, tuple(before))


def count_context(
    model: "GptOss", path: Sequence[Turn], settings: ChatSettings, toolbox: Toolbox, *, date: str, overflow: str
) -> int:
    """Tokens of the path as the model would read it, without what would be left out. Encodes all of it: for a thread
    of its own."""
    return make_chat(model, path, settings, toolbox, date=date, overflow=overflow).context_used


def _nobody(call: "ToolCall") -> bool:
    """Stands where only the prompt is made."""
    return False


def _messages(turn: Turn, model: str) -> "Sequence[Message]":
    """What was said in a turn, each call with a result.

    Sampled ids belong to one vocabulary: for another model the text is encoded anew.
    """
    # The first paint is without them.
    from gptoss_mlx.app.turn_parts import turn_parts

    messages = turn.messages
    if turn.role == "user":
        return messages
    if turn.model != model:
        messages = tuple(replace(message, tokens=None) for message in messages)
    # The app was killed while a tool ran, or the tool is not offered any more.
    open_calls = [part.name for part in turn_parts(messages) if part.kind == "tool" and part.result is None]
    return [*messages, *(harmony.tool_result(messages, name, NO_RESULT) for name in open_calls)]
