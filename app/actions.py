"""What keys, palette and footer can do in the chat, by name. Each does its work elsewhere; here is what it is about.

A deed that may have to wait for the engine runs beside the keys. One that cannot be done says why, above the composer.
"""

from collections.abc import Coroutine
from typing import Any

from textual.app import App

from gptoss_mlx.app.preferences import EFFORTS
from gptoss_mlx.app.screens.chat import ChatScreen
from gptoss_mlx.errors import GptOssError


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

    # Conversations

    def action_new_chat(self) -> None:
        """A new conversation; an answer under way goes on in the old one."""
        self.act(self.chat.go_to(None))

    def action_search_history(self) -> None:
        """Searches what was typed before."""
        self.chat.composer.action_search_history()
