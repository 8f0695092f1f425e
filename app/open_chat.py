"""The conversation on the screen: its path from the root to where the reader is, and the ways to change it.

Every change is in the store before it is on the screen. A conversation comes into being with its first message. Knows
no widgets.
"""

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gptoss_mlx.app.conversation import Attachment, ChatSettings, Conversation, Turn
from gptoss_mlx.app.store import Store
from gptoss_mlx.errors import UsageError

if TYPE_CHECKING:
    from gptoss_mlx.harmony import Message


class OpenChat:
    """What is on the screen."""

    def __init__(self, store: Store, date: str | None = None) -> None:
        """`date`: what models are told as the date in conversations that begin now; None: today's."""
        self._store = store
        self._date = date
        self.conversation: Conversation | None = None
        """None until something was said."""
        self.settings = ChatSettings()
        """The conversation's own; those of the preferences are not in it."""
        self.path: list[Turn] = []
        """Root to leaf."""

    @property
    def id(self) -> int | None:
        """Of the conversation; None until something was said."""
        return None if self.conversation is None else self.conversation.id

    @property
    def leaf(self) -> int | None:
        """Where the next message goes."""
        return self.path[-1].id if self.path else None

    @property
    def date(self) -> str:
        """What the model is told as the date."""
        if self.conversation is not None:
            return self.conversation.date
        return self._date or datetime.date.today().isoformat()

    def open(self, conversation: int | None) -> None:
        """Turns to that conversation, where the reader left it; None: to one in which nothing was said."""
        self.conversation = None if conversation is None else self._store.get(conversation)
        self.settings = ChatSettings() if self.conversation is None else self.conversation.settings
        self.path = [] if self.conversation is None else self._store.path(self.conversation.id, self.conversation.leaf)

    def siblings(self, turns: Sequence[Turn] | None = None) -> dict[int, Sequence[int]]:
        """The branches beside each turn of the path (or each of `turns`), itself included."""
        return dict(self._store.branches(self.path if turns is None else turns))

    def change_settings(self, settings: ChatSettings) -> None:
        """From the next answer on."""
        self.settings = settings
        if self.conversation is not None:
            self._store.change(self.conversation.id, settings=settings)
            self.conversation = replace(self.conversation, settings=settings)

    def say(self, text: str, message: "Message", attachments: Sequence[Attachment]) -> Turn:
        """The user's turn, after the leaf; the first one makes the conversation."""
        if self.conversation is None:
            self.conversation = self._store.create(settings=self.settings, date=self.date)
        turn = Turn(
            0,
            self.leaf,
            "user",
            (message,),
            text=text,
            attachments=tuple(attachments),
            created=time.time(),
        )
        turn = self._store.add_turn(self.conversation.id, turn)
        self.path.append(turn)
        if len(self.path) == 1:
            # It has its title now.
            self.conversation = self._store.get(self.conversation.id)
        return turn

    def put(self, turn: Turn) -> None:
        """The turn is on the path as it is now: an answer that begins at the leaf, or one that changed."""
        for index, known in enumerate(self.path):
            if known.id == turn.id:
                self.path[index] = turn
                return
        if turn.parent == self.leaf:
            self.path.append(turn)

    def cut(self, leaf: int | None) -> None:
        """Goes back to that turn; what follows stays in the store as a branch."""
        if self.conversation is not None:
            self._store.set_leaf(self.conversation.id, leaf)
        kept = next((index + 1 for index, turn in enumerate(self.path) if turn.id == leaf), 0)
        self.path = self.path[:kept]

    def running_elsewhere(self, own: int | None) -> Turn | None:
        """The answer on the path that another app gives (one that is not `own`); it can be read here only."""
        last = next((turn for turn in reversed(self.path) if turn.state == "running"), None)
        return None if last is None or last.id == own else last

    def look_again(self, turn: Turn) -> Turn:
        """The turn as the store has it now."""
        self._store.mark_interrupted()
        now = self._store.turn(turn.id)
        self.put(now)
        return now

    def user_turn(self, at: Turn | None = None) -> Turn:
        """The user's turn meant by `at`: itself, the one it answers, or the last one. Raises UsageError without one."""
        turns = self.path
        if at is not None:
            turns = turns[: next((index + 1 for index, turn in enumerate(turns) if turn.id == at.id), len(turns))]
        for turn in reversed(turns):
            if turn.role == "user":
                return turn
        raise UsageError("nothing was said yet; write a message first")

    def cut_short(self) -> Turn:
        """The last answer, if it can go on. Raises UsageError, saying why it cannot."""
        last = self.path[-1] if self.path else None
        if last is None or last.role != "assistant":
            raise UsageError("there is no answer to go on with; send a message, or have the last one answered again")
        if last.state not in ("stopped", "failed"):
            raise UsageError("the last answer is complete; only one that was stopped can go on")
        if not last.messages:
            raise UsageError("nothing was said yet in the last answer; have the message answered again")
        return last

    def turn_branch(self, at: Turn | None, step: int) -> int | None:
        """Goes `step` branches on, at that turn or at the last one that has branches; the path is the new one.

        Gives the turn below which it differs (None: from the first on). Raises UsageError where there is no other.
        """
        assert self.conversation is not None or not self.path
        for turn in [at] if at is not None else reversed(self.path):
            beside = self._store.siblings(turn)
            if len(beside) < 2 or self.conversation is None:
                continue
            other = beside[(beside.index(turn.id) + step) % len(beside)]
            leaf = self._store.deepest(other)
            self._store.set_leaf(self.conversation.id, leaf)
            self.path = self._store.path(self.conversation.id, leaf)
            return turn.parent
        raise UsageError("there is no other branch here; edit a message or have it answered again to make one")
