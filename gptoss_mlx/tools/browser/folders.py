"""FolderBackend: files of folders that the user gave. No network.

A file's address is `file://FOLDER/path/in/it`, FOLDER being the name of a folder that was given: the model learns
nothing of where it lies.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from gptoss_mlx.tools.browser.backend import BrowseError, Hit, check_stopped
from gptoss_mlx.tools.browser.document import Document, kind_of_name, read_document
from gptoss_mlx.tools.browser.file_access import FoundFile, Root, find_path, list_folder, make_roots, read_file, walk
from gptoss_mlx.tools.browser.folder_index import FolderIndex
from gptoss_mlx.tools.browser.page import Page, link_mark, make_page, number_links
from gptoss_mlx.tools.browser.passage import best_passage

MOST_BYTES: Final = 20_000_000
"""Of a file that is opened."""

INDEXED_BYTES: Final = 1_000_000
"""Of a file whose text is searched; of larger ones only the name."""

MOST_FILES: Final = 50_000
"""Files that are searched; further ones are left out, which the results say."""

_SCHEME: Final = "file://"


class FolderBackend:
    """Pages are files; a folder is a page that lists what is in it."""

    remote = False
    searches = True

    def __init__(self, *folders: str | os.PathLike[str]) -> None:
        """The folders or files that may be read. Raises UsageError for one that is not there."""
        self._given = [os.fspath(folder) for folder in folders]
        self._roots = make_roots(folders)
        self._index = FolderIndex(self._text)

    @property
    def place(self) -> str:
        return ", ".join(self._given)

    def search(self, query: str, count: int) -> Sequence[Hit]:
        files: list[FoundFile] = []
        cut = False
        for root in self._roots:
            for file in walk(root):
                check_stopped()
                if len(files) == MOST_FILES:
                    cut = True
                    break
                files.append(file)
        hits = [self._hit(file, query) for file in self._index.search(files, query, count)]
        left_out = self._index.left_out
        if cut or left_out:
            what = f"more than {MOST_FILES} files" if cut else f"{left_out} files too many"
            note = f"[{what}: not all of them were searched; open a folder to see what is in it]"
            hits = [*hits[: count - 1], Hit("The folders", self._address(self._roots[0], ""), note)]
        return hits

    def locate(self, address: str) -> str | None:
        if address.lower().startswith(_SCHEME):
            return self._address(*self._of_address(address))
        if "://" in address:
            return None
        path = os.path.expanduser(address)
        if os.path.isabs(path):
            return self._address(*self._existing(Path(path), address))
        refusal: BrowseError | None = None
        for root in self._roots:
            relatives = ("",) if path == root.name else (path, path.removeprefix(f"{root.name}/"))
            for relative in relatives:
                try:
                    found, inner = find_path(self._roots, root.base / relative, address)
                except BrowseError as error:
                    refusal = error
                    continue
                if (found.base / inner).exists():
                    return self._address(found, inner)
        if refusal is not None:
            raise refusal
        return None

    def fetch(self, url: str, *, source: bool = False) -> Page:
        root, relative = self._of_address(url)
        path = root.base / relative
        address = self._address(root, relative)
        if path.is_dir():
            return self._folder_page(root, relative, address)
        document = self._document(root, relative, address, MOST_BYTES, source=source)
        title = document.title or relative.rpartition("/")[2]
        return make_page(address, title, document.text, document.links, path=str(path), plain=document.plain)

    def _of_address(self, address: str) -> tuple[Root, str]:
        name, _, relative = address[len(_SCHEME) :].partition("/")
        if not name:
            return self._existing(Path("/" + _unquoted(relative)), address)
        root = next((root for root in self._roots if root.name == unquote(name)), None)
        if root is None:
            known = ", ".join(f"{_SCHEME}{quote(root.name)}/" for root in self._roots)
            raise BrowseError(f"`{address}` may not be read: it is not in the folders that the user gave: {known}")
        return self._existing(root.base / _unquoted(relative).lstrip("/"), address)

    def _existing(self, path: Path, address: str) -> tuple[Root, str]:
        """Where a path is. Raises BrowseError, before anything is said of files that may not be read."""
        root, relative = find_path(self._roots, path, address)
        if not (root.base / relative).exists():
            raise BrowseError(f"There is no file `{address}`. Search, or open `{_SCHEME}{quote(root.name)}/`.")
        return root, relative

    @staticmethod
    def _address(root: Root, relative: str) -> str:
        return f"{_SCHEME}{quote(os.fsencode(root.name))}/{quote(os.fsencode(relative))}"

    def _document(self, root: Root, relative: str, url: str, most_bytes: int, *, source: bool = False) -> Document:
        data = read_file(root, relative, most_bytes)
        try:
            return read_document(data, kind_of_name(relative), url, source=source)
        except BrowseError as error:
            raise BrowseError(f"`{relative}` cannot be shown: {error}") from error

    def _text(self, file: FoundFile) -> str:
        """For the index."""
        url = self._address(file.root, file.relative)
        if file.size > INDEXED_BYTES:
            raise BrowseError(f"`{file.relative}` is too large to be searched")
        return self._document(file.root, file.relative, url, INDEXED_BYTES).text

    def _hit(self, file: FoundFile, query: str) -> Hit:
        url = self._address(file.root, file.relative)
        try:
            page = self.fetch(url) if file.size <= INDEXED_BYTES else None
        except BrowseError:
            page = None
        if page is None:
            return Hit(file.relative, url, "[only its name was searched]")
        line, summary = best_passage(page, query)
        return Hit(file.relative, url, summary, line)

    def _folder_page(self, root: Root, relative: str, address: str) -> Page:
        entries = list_folder(root, relative)
        inner = [f"{relative}/{name}" if relative else name for name, _ in entries]
        lines = [
            f"  * {link_mark(number, name + ('/' if folder else ''))}" for number, (name, folder) in enumerate(entries)
        ]
        body = "\n".join(lines) or "[the folder is empty]"
        links = number_links(self._address(root, each) for each in inner)
        return make_page(address, f"{root.name}/{relative}", body, links)


def _unquoted(path: str) -> str:
    """A path of an address; names of files need not be text in any encoding."""
    return os.fsdecode(unquote_to_bytes(path))
