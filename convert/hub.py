"""What the Hugging Face Hub, or the user's cache of it, has of a model: files, sizes, checksums. By huggingface_hub.

Token, endpoint, proxies, offline mode and the cache's place are huggingface_hub's own: HF_TOKEN, HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE and so on mean here what they mean there. Owns: the listing, and which sentence a refusal becomes.
Does not own: how bytes travel (`fetch`).
"""

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils._headers import build_hf_headers

from gptoss_mlx.errors import DownloadError, GptOssError, ModelNotFound, UsageError
from gptoss_mlx.models import PUBLISHED
from gptoss_mlx.safetensors_file import INDEX_NAME

NEEDED_SMALL: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Files without tensors that a model is made of; the first and the third must be there."""

REQUEST_SECONDS: Final = 30.0
"""How long one question to the hub may take."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository, and how its bytes are known to be right."""

    name: str
    size: int
    sha256: str | None
    """Of large files; small ones have only `blob_id`."""
    blob_id: str
    """git's SHA-1 of the file, or of its stand-in where there is a sha256."""

    @property
    def checksum(self) -> str:
        """What `digest` must come to."""
        return self.sha256 or self.blob_id

    def digest(self) -> Any:
        """A hash object for the file's bytes, with nothing but git's preamble in it yet."""
        if self.sha256 is not None:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)

    def matches(self, content: bytes) -> bool:
        """Whether `content` is the file's."""
        digest = self.digest()
        digest.update(content)
        return len(content) == self.size and digest.hexdigest() == self.checksum


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one commit of a repository that a model needs."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    revision: str | None = None
    """The branch, tag or commit that was asked for; None for main."""

    def file(self, name: str) -> RemoteFile | None:
        """The file of that name."""
        return next((file for file in self.files if file.name == name), None)

    def url(self, file: RemoteFile) -> str:
        """Where its bytes are."""
        return hf_hub_url(self.repository, file.name, revision=self.commit)

    def to_json(self) -> str:
        """For the notes of a download that may be stopped."""
        files = [[file.name, file.size, file.sha256, file.blob_id] for file in self.files]
        values = {"repository": self.repository, "commit": self.commit, "revision": self.revision, "files": files}
        return json.dumps(values, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Listing":
        """Raises ValueError, KeyError or TypeError for a text of another kind."""
        values = json.loads(text)
        files = tuple(RemoteFile(*file) for file in values["files"])
        return cls(values["repository"], values["commit"], files, values["revision"])


def split_name(name: str) -> tuple[str, str | None]:
    """Repository and revision of `20b`, `120b`, `OWNER/NAME` or `OWNER/NAME@REVISION`. Raises `UsageError`."""
    repository, at, revision = name.partition("@")
    repository = PUBLISHED.get(repository, repository)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or (at and not revision):
        raise UsageError(
            f"{name!r} is no model on the hub; expected {', '.join(PUBLISHED)}, OWNER/NAME or OWNER/NAME@REVISION"
        )
    return repository, revision or None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every request."""
    return bool(constants.is_offline_mode())


def hub_headers() -> dict[str, str]:
    """What a request to the hub carries: the user's token, if there is one."""
    return dict(build_hf_headers(library_name="gptoss-mlx"))


def list_repository(
    repository: str,
    revision: str | None,
    *,
    give_up_seconds: float = 60.0,
    first_wait_seconds: float = 0.5,
    longest_wait_seconds: float = 15.0,
) -> Listing:
    """What the model at `revision` (a branch, tag or commit; default: main) needs.

    Asks the hub once, and again while it is only busy; offline, looks into the user's cache. Raises `DownloadError`,
    `ModelNotFound` for a repository that is missing, gated or holds no model.
    """
    if is_offline():
        return _needed(_list_cache(repository, revision))
    started, wait = time.monotonic(), first_wait_seconds
    while True:
        try:
            info = HfApi().model_info(
                repository, revision=revision, files_metadata=True, timeout=REQUEST_SECONDS, token=None
            )
            break
        except (HfHubHTTPError, httpx2.HTTPError, OSError, HFValidationError) as error:
            if not is_passing(error) or time.monotonic() - started + wait > give_up_seconds:
                raise explain(error, repository, revision) from error
            time.sleep(wait)
            wait = min(2 * wait, longest_wait_seconds)
    files = []
    for sibling in info.siblings or ():
        if sibling.size is None or sibling.blob_id is None:
            raise DownloadError(
                f"{constants.ENDPOINT} lists {sibling.rfilename} of {repository} without size or checksum; expected "
                "both; if HF_ENDPOINT names a mirror, try without it"
            )
        sha256 = None if sibling.lfs is None else sibling.lfs.sha256
        files.append(RemoteFile(sibling.rfilename, sibling.size, sha256, sibling.blob_id))
    if info.sha is None:
        raise DownloadError(f"{constants.ENDPOINT} names no commit of {repository}; try again")
    return _needed(Listing(repository, info.sha, tuple(files), revision))


def _needed(listing: Listing) -> Listing:
    """Without all that a model can do without: other folders, copies in other formats, pictures."""
    files = {file.name: file for file in listing.files if "/" not in file.name}
    shards = [file for name, file in sorted(files.items()) if name.endswith(".safetensors")]
    if not shards:
        raise ModelNotFound(
            f"{listing.repository} holds no .safetensors at its root; expected a gpt-oss such as openai/gpt-oss-20b"
        )
    for name in (NEEDED_SMALL[0], NEEDED_SMALL[2]):
        if name not in files:
            raise ModelNotFound(f"{listing.repository} holds no {name}; expected a gpt-oss such as openai/gpt-oss-20b")
    small = [files[name] for name in (*NEEDED_SMALL, INDEX_NAME) if name in files]
    return Listing(listing.repository, listing.commit, (*small, *shards), listing.revision)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later: the network, a busy hub, an error of its own."""
    if isinstance(error, OfflineModeIsEnabled | HFValidationError):
        return False
    if isinstance(error, HfHubHTTPError | httpx2.HTTPStatusError):
        response = getattr(error, "response", None)
        return response is None or response.status_code in (408, 425, 429) or response.status_code >= 500
    return isinstance(error, httpx2.TransportError | OSError)


def explain(error: BaseException, repository: str, revision: str | None = None) -> GptOssError:
    """One sentence about what a request for `repository` failed of."""
    if isinstance(error, GptOssError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(f"HF_HUB_OFFLINE is set and {repository} is not all here; unset it to download")
    if isinstance(error, HFValidationError):
        return UsageError(f"{repository!r} is no name of a repository ({error})")
    if isinstance(error, GatedRepoError):
        return DownloadError(
            f"{repository} is gated; ask for access at {constants.ENDPOINT}/{repository}, then set HF_TOKEN or run "
            "`hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound(f"{repository} has no revision {revision!r}; expected a branch, a tag or a commit")
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFound(
            f"{constants.ENDPOINT} has no repository {repository} that you may read; check the name, or set HF_TOKEN "
            "if it is private"
        )
    response = getattr(error, "response", None)
    if response is not None:
        return explain_status(response.status_code, repository)
    said = str(error).splitlines()
    return DownloadError(
        f"{constants.ENDPOINT} cannot be reached ({said[0] if said else type(error).__name__}); "
        "check the network and run the same command again, it goes on"
    )


def explain_status(status: int, what: str) -> DownloadError:
    """One sentence about an HTTP status that ends the download of `what`."""
    if status in (401, 403):
        return DownloadError(
            f"{what}: the hub refuses it (HTTP {status}); accept its conditions at {constants.ENDPOINT}, and set "
            "HF_TOKEN or run `hf auth login`"
        )
    if status in (404, 410):
        return DownloadError(f"{what} is no longer on the hub (HTTP {status}); run the same command with @main")
    if status == 429:
        return DownloadError(f"{what}: the hub wants fewer requests (HTTP 429); wait some minutes, or set HF_TOKEN")
    return DownloadError(f"{what}: the hub answers HTTP {status}; run the same command again later, it goes on")


# The user's cache


def cached_file(listing: Listing, file: RemoteFile) -> Path | None:
    """The finished file of the same content in the user's cache of the hub. Its bytes are not looked at."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=listing.repository, repo_type="model")
    for path in (folder / "snapshots" / listing.commit / file.name, folder / "blobs" / file.checksum):
        try:
            if path.is_file() and path.stat().st_size == file.size:
                return path.resolve()
        except OSError:
            continue
    return None


def _list_cache(repository: str, revision: str | None) -> Listing:
    """The listing of a commit that huggingface_hub has downloaded before."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    wanted = revision or constants.DEFAULT_REVISION
    reference = folder / "refs" / wanted
    commit = reference.read_text().strip() if reference.is_file() else wanted
    snapshot = folder / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
        raise DownloadError(
            f"HF_HUB_OFFLINE is set and {repository} is not in {constants.HF_HUB_CACHE}; unset it to download"
        )
    listed = _read_tree(folder / "trees" / f"{commit}.json")
    files = []
    for path in sorted(snapshot.iterdir()):
        if path.name in listed:
            files.append(listed[path.name])
        elif path.is_symlink() and path.is_file():
            # The cache names a file's content by its checksum.
            name = os.path.basename(os.readlink(path))
            sha256 = name if _SHA256.fullmatch(name) else None
            files.append(RemoteFile(path.name, path.stat().st_size, sha256, name))
    files += [file for file in listed.values() if file not in files]
    return Listing(repository, commit, tuple(files), revision)


def _read_tree(path: Path) -> dict[str, RemoteFile]:
    """huggingface_hub's own notes about a commit, where it keeps them."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {
            name: RemoteFile(name, facts["size"], facts.get("lfs_sha256"), facts["blob_id"])
            for name, facts in listed.items()
            if "/" not in name
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
