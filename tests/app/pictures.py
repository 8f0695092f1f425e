"""Makes the README's pictures of the app: `make screenshots`. The pocket model answers, for real, with a fixed seed.

What it says is the same every time; how fast, depends on the machine that makes them.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gptoss_mlx.app.app import GptossApp
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.themes import DARK, LIGHT
from tests.app.driving import Desk

FOLDER: Final = Path(__file__).parents[2] / "app" / "pictures"

QUESTIONS: Final = ("What is 17 plus 25?", "What are attention sinks?", "How many experts does gpt-oss-20b have?")


async def chat(desk: Desk) -> None:
    """A short conversation, its last reasoning unfolded."""
    for question in QUESTIONS:
        await desk.ask(question)
    await desk.press("ctrl+o", "tab")
    await desk.until_shown("Enter fold")


async def statistics(desk: Desk) -> None:
    """The same on a wide screen, with the figures of the last answer."""
    for question in QUESTIONS:
        await desk.ask(question)
    await desk.press("f2")
    await desk.until_shown("prompt read in")


async def models(desk: Desk) -> None:
    """The models screen as it is at first."""
    await desk.press("f4")
    await desk.until_shown("13.8 GB to get")


async def conversations(desk: Desk) -> None:
    """The list of conversations, searched."""
    for question in QUESTIONS:
        await desk.press("ctrl+n")
        await desk.until(lambda: desk.path == [])
        await desk.ask(question)
    await desk.press("f3")
    await desk.until_shown("Enter open")
    await desk.press(*"sink")
    await desk.pilot.pause(1.0)


PICTURES: Final[dict[str, tuple[Callable[[Desk], Awaitable[None]], tuple[int, int], str]]] = {
    "chat": (chat, (80, 30), DARK.name),
    "statistics": (statistics, (120, 32), DARK.name),
    "models": (models, (80, 24), LIGHT.name),
    "conversations": (conversations, (80, 24), LIGHT.name),
}
"""Name of the file, what is done for it, columns and rows, theme."""


def main() -> None:
    """Makes all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, (scene, size, theme) in PICTURES.items():
        with tempfile.TemporaryDirectory() as home:
            os.environ["GPTOSS_HOME"] = home
            picture = asyncio.run(take(scene, size, theme))
        (FOLDER / f"{name}.svg").write_text(picture, encoding="utf-8")
        print(FOLDER / f"{name}.svg")


async def take(scene: Callable[[Desk], Awaitable[None]], size: tuple[int, int], theme: str) -> str:
    """The scene as SVG."""
    app = GptossApp(model="pocket", preferences=Preferences(theme=theme), defaults={"seed": 7}, date="2026-03-17")
    async with app.run_test(size=size) as pilot:
        desk = Desk(app, pilot)
        await desk.until(lambda: app.session.state == "ready", 120)
        await scene(desk)
        await pilot.pause(0.5)
        picture = app.export_screenshot(title="gptoss")
        await desk.leave()
    app.session.close()
    app.store.close()
    return picture


if __name__ == "__main__":
    main()
