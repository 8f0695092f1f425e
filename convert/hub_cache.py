"""Puts verified files into the user's cache of the hub, as huggingface_hub lays it out.

    models--openai--gpt-oss-20b/
      blobs/CHECKSUM                             the bytes
      snapshots/COMMIT/model-….safetensors       a link to them, ../../blobs/CHECKSUM
      refs/main                                  COMMIT

A file appears there when it is whole, by a rename; so nobody who reads the cache meanwhile sees half of it.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from gptoss_mlx.convert.hub import Listing, RemoteFile
from gptoss_mlx.convert.writer import sync_folder


def cache_folder(repository: str) -> Path:
    """Where the cache has, or would have, what comes from `repository`."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def blob_path(listing: Listing, file: RemoteFile) -> Path:
    """Where the bytes of `file` lie in the cache."""
    return cache_folder(listing.repository) / "blobs" / file.checksum


def keep_file(listing: Listing, file: RemoteFile, source: Path, *, move: bool) -> None:
    """Puts `source`, which holds the verified bytes of `file`, into the cache, in place of what has its name there.

    `move`: whether `source` goes away by it.
    """
    blob = blob_path(listing, file)
    blob.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not move:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        source.rename(blob)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copied = blob.with_name(f"{blob.name}.gptoss")
        shutil.copyfile(source, copied)
        with copied.open("rb") as opened:
            os.fsync(opened.fileno())
        copied.rename(blob)
        if move:
            source.unlink()
    sync_folder(blob.parent)
    link_file(listing, file, blob)


def link_file(listing: Listing, file: RemoteFile, blob: Path) -> None:
    """Makes `file` a part of the commit's snapshot, whose bytes are in `blob`."""
    link = cache_folder(listing.repository) / "snapshots" / listing.commit / file.name
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    # A link whose file is gone.
    link.unlink(missing_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(os.path.relpath(blob, link.parent.resolve()))


def note_reference(listing: Listing) -> None:
    """Notes which commit the branch or tag is that was asked for; a commit needs no note."""
    name = listing.revision or constants.DEFAULT_REVISION
    if re.fullmatch(r"[0-9a-f]{7,40}", name) and listing.commit.startswith(name):
        return
    reference = cache_folder(listing.repository) / "refs" / name
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(listing.commit)


def is_kept(repository: str, commit: str, names: Iterable[str]) -> bool:
    """Whether the snapshot of `commit` has all these files."""
    snapshot = cache_folder(repository) / "snapshots" / commit
    return all((snapshot / name).is_file() for name in names)
