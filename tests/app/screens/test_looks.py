"""The main screens at three sizes, compared with how they looked when somebody last looked at them.

Compared is the text, cell by cell, so that neither fonts nor the machine's speed matter.
`python -m tests.app.screens.test_looks` writes how the screens look now into `looks/`; look at the difference before
committing it.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path

import pytest
from rich.color import Color
from textual.color import Color as Shade

from gptoss_mlx.app.app import GptossApp
from gptoss_mlx.app.themes import DARK, LIGHT
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.driving import Desk, screen_text
from tests.app.scenes import SCENES, make_app
from tests.app.scripted_engine import ScriptedLoad

LOOKS = Path(__file__).parent / "looks"

SIZES = ((60, 15), (80, 24), (220, 60))

LEAST_CONTRAST = 3.0
"""Of text against its background, in our own themes; what the WCAG asks of large text and of signs."""


def show(home: Path, tokenizer: Tokenizer, scene: str, size: tuple[int, int], theme: str) -> tuple[str, list[str]]:
    """The scene's text, and what in it is hard to read."""

    async def held() -> tuple[str, list[str]]:
        app = make_app(home, ScriptedLoad(tokenizer), theme)
        try:
            async with app.run_test(size=size) as pilot:
                desk = Desk(app, pilot)
                await desk.until_shown(" of 8,192" if size[0] > 100 else " %")
                await SCENES[scene](desk)
                before, now = "", sheet_text(app)
                # Until workers have painted what they paint.
                while before != now:
                    await pilot.pause(0.1)
                    before, now = now, sheet_text(app)
                faint = hard_to_read(app)
                await desk.leave()
                return now + "\n", faint
        finally:
            app.session.close()
            app.store.close()

    return asyncio.run(held())


def sheet_text(app: GptossApp) -> str:
    """The text of the sheet that is on top, without what is beside it; of the screen, where there is none."""
    text = screen_text(app)
    sheets = app.screen.query(".sheet")
    if not sheets:
        return text
    region = sheets.first().region
    lines = text.split("\n")[region.y : region.bottom]
    return "\n".join(line[region.x : region.right].rstrip() for line in lines)


def hard_to_read(app: GptossApp) -> list[str]:
    """Pieces of text whose colour is too near to that behind them."""
    return [
        f"{segment.text.strip()!r}: {segment.style.color} on {segment.style.bgcolor}"
        for strip in app.screen._compositor.render_strips()
        for segment in strip
        if segment.style is not None
        and any(character.isalnum() for character in segment.text)
        and contrast(segment.style.color, segment.style.bgcolor) < LEAST_CONTRAST
    ]


def contrast(one: Color | None, other: Color | None) -> float:
    """The contrast ratio of two colours, as the WCAG reckons it; of unknown ones, none."""
    if one is None or other is None:
        return 1.0
    lights = sorted(luminance(Shade.from_rich_color(colour)) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: Shade) -> float:
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize(
    "size",
    [SIZES[1], *(pytest.param(size, marks=pytest.mark.slow) for size in (SIZES[0], SIZES[2]))],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
@pytest.mark.parametrize("scene", SCENES)
def test_a_screen_looks_as_it_did(home: Path, pocket_tokenizer: Tokenizer, scene: str, size: tuple[int, int]) -> None:
    text, faint = show(home, pocket_tokenizer, scene, size, DARK.name)
    assert text == look_file(scene, size).read_text(encoding="utf-8")
    # On a large screen there is some of the chat beside a sheet, and it is dimmed.
    assert faint == [] or size == (220, 60)


@pytest.mark.parametrize("scene", SCENES)
def test_a_screen_says_the_same_in_the_light_theme_and_can_be_read(
    home: Path, pocket_tokenizer: Tokenizer, scene: str
) -> None:
    text, faint = show(home, pocket_tokenizer, scene, (80, 24), LIGHT.name)
    assert text == look_file(scene, (80, 24)).read_text(encoding="utf-8")
    assert faint == []


def look_file(scene: str, size: tuple[int, int]) -> Path:
    return LOOKS / f"{scene}-{size[0]}x{size[1]}.txt"


def write_looks() -> None:
    """Writes all of them."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    tokenizer = Tokenizer.from_file(POCKET_FOLDER / "tokenizer.json")
    LOOKS.mkdir(exist_ok=True)
    for scene in SCENES:
        for size in SIZES:
            with tempfile.TemporaryDirectory() as home:
                os.environ["GPTOSS_HOME"] = home
                text, _ = show(Path(home), tokenizer, scene, size, DARK.name)
                look_file(scene, size).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_looks()
