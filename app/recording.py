"""Between the store's turns and a plain list of messages: importing a saved chat, and recording one that goes on.

For chats that are held elsewhere: in a file of `Chat.save`, or line by line in the terminal. Knows no Textual.
"""

import datetime
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import takewhile
from typing import Any

from gptoss_mlx.app.conversation import ChatSettings, Conversation, Turn
from gptoss_mlx.app.store import Store
from gptoss_mlx.chat_file import read_chat_file
from gptoss_mlx.harmony import Message


def import_chat(store: Store, path: str | os.PathLike[str]) -> Conversation:
    """The chat of a file that `Chat.save` (or `/save`) wrote, as a conversation of its own.

    Tools that it offered are left out: the app offers its own. Raises UsageError and HarmonyError for a file that is
    none.
    """
    saved = read_chat_file(path)
    known = {field.name for field in fields(ChatSettings)}
    settings = ChatSettings(
        instructions=saved.instructions, **{name: value for name, value in saved.options.items() if name in known}
    )
    date = saved.options.get("date") or datetime.date.today().isoformat()
    conversation = store.create(settings=settings, date=date, model=saved.model)
    messages = saved.messages
    if saved.vocab_size is None:
        # Ids of an unknown vocabulary say nothing.
        messages = tuple(replace(message, tokens=None) for message in messages)
    Recorder(store, conversation.id).record(messages, model=saved.model)
    return store.get(conversation.id)


class Recorder:
    """Keeps the store's conversation as a chat that is held elsewhere."""

    def __init__(self, store: Store, conversation: int) -> None:
        self._store = store
        self._conversation = store.get(conversation)
        self._path = store.path(conversation, self._conversation.leaf)

    @property
    def messages(self) -> list[Message]:
        """What was said so far."""
        return [message for turn in self._path for message in turn.messages]

    def record(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        finish_reason: str | None = None,
        stats: Mapping[str, Any] | None = None,
    ) -> None:
        """What was said is `messages` now: new turns are added, a changed one becomes a branch beside the old.

        With none left, what follows is a conversation of its own. `finish_reason` and `stats` are the last answer's.
        """
        groups = _turns(messages)
        same = sum(
            1 for _ in takewhile(lambda pair: pair[0].messages == pair[1], zip(self._path, groups, strict=False))
        )
        if not groups and self._path:
            old = self._conversation
            self._conversation = self._store.create(settings=old.settings, date=old.date, model=model)
        elif same < len(self._path):
            self._store.set_leaf(self._conversation.id, self._path[same - 1].id if same else None)
        self._path = self._path[:same]
        for number, group in enumerate(groups[same:], same):
            last = number == len(groups) - 1
            turn = _turn(group, self._path[-1].id if self._path else None, model)
            if last and turn.role == "assistant":
                turn = _ended(turn, finish_reason, stats)
            self._path.append(self._store.add_turn(self._conversation.id, turn))


def _turns(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    """The messages by who has the say: a user's alone, all that the model says to it together."""
    groups: list[list[Message]] = []
    for message in messages:
        if message.role == "user" or not groups or groups[-1][0].role == "user":
            groups.append([message])
        else:
            groups[-1].append(message)
    return [tuple(group) for group in groups]


def _turn(group: tuple[Message, ...], parent: int | None, model: str) -> Turn:
    now = time.time()
    if group[0].role == "user":
        return Turn(0, parent, "user", group, text=group[0].text, created=now)
    return Turn(0, parent, "assistant", group, created=now, model=model)


def _ended(turn: Turn, finish_reason: str | None, stats: Mapping[str, Any] | None) -> Turn:
    stopped = finish_reason in ("cancelled", "length", "context")
    return replace(
        turn, state="stopped" if stopped else "complete", finish_reason=finish_reason, stats=dict(stats or {})
    )
