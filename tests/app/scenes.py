"""Scripted scenes of the app that look the same every time: no clock, no speed of this machine, one date.

They are what the tests compare, screen by screen; the README's pictures (`tests.app.pictures`) are of the pocket model.
"""

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from gptoss_mlx.app.app import GptossApp
from gptoss_mlx.app.conversation import ChatSettings, Turn
from gptoss_mlx.app.model_download import ModelDownload
from gptoss_mlx.app.model_entries import ModelEntry
from gptoss_mlx.app.place import Place
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.screens.conversations import ConversationsScreen
from gptoss_mlx.app.screens.models import ModelsScreen
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.store import Store
from gptoss_mlx.convert.landing import DownloadProgress
from gptoss_mlx.events import Stats
from gptoss_mlx.harmony import ANALYSIS, FINAL, Message
from tests.app.driving import Desk

NOON: Final = 1_773_748_800.0
"""2026-03-17 12:00 UTC, in seconds since 1970."""

QUESTION: Final = "What is an attention sink, and why does gpt-oss have one?"

REASONING: Final = "The user asks about attention sinks. I say what they are, then why they help, with a line of code."

ANSWER: Final = """\
An attention sink is a **learned logit** that stands beside the keys of a head. It takes the weight that no key wants:

```python
def attend(scores, sink):
    # what falls on the sink is dropped
    return softmax([*scores, sink])[:-1]
```

- Without it, each head must attend to *something*.
- With it, a head can look away: all weight on the sink.

| layers | window |
|---|---|
| every other | 128 tokens |
| the rest | all of the context |
"""

STATS: Final = Stats(
    prompt_tokens=1_284,
    cached_tokens=1_152,
    reasoning_tokens=341,
    answer_tokens=162,
    generated_tokens=512,
    ttft_seconds=0.21,
    prompt_seconds=0.18,
    generation_seconds=10.9,
    peak_memory_bytes=14_400_000_000,
)

ENTRIES: Final = (
    ModelEntry("here", "pocket", "pocket", ("5.3 M", "5.7 MB", "comes with gptoss"), ("/pocket",), removable=False),
    ModelEntry(
        "here",
        "gpt-oss-20b",
        "gpt-oss-20b",
        ("20.9 B", "13.8 GB", "as published", "openai/gpt-oss-20b@6cee5e8"),
        ("/models/gpt-oss-20b",),
    ),
    ModelEntry(
        "published",
        "120b",
        "gpt-oss-120b",
        ("65.2 GB to get", "does not fit this Mac"),
        (
            "openai/gpt-oss-120b on the Hugging Face Hub",
            "It takes 67.2 GB of memory with 8,192 tokens of context; Metal recommends to use 25.8 GB.",
        ),
        fits=False,
        removable=False,
    ),
)

Scene = Callable[[Desk], Awaitable[None]]


def fill(store: Store) -> int:
    """Conversations to show; gives the id of the one with the question."""
    for title in ("Plan a walk in the Engadin", "Regular expressions for dates", "A letter to the landlord"):
        made = store.create(date="2026-03-17", model="gpt-oss-20b")
        store.add_turn(made.id, Turn(0, None, "user", (Message.user(title),), text=title, created=NOON))
    made = store.create(date="2026-03-17", model="gpt-oss-20b", settings=ChatSettings(effort="medium"))
    asked = store.add_turn(made.id, Turn(0, None, "user", (Message.user(QUESTION),), text=QUESTION, created=NOON))
    store.add_turn(
        made.id,
        Turn(
            0,
            asked.id,
            "assistant",
            (Message.assistant(REASONING, channel=ANALYSIS), Message.assistant(ANSWER, channel=FINAL)),
            created=NOON,
            model="gpt-oss-20b",
            reasoning_seconds=7.4,
            finish_reason="stop",
            stats=STATS.to_dict(),
        ),
    )
    # The store goes by the clock; a scene does not.
    with contextlib.closing(sqlite3.connect(store.file)) as file, file:
        for age, summary in enumerate(store.list()):
            file.execute("UPDATE conversations SET updated = ? WHERE id = ?", (NOON - 40_000.0 * age, summary.id))
    return made.id


def make_app(home: Path, load: Any, theme: str) -> GptossApp:
    """The app with the conversations of `fill`, the one with the question open."""
    store = Store(home / "chats.sqlite3")
    return GptossApp(
        model="gpt-oss-20b",
        store=store,
        resume=fill(store),
        preferences=Preferences(theme=theme),
        session=ModelSession(load),
        place=Place(home / "place.json"),
    )


async def chat(desk: Desk) -> None:
    """The conversation, reasoning folded."""


async def unfolded(desk: Desk) -> None:
    """The same with its reasoning, the cursor in the transcript."""
    await desk.press("ctrl+o", "tab")
    await desk.until_shown("Enter fold")


async def statistics(desk: Desk) -> None:
    """The figures of the answer."""
    await desk.press("f2")
    await desk.until_shown("prompt read in")


async def conversations(desk: Desk) -> None:
    """The list, searched by one word."""
    app = desk.app
    app.push_screen(ConversationsScreen(app.store, app.chat.chat.id, export=app.export_conversation, now=lambda: NOON))
    await desk.until(lambda: isinstance(app.screen, ConversationsScreen))
    await desk.press(*"sink")
    await desk.until_shown("An attention sink is")


async def models(desk: Desk) -> None:
    """The list, with a download at 39 %."""
    download = ModelDownload()
    download.model, download.state = "120b", "running"
    download.progress = DownloadProgress("working", (), 30 * 10**9, 65 * 10**9, 21 * 10**9, 65 * 10**9)
    download.bytes_per_second, download.left = 48.2e6, "12 min left"
    desk.app.push_screen(ModelsScreen("gpt-oss-20b", download, entries=lambda: ENTRIES))
    await desk.until_shown("does not fit this Mac")


async def settings(desk: Desk) -> None:
    """The form."""
    await desk.press("f5")
    await desk.until_shown("Reasoning effort")


async def every_key(desk: Desk) -> None:
    """Every key."""
    await desk.press("f1")
    await desk.until_shown("New conversation")


SCENES: Final[dict[str, Scene]] = {
    scene.__name__: scene for scene in (chat, unfolded, statistics, conversations, models, settings, every_key)
}
