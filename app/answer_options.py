"""From what the user set to what the engine is asked: settings over preferences, and the path's turns as messages."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, cast

from gptoss_mlx.app.conversation import ChatSettings, Turn
from gptoss_mlx.app.first_model import usual_effort
from gptoss_mlx.app.preferences import Preferences

if TYPE_CHECKING:
    from gptoss_mlx.api import GptOss
    from gptoss_mlx.app.answering import Begun
    from gptoss_mlx.chat import Chat
    from gptoss_mlx.harmony import Message
    from gptoss_mlx.options import OptionArguments


def settle(settings: ChatSettings, preferences: Preferences, model: str | None) -> ChatSettings:
    """The settings that hold: the conversation's own, and the preferences' where it has none. The effort that nobody
    chose is the model's usual one."""
    settled = ChatSettings(
        **{
            field.name: getattr(preferences, field.name)
            if getattr(settings, field.name) is None
            else getattr(settings, field.name)
            for field in fields(ChatSettings)
        }
    )
    return settled if settled.effort is not None else replace(settled, effort=usual_effort(model))


def make_chat(model: "GptOss", path: Sequence[Turn], settings: ChatSettings, *, date: str, overflow: str) -> "Chat":
    """A chat that stands where the path ends. `settings` are settled ones; `overflow` as in the preferences."""
    options: dict[str, object] = {
        field.name: value
        for field in fields(ChatSettings)
        if field.name != "instructions" and (value := getattr(settings, field.name)) is not None
    }
    options |= {"date": date, "overflow": overflow}
    messages = [message for turn in path for message in _messages(turn, model.name)]
    return model.chat(developer=settings.instructions or None, turns=messages, **cast("OptionArguments", options))


def begin_answer(
    model: "GptOss",
    path: Sequence[Turn],
    settings: ChatSettings,
    *,
    date: str,
    overflow: str,
    goes_on: bool = False,
) -> "Begun":
    """Asks the engine for the answer to the path's last turn, or (`goes_on`) to go on with it.

    Raises ContextOverflow and UsageError before any work.
    """
    from gptoss_mlx.app.answering import Begun

    chat = make_chat(model, path, settings, date=date, overflow=overflow)
    said = sum(len(turn.messages) for turn in (path[:-1] if goes_on else path))
    stream = chat.stream_continue() if goes_on else chat.stream_regenerate()
    return Begun(chat, stream, said, model.context_limit)


def count_context(model: "GptOss", path: Sequence[Turn], settings: ChatSettings, *, date: str, overflow: str) -> int:
    """Tokens of the path as the model would read it, without what would be left out. Encodes all of it: for a thread
    of its own."""
    return make_chat(model, path, settings, date=date, overflow=overflow).context_used


def _messages(turn: Turn, model: str) -> "Sequence[Message]":
    """What was said in a turn. Sampled ids belong to one vocabulary: for another model the text is encoded anew."""
    if turn.role == "user" or turn.model == model:
        return turn.messages
    return [replace(message, tokens=None) for message in turn.messages]
