"""Screens by themselves: a small app around one of them."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static

from gptoss_mlx.app.themes import DARK, OWN_THEMES

Work = Callable[[Pilot[None]], Awaitable[None]]


class Around(App[None]):
    """An app with the project's style and nothing of its own."""

    CSS_PATH = str(files("gptoss_mlx.app").joinpath("app.tcss"))

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Any] = []
        for theme in OWN_THEMES:
            self.register_theme(theme)
        self.theme = DARK.name


def run_screen(make: Callable[[], Screen[Any]], work: Work, size: tuple[int, int] = (80, 24)) -> list[Any]:
    """Opens the screen, does the work; what the screen gave when it closed."""

    async def held() -> list[Any]:
        app = Around()
        async with app.run_test(size=size) as pilot:
            await app.push_screen(make(), app.results.append)
            await pilot.pause()
            await work(pilot)
            await pilot.pause()
        return app.results

    return asyncio.run(held())


async def until(pilot: Pilot[None], condition: Callable[[], object], seconds: float = 10) -> None:
    """Lets the app go on until the condition holds."""
    for _ in range(int(seconds / 0.01)):
        await pilot.pause(0.01)
        if condition():
            return
    raise AssertionError(f"it did not come to that; the screen says {said(pilot)!r}")


def said(pilot: Pilot[None]) -> str:
    """All text of the screen that is on top, line by line, as a person sees it."""
    return screen_text(pilot.app)


def screen_text(app: App[Any]) -> str:
    """The text of the screen, without colours; blanks at the ends of lines cut off."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()[:height]
    return "\n".join(strip.text[:width].rstrip() for strip in lines)


def note(pilot: Pilot[None]) -> str:
    """What a sheet says at its bottom."""
    return str(pilot.app.screen.query_one(".note", Static).content)
