"""`download`: a model from the hub, verified and ready to run, in one call that may be stopped and repeated."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.convert.destination import finish, locked, tidy
from gptoss_mlx.convert.download_plan import DownloadPlan, plan_download
from gptoss_mlx.convert.fetch import FetchOptions, Stopped
from gptoss_mlx.convert.hub import list_repository, split_name
from gptoss_mlx.convert.hub_cache import is_kept
from gptoss_mlx.convert.landing import DownloadProgress, Landing, PlanStale
from gptoss_mlx.convert.plan import DENSE_BITS
from gptoss_mlx.errors import DownloadError, GptOssError, NotEnoughDisk, UsageError
from gptoss_mlx.manifest import Manifest, read_manifest
from gptoss_mlx.settings import PARTIAL_SUFFIX, models_folder

CONTEXT: Final = 8192
"""Tokens of conversation that a model must have memory for, when nobody says."""

PLANS: Final = 4
"""How often a plan may turn out to be stale: a damaged file of the hub's cache, a header that came wrong."""

WAIT_SECONDS: Final = 0.3
"""How often a download that waits for another one looks again."""


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What a download did."""

    folder: Path
    """The finished model."""
    repository: str
    commit: str | None
    total_bytes: int
    """Of the finished model."""
    seconds: float
    already_there: bool = False
    """True when the model was there, and nothing was done; not even a question was asked."""


def download(
    model: str = "20b",
    *,
    path: str | Path | None = None,
    dense_bits: int | None = None,
    context: int = CONTEXT,
    force: bool = False,
    keep_download: bool = False,
    options: FetchOptions | None = None,
    planned: Callable[[DownloadPlan], None] | None = None,
    progress: Callable[[DownloadProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> DownloadReport:
    """Downloads, verifies and converts `model`: `"20b"`, `"120b"`, `"OWNER/NAME"`, or any of them with `@REVISION`.

    The finished model is a folder among the user's models, or `path`; it appears when it is whole, and not before.
    Whatever ends the call, the same call goes on where it was. Every file is compared with the hub's checksum before it
    is used. Files in the hub's own cache are taken from there; with `keep_download`, what comes is put there, too, for
    other programs. `dense_bits` (8, 6 or 4) quantises the dense weights.

    `context` is what memory is checked for; `force` goes on when disk or memory seem too small. `planned` is told
    what will be done before it is, `progress` how far it is, both on the caller's thread. A second download of the same
    model waits for the first.

    Raises NotEnoughDisk and NotEnoughMemory before anything is downloaded, DownloadError, ChecksumError, ModelNotFound,
    UsageError, and Cancelled once `stop` is set.
    """
    started = time.monotonic()
    repository, revision = split_name(model)
    target = destination(repository, path, dense_bits)
    stopped = Stopped(stop)
    report = progress or _no_progress
    options = FetchOptions() if options is None else options
    if (there := find_there(target, repository, revision, dense_bits)) is not None:
        if keep_download:
            _check_kept(target, there)
        return _report_there(target, there, started)

    def wait() -> None:
        report(DownloadProgress("waiting", (), 0, 0, 0, 0))
        stopped.wait(WAIT_SECONDS)
        stopped.check()

    partial = target.with_name(target.name + PARTIAL_SUFFIX)

    def make_plan() -> DownloadPlan:
        return plan_download(
            target,
            repository,
            revision,
            dense_bits=dense_bits,
            context=context,
            options=options,
            stopped=stopped,
            keep_download=keep_download,
        )

    with _sentences(target):
        plan = make_plan()
        if planned is not None:
            planned(plan)
        if not force:
            plan.fit.check()
    with _sentences(target), locked(partial, wait=wait):
        # Whoever was waited for may have done it all, or a part.
        if (there := find_there(target, repository, revision, dense_bits)) is not None:
            return _report_there(target, there, started)
        stale: PlanStale | None = None
        for _ in range(PLANS):
            if plan.folder.exists():
                plan = make_plan()
            try:
                records, small = Landing(plan, options, stopped, report).run()
            except PlanStale as error:
                stale = error
                continue
            manifest = finish(partial, target, weights=records, small=small, source=plan.source, dense_bits=dense_bits)
            break
        else:
            raise DownloadError(f"{repository}: {stale}, again and again; run the same command later") from stale
    total = manifest.total_bytes
    report(DownloadProgress("done", (), 0, 0, total, total))
    return DownloadReport(target, repository, plan.listing.commit, total, time.monotonic() - started)


def destination(repository: str, path: str | Path | None, dense_bits: int | None) -> Path:
    """Where a download of `repository` goes. Raises `UsageError`."""
    if dense_bits is not None and dense_bits not in DENSE_BITS:
        raise UsageError(f"dense_bits is {dense_bits!r}; expected {', '.join(map(str, DENSE_BITS))} or None")
    if path is None:
        name = repository.rsplit("/", 1)[-1]
        return models_folder().absolute() / (name + ("" if dense_bits is None else f"-{dense_bits}bit"))
    target = Path(path).expanduser()
    target = target.parent.resolve() / target.name
    if not target.name or target.name.endswith(PARTIAL_SUFFIX):
        raise UsageError(f"{str(path)!r} is no destination; expected a folder to make, not ending in {PARTIAL_SUFFIX}")
    return target


def find_there(target: Path, repository: str, revision: str | None, dense_bits: int | None) -> Manifest | None:
    """The manifest of the model at `target` when it is what is asked for; None when there is nothing.

    Raises `UsageError` when something else is there.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    there = read_manifest(target) if target.is_dir() else None
    if there is None:
        raise UsageError(
            f"{target} is there already and is no converted model; remove it yourself, or name another folder with "
            "--path"
        )
    try:
        open_checkpoint(target)
    except GptOssError as error:
        raise UsageError(f"{target} is a damaged model: {error}; remove it: gptoss rm {target.name}") from error
    source = there.source
    same_model = source.repository == repository or (
        source.repository is None and source.name == repository.rsplit("/", 1)[-1]
    )
    same = same_model and there.dense_bits == dense_bits
    if same and (revision is None or _is_commit(source.revision, repository, revision)):
        tidy(target)
        return there
    origin = source.repository or source.name
    dense = "dense weights as published" if there.dense_bits is None else f"dense weights of {there.dense_bits} bits"
    raise UsageError(
        f"{target} holds another model already ({origin} at {source.revision or 'an unknown commit'}, {dense}); "
        f"remove it first: gptoss rm {target.name}, or name another folder with --path"
    )


def _is_commit(commit: str | None, repository: str, revision: str) -> bool:
    """Whether `revision` means `commit`; only a branch or a tag has to be asked for."""
    if commit is None:
        return False
    return commit.startswith(revision) or list_repository(repository, revision).commit == commit


def _check_kept(target: Path, there: Manifest) -> None:
    """Raises `UsageError` unless what the model at `target` was made of is in the hub's cache."""
    source = there.source
    if source.repository and source.revision and is_kept(source.repository, source.revision, source.files):
        return
    origin = source.repository or source.name
    raise UsageError(
        f"{target} is here already, and what it was made of is not in the hub's cache any more; get that with `hf "
        f"download {origin}`, or remove the model first: gptoss rm {target.name}"
    )


def _report_there(target: Path, there: Manifest, started: float) -> DownloadReport:
    repository = there.source.repository or there.source.name
    seconds = time.monotonic() - started
    return DownloadReport(target, repository, there.source.revision, there.total_bytes, seconds, True)


@contextmanager
def _sentences(target: Path) -> Iterator[None]:
    """Turns what the disk says into sentences."""
    try:
        yield
    except GptOssError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotEnoughDisk(
                f"the disk of {target.parent} is full; what is finished is kept: free some space and run the same "
                "command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UsageError(
                f"{error.filename or target.parent} cannot be written to ({error.strerror}); make it writable, set "
                "GPTOSS_HOME to a folder of yours, or name one with --path"
            ) from error
        raise


def _no_progress(progress: DownloadProgress) -> None:
    """For a caller that asked for none."""
