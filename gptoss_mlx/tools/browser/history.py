"""What was shown in a conversation, by cursor, read from its messages.

A browser keeps no conversation: which cursors there are follows from what the tools said in it. So editing, going back,
branches and a conversation that is opened again each have their own, and two conversations never share any. The pages
themselves are kept on a shelf under what was shown up to them; a page that is not there any more has its address only.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.harmony import Message, read_display_header
from gptoss_mlx.tools.browser.backend import BrowseError
from gptoss_mlx.tools.browser.page import Page

SHELF_CHARACTERS: Final = 64_000_000
"""Of all pages together; those that were used longest ago go."""

SHELF_PAGES: Final = 4096


@dataclass(frozen=True, slots=True)
class Display:
    """One thing that was shown."""

    cursor: int
    title: str
    url: str
    """As it was shown: unquoted."""
    page: Page | None
    """None: it is not at hand any more."""


class Shelf:
    """Pages under a key, so many at most. For all threads."""

    def __init__(self, characters: int = SHELF_CHARACTERS) -> None:
        self._room = characters
        self._pages: OrderedDict[bytes, Page] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Page | None:
        with self._lock:
            page = self._pages.get(key)
            if page is not None:
                self._pages.move_to_end(key)
            return page

    def put(self, key: bytes, page: Page) -> None:
        with self._lock:
            old = self._pages.pop(key, None)
            self._room += 0 if old is None else len(old.text)
            self._pages[key] = page
            self._room -= len(page.text)
            while len(self._pages) > 1 and (self._room < 0 or len(self._pages) > SHELF_PAGES):
                self._room += len(self._pages.popitem(last=False)[1].text)


class History:
    """What was shown so far in one conversation."""

    def __init__(self, conversation: Sequence[Message], shelf: Shelf) -> None:
        self._shelf = shelf
        self._key = b""
        self.displays: dict[int, Display] = {}
        """By cursor."""
        for message in conversation:
            if message.role == "tool" and message.name is not None and message.name.startswith("browser."):
                header = read_display_header(message.text)
                if header is not None:
                    self._key = _next_key(self._key, message.text)
                    page = shelf.get(self._key)
                    self.displays[header.cursor] = Display(header.cursor, header.title, header.url, page)

    @property
    def next_cursor(self) -> int:
        """Of what is shown next."""
        return max(self.displays, default=-1) + 1

    def at(self, cursor: int) -> Display:
        """What was shown under that cursor; under -1, last. Raises BrowseError."""
        if not self.displays:
            raise BrowseError("No pages to access: nothing was opened yet. Use `search`, or `open` with an address.")
        last = self.next_cursor - 1
        if cursor == -1:
            return self.displays[last]
        if cursor not in self.displays:
            raise BrowseError(f"Cursor `{cursor}` is out of range. Available cursor indices: [0 - {last}].")
        return self.displays[cursor]

    def page_of(self, url: str) -> Page | None:
        """The page at that address that was opened last, if it is at hand."""
        displays = (self.displays[cursor] for cursor in sorted(self.displays, reverse=True))
        return next((d.page for d in displays if d.page is not None and d.page.url == url), None)

    def keep(self, page: Page, text: str) -> None:
        """Notes that `text` was shown of `page`, next in this conversation."""
        self._shelf.put(_next_key(self._key, text), page)


def _next_key(before: bytes, text: str) -> bytes:
    return hashlib.sha256(before + text.encode("utf-8", "replace")).digest()
