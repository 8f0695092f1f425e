"""What a plan has to know of a repository's files before they are here: small files, and the shards' headers.

From the stopped download, the user's cache of the hub or the hub itself, whichever has them. A few hundred KB.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.fetch import FetchOptions, Stopped, fetch_range
from gptoss_mlx.convert.hub import Listing, RemoteFile, cached_file
from gptoss_mlx.convert.hub_cache import blob_path
from gptoss_mlx.errors import ChecksumError, DownloadError, WeightsError
from gptoss_mlx.safetensors_file import INDEX_NAME, header_length, parse_header

DISTRUSTED_NAME: Final = "distrusted"
"""In the download folder: names of files whose copy in the hub's cache was damaged, one a line."""

HEADER_SUFFIX: Final = ".header"
"""In the download folder: a shard's first bytes, which outlive the shard."""

FIRST_BYTES: Final = 128 << 10
"""Of a shard, asked for to read its header; enough for gpt-oss."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of tensors."""

    file: RemoteFile
    header: bytes
    """Its length and text, as the file begins."""
    path: Path
    """Where it lies, or would if it did not go straight to the places of its tensors."""
    cached: bool
    """Whether it lies in the user's cache of the hub, where it stays."""
    kept: bool = False
    """Whether it goes to the user's cache of the hub, whole, once it is verified."""

    @property
    def stays(self) -> bool:
        """Whether its tensors are read in the cache."""
        return self.cached or self.kept


def read_json(content: bytes | None, name: str) -> dict[str, object]:
    """The object in the small file `name`. Raises `DownloadError`."""
    try:
        values = json.loads(content or b"")
    except ValueError as error:
        raise DownloadError(f"{name} on the hub is not JSON ({error}); is this the right repository?") from error
    if not isinstance(values, dict):
        raise DownloadError(f"{name} on the hub holds no object; is this the right repository?")
    return values


def weight_files(listing: Listing, reader: "ShardReader") -> list[RemoteFile]:
    """The safetensors that make up the model: those in the index, or all."""
    files = {file.name: file for file in listing.files if file.name.endswith(".safetensors")}
    if listing.file(INDEX_NAME) is None:
        return list(files.values())
    names = read_json(reader.content(INDEX_NAME), INDEX_NAME).get("weight_map")
    if not isinstance(names, dict) or not set(names.values()) <= set(files):
        raise DownloadError(
            f"{INDEX_NAME} of {listing.repository} names files that are not there; is this the right repository?"
        )
    return [files[name] for name in sorted(set(names.values()))]


class ShardReader:
    """Small things that a plan needs, from the stopped download, the user's cache or the hub, whichever has them."""

    def __init__(
        self,
        listing: Listing,
        folder: Path,
        begun: Listing | None,
        options: FetchOptions,
        stopped: Stopped,
        *,
        keep_download: bool,
    ) -> None:
        """`begun` is the listing that the files in `folder` belong to."""
        self._keep_download = keep_download
        self._listing = listing
        self._folder = folder
        self._kept = set() if begun is None else set(begun.files)
        self._options = options
        self._stopped = stopped
        distrusted = folder / DISTRUSTED_NAME
        self._distrusted = distrusted.read_text(encoding="utf-8").split("\n") if distrusted.is_file() else []

    def content(self, name: str) -> bytes:
        """The small file's verified content."""
        file = self._listing.file(name)
        assert file is not None
        for path in (self._folder / name, cached_file(self._listing, file)):
            if path is not None and path.is_file():
                content = path.read_bytes()
                if file.matches(content):
                    return content
        for _ in range(2):
            content = self._fetch(file, 0, file.size)
            if file.matches(content):
                return content
        raise ChecksumError(f"{name} arrived with wrong bytes twice; run the same command again later")

    def shard(self, file: RemoteFile) -> Shard:
        """The shard, with its header."""
        cached = None if file.name in self._distrusted else cached_file(self._listing, file)
        keep = self._keep_download and cached is None
        path = blob_path(self._listing, file) if keep else self._folder / file.name if cached is None else cached
        noted = self._folder / (file.name + HEADER_SUFFIX)
        known = noted if file in self._kept and noted.is_file() else cached
        if known is not None:
            with known.open("rb") as opened:
                start = opened.read(8)
                return Shard(
                    file, start + opened.read(header_length(path, start, file.size)), path, cached is not None, keep
                )
        try:
            header = self._fetch_header(file, path)
        except WeightsError:
            # Nothing verified these bytes so far. If they are the same again, it is the file that is so.
            header = self._fetch_header(file, path)
        return Shard(file, header, path, False, keep)

    def _fetch_header(self, file: RemoteFile, path: Path) -> bytes:
        first = self._fetch(file, 0, min(FIRST_BYTES, file.size))
        length = 8 + header_length(path, first, file.size)
        if len(first) < length:
            first += self._fetch(file, len(first), length)
        parse_header(path, first[8:length], file.size)
        return first[:length]

    def _fetch(self, file: RemoteFile, start: int, end: int) -> bytes:
        return fetch_range(self._listing.url(file), file, start, end, self._options, self._stopped)
