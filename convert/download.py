"""`download`: a model from the hub, verified and ready to run, in one call that may be stopped and repeated."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.destination import finish, locked
from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.fetch import FetchOptions
from gptoss_mlx.convert.hub_cache import is_kept
from gptoss_mlx.convert.landing import DownloadProgress, Landing, PlanStale
from gptoss_mlx.convert.request import CONTEXT, disk_sentences, make_request
from gptoss_mlx.errors import DownloadError, UsageError
from gptoss_mlx.manifest import Manifest
from gptoss_mlx.settings import PARTIAL_SUFFIX

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
    mended: tuple[str, ...] = ()
    """What was wrong with the model that was there."""


def download(
    model: str = "20b",
    *,
    path: str | Path | None = None,
    dense_bits: int | None = None,
    context: int = CONTEXT,
    force: bool = False,
    keep_download: bool = False,
    verify: bool = False,
    options: FetchOptions | None = None,
    planned: Callable[[DownloadPlan], None] | None = None,
    progress: Callable[[DownloadProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> DownloadReport:
    """Downloads, verifies and converts `model`: `"20b"`, `"120b"`, `"OWNER/NAME"`, or any of them with `@REVISION`.

    The finished model is a folder among the user's models, or `path`; it appears when it is whole, and not before.
    Whatever ends the call, the same call goes on where it was. A model that is here and damaged is mended: only what is
    missing or damaged comes again. What is looked at is names, sizes and headers; with `verify`, every byte.

    Every file of the hub is compared with its checksum before it
    is used. Files in the hub's own cache are taken from there; with `keep_download`, what comes is put there, too, for
    other programs. `dense_bits` (8, 6 or 4) quantises the dense weights.

    `context` is what memory is checked for; `force` goes on when disk or memory seem too small. `planned` is told
    what will be done before it is, `progress` how far it is, both on the caller's thread. A second download of the same
    model waits for the first.

    Raises NotEnoughDisk and NotEnoughMemory before anything is downloaded, DownloadError, ChecksumError, ModelNotFound,
    UsageError, and Cancelled once `stop` is set.
    """
    started = time.monotonic()
    request = make_request(
        model,
        path=path,
        dense_bits=dense_bits,
        context=context,
        options=options,
        keep_download=keep_download,
        stop=stop,
    )
    target, stopped = request.target, request.stopped
    report = progress or _no_progress
    with disk_sentences(target, "read"):
        found = request.look(thorough=verify, report=report)
    if isinstance(found, Manifest):
        if keep_download:
            _check_kept(target, found)
        return _report_there(target, found, started)

    waited = False

    def wait() -> None:
        nonlocal waited
        waited = True
        report(DownloadProgress("waiting", (), 0, 0, 0, 0))
        stopped.wait(WAIT_SECONDS)
        stopped.check()

    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    with disk_sentences(target):
        plan, damage = request.first_plan(found)
        if planned is not None:
            planned(plan)
        if not force:
            plan.fit.check()
    with disk_sentences(target), locked(partial, wait=wait):
        if waited or found is None:
            # Whoever was at work may have done it all, or a part.
            found = request.look(thorough=waited and verify, report=report)
            if isinstance(found, Manifest):
                return _report_there(target, found, started)
            plan, damage = request.first_plan(found) if waited else (plan, damage)
        stale: PlanStale | None = None
        for _ in range(PLANS):
            if plan.folder.exists():
                plan = request.plan(damage)
            try:
                records, small = Landing(plan, request.options, stopped, report).run()
            except PlanStale as error:
                stale = error
                damage = None if damage is None else damage.without(error.files)
                continue
            manifest = finish(partial, target, weights=records, small=small, source=plan.source, dense_bits=dense_bits)
            break
        else:
            raise DownloadError(
                f"{request.repository}: {stale}, again and again; run the same command later"
            ) from stale
    total, commit = manifest.total_bytes, plan.listing.commit
    report(DownloadProgress("done", (), 0, 0, total, total))
    return DownloadReport(target, request.repository, commit, total, time.monotonic() - started, mended=plan.faults)


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


def _no_progress(progress: DownloadProgress) -> None:
    """For a caller that asked for none."""
