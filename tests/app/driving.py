"""The app as a person uses it: keys in, the screen's text and the store out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.app import App
from textual.pilot import Pilot

from gptoss_mlx.app.app import GptossApp
from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.place import Place
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.session import Load, ModelSession
from gptoss_mlx.app.store import Store


def screen_text(app: App[Any]) -> str:
    """What a person sees, without colours; blanks at the ends of lines cut off."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()[:height]
    return "\n".join(strip.text[:width].rstrip() for strip in lines)


class Desk:
    """The running app and somebody in front of it."""

    def __init__(self, app: GptossApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def screen(self) -> str:
        return screen_text(self.app)

    @property
    def path(self) -> list[Turn]:
        return self.app.chat.chat.path

    @property
    def draft(self) -> str:
        return self.app.chat.draft

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        await self.pilot.press(*("space" if letter == " " else letter for letter in text))

    async def say(self, text: str) -> None:
        """Types and sends."""
        self.app.chat.set_draft(text)
        await self.pilot.press("enter")

    async def ask(self, text: str) -> Turn:
        """Says it and waits for the whole answer."""
        before = len(self.path)
        await self.say(text)
        await self.until(lambda: len(self.path) >= before + 2 and self.idle)
        return self.path[-1]

    @property
    def idle(self) -> bool:
        return self.app.answers.running is None and all(turn.state != "running" for turn in self.path)

    async def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        """Lets the app go on until the condition holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(0.01)
            if condition():
                return
        raise AssertionError(f"it did not come to that; path {self.path}, screen:\n{self.screen}")

    async def leave(self) -> None:
        """Leaves, and waits until the app ends."""
        await self.app.action_quit()
        await self.until(lambda: self.app._exit, 30)

    async def until_shown(self, text: str, seconds: float = 10) -> None:
        # However it is broken into lines.
        await self.until(lambda: text in " ".join(self.screen.split()), seconds)

    async def until_idle(self) -> None:
        await self.until(lambda: self.idle and self.path and self.path[-1].role == "assistant")


def drive(
    home: Path,
    load: Load,
    work: Callable[[Desk], Awaitable[None]],
    *,
    size: tuple[int, int] = (80, 24),
    **arguments: Any,
) -> None:
    """Runs the app in `home`, does the work, leaves as a person does."""
    home.mkdir(exist_ok=True)

    async def held() -> None:
        session = ModelSession(load)
        app = GptossApp(
            **{
                "model": "scripted",
                "store": Store(home / "chats.sqlite3"),
                "preferences": Preferences(),
                "session": session,
                "place": Place(home / "place.json"),
                **arguments,
            }
        )
        try:
            async with app.run_test(size=size) as pilot:
                desk = Desk(app, pilot)
                await desk.until(lambda: session.state != "none")
                await work(desk)
                if app.is_running:
                    await desk.leave()
        finally:
            session.close()
            app.store.close()

    asyncio.run(held())


def said(desk: Desk) -> list[str]:
    """What each turn on the screen says."""
    return [turn.text or turn.answer for turn in desk.path]
