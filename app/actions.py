"""What keys, palette and footer can do in the chat, by name. Each does its work elsewhere; here is what it is about.

A deed that may have to wait for the engine runs beside the keys. One that cannot be done says why, above the composer.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from textual.app import App

from gptoss_mlx.app.clipboard import copy_text
from gptoss_mlx.app.conversation import Conversation, Turn
from gptoss_mlx.app.preferences import EFFORTS
from gptoss_mlx.app.screens.chat import ChatScreen
from gptoss_mlx.app.source_text import last_code_block, turn_text
from gptoss_mlx.errors import GptOssError, UsageError


class ChatActions(App[None]):
    """The actions of the chat screen."""

    chat: ChatScreen

    def act(self, deed: Coroutine[Any, Any, None]) -> None:
        """Does it beside the keys; tells what went wrong."""

        async def tried() -> None:
            try:
                await deed
            except GptOssError as error:
                self.chat.tell(str(error))

        self.run_worker(tried())

    # Answers

    def action_stop(self) -> None:
        """Stops the answer; what came is kept."""
        self.chat.conversing.stop()

    def action_answer_now(self) -> None:
        """Cuts the thinking short."""
        self.chat.conversing.answer_now()

    def action_regenerate(self) -> None:
        """A second answer beside the one that is selected, or the last."""
        self.act(self.chat.conversing.regenerate(self.chat.selected))

    def action_continue_answer(self) -> None:
        """The answer that was cut short goes on."""
        self.act(self.chat.conversing.go_on())

    def action_cycle_effort(self) -> None:
        """The next effort, from the next answer on."""
        now = self.chat.settings.effort or "medium"
        effort = EFFORTS[(EFFORTS.index(now) + 1) % len(EFFORTS)] if now in EFFORTS else "medium"
        self.chat.change_effort(effort)

    # Turns

    def action_edit_turn(self) -> None:
        """Puts the selected message, or the last one, into the composer."""
        self.act(self.chat.conversing.edit(self.chat.selected))

    def action_undo(self) -> None:
        """Takes the last message back into the composer."""
        self.act(self.chat.conversing.undo())

    def action_previous_branch(self) -> None:
        """The branch before, at the selected turn or at the last place with branches."""
        self.act(self.chat.conversing.branch(self.chat.selected, -1))

    def action_next_branch(self) -> None:
        """The branch after."""
        self.act(self.chat.conversing.branch(self.chat.selected, 1))

    def action_toggle_reasoning(self) -> None:
        """Unfolds all reasoning, or folds it."""
        self.chat.transcript.toggle_all_reasoning()

    # Copying: from the source text, never from the screen

    def action_copy_message(self) -> None:
        """Copies the selected message, or the last answer."""
        self.act(self._copy(lambda: turn_text(self.chat.pointed_at)))

    def action_copy_code(self) -> None:
        """Copies the last block of code of the selected message, or of the last answer."""
        self.act(self._copy(lambda: _code(self.chat.pointed_at)))

    def action_copy_chat(self) -> None:
        """Copies the conversation on the screen as Markdown."""
        chat = self.chat.chat
        self.act(self._copy(lambda: "" if chat.conversation is None else _markdown(chat.conversation, chat.path)))

    async def _copy(self, text: Callable[[], str]) -> None:
        self.notify(await copy_text(text(), self._to_terminal), markup=False)

    def _to_terminal(self, sequence: str) -> None:
        if self._driver is not None:
            self._driver.write(sequence)

    # Conversations

    def action_new_chat(self) -> None:
        """A new conversation; an answer under way goes on in the old one."""
        self.act(self.chat.go_to(None))

    def action_search_history(self) -> None:
        """Searches what was typed before."""
        self.chat.composer.action_search_history()


def _code(turn: Turn) -> str:
    block = last_code_block(turn_text(turn))
    if block is None:
        raise UsageError("there is no code in this message")
    return block.code


def _markdown(conversation: Conversation, path: Sequence[Turn]) -> str:
    # Not needed for the first paint.
    from gptoss_mlx.app.export import render_chat

    return render_chat(conversation, path, "markdown")
