"""Leaving the app: what is under way is stopped and saved, what was read is kept, nothing is lost unasked."""

import asyncio
import threading
from time import monotonic

from gptoss_mlx.app.screen_actions import ScreenActions

FINISH_SECONDS = 5.0
"""How long leaving waits for the engine to come to the end of a chunk."""

KEEP_SECONDS = 20.0
"""How long it waits for what was read to be written."""

AGAIN_SECONDS = 2.0
"""How soon Ctrl+C must be pressed again to leave."""


class Leaving(ScreenActions):
    """Ctrl+C and Ctrl+Q."""

    _interrupted = 0.0
    _leaving: asyncio.Event | None = None
    """While the app leaves: set when nobody wants to wait for anything any more."""

    async def keep_place(self) -> None:
        """Keeps the draft and where the reader is."""
        raise NotImplementedError

    def action_interrupt(self) -> None:
        """Ctrl+C: copies what is selected; else stops the answer; else, twice with nothing typed, leaves."""
        selected = self.screen.get_selected_text() or self.chat.composer.selected_text
        now = monotonic()
        if self._leaving is not None:
            self._leaving.set()
        elif selected:
            self.copy_to_clipboard(selected)
        elif self.answers.under_way(self.chat.chat.id) is not None:
            self.action_stop()
        elif self.chat.draft.strip():
            self.chat.tell("Ctrl+Q leaves; your draft is kept. Ctrl+C twice leaves when nothing is typed.")
        elif now - self._interrupted < AGAIN_SECONDS:
            self.run_worker(self.action_quit())
        else:
            self._interrupted = now
            self.chat.tell("Ctrl+C again leaves.")

    async def action_quit(self) -> None:
        """Leaves, beside the keys; again: without waiting for what was read to be kept."""
        if self._leaving is not None:
            self._leaving.set()
            return
        self._leaving = asyncio.Event()
        self.run_worker(self._leave(self._leaving), group="leaving")

    async def _leave(self, hurry: asyncio.Event) -> None:
        await self.keep_place()
        await self.answers.finish(FINISH_SECONDS)
        if not await self._nothing_is_lost():
            self._leaving = None
            return
        if self.kept.unsaved:
            self.notify("Keeping what was read\u2026 Ctrl+C leaves at once.", timeout=KEEP_SECONDS)
            await self._keep_reading(hurry)
        self.kept.close()
        # The engine ends by itself; a chunk that is being read must not hold the terminal.
        threading.Thread(target=self.session.close, name="gptoss-closing", daemon=True).start()
        await asyncio.gather(
            *map(asyncio.to_thread, (self.answers.tool_sessions.close, self.download.close, self.servers.close))
        )
        await self.chat.conversing.finish(FINISH_SECONDS)
        self.exit()

    async def _keep_reading(self, hurry: asyncio.Event) -> None:
        done, end = self.kept.save_all(), monotonic() + KEEP_SECONDS
        while not done.is_set() and not hurry.is_set() and monotonic() < end:
            await asyncio.sleep(0.02)

    async def _nothing_is_lost(self) -> bool:
        """Whether all is in the file, or may be lost."""
        await asyncio.to_thread(self.store.retry)
        if not (unsaved := self.store.unsaved):
            return True
        # Imported when it is asked.
        from gptoss_mlx.app.screens.question import Question

        turns = "1 message is" if unsaved == 1 else f"{unsaved} messages are"
        text = f"{turns} in memory only, and lost when you leave: {self.store.trouble}"
        return await self.push_screen_wait(Question(text, yes="Leave all the same", no="Stay"))
