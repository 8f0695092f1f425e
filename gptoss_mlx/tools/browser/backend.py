"""What pages come from: the protocol of backends, what a search finds, and what is told to the model when it fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gptoss_mlx.tools.browser.page import Page
from gptoss_mlx.tools.running import ToolFailure, current_call


class BrowseError(ToolFailure):
    """A page, a place in it or a search that cannot be had; the text is for the model."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One thing that a search found."""

    title: str
    url: str
    summary: str = ""
    line: int | None = None
    """Line of the page, as it is displayed, where the best passage is."""


class Backend(Protocol):
    """Where pages come from. All methods may be called from any thread."""

    @property
    def remote(self) -> bool:
        """Whether it reaches beyond this machine. Its calls ask first."""
        ...

    @property
    def place(self) -> str:
        """What it reads, for people: `~/notes`, `the web`."""
        ...

    @property
    def searches(self) -> bool:
        """Whether `search` can be used."""
        ...

    def search(self, query: str, count: int) -> Sequence[Hit]:
        """At most `count` hits, the best first. Raises BrowseError."""
        ...

    def locate(self, address: str) -> str | None:
        """The address by which `fetch` knows what the model calls `address`; None: it is not this backend's.

        Raises BrowseError for one that is, and may not be read.
        """
        ...

    def fetch(self, url: str, *, source: bool = False) -> Page:
        """The page at an address that `locate` gave; `source`: as it is written, HTML not made text. Raises
        BrowseError."""
        ...


def check_stopped() -> None:
    """Raises BrowseError when the call that runs here should end."""
    call = current_call()
    if call is not None and call.cancelled:
        raise BrowseError("the call was stopped")


def on_stop(end: Callable[[], object]) -> None:
    """Has `end` called when the call that runs here should end."""
    call = current_call()
    if call is not None:
        call.on_cancel(end)
