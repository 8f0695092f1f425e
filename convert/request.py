"""What is asked for, and what that means here: what is there already, and the plan for the rest."""

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gptoss_mlx.convert.download_plan import DownloadPlan, plan_download
from gptoss_mlx.convert.fetch import FetchOptions, Stopped
from gptoss_mlx.convert.hub import split_name
from gptoss_mlx.convert.landing import REPORT_SECONDS, DownloadProgress
from gptoss_mlx.convert.mend import prove
from gptoss_mlx.convert.plan import DENSE_BITS
from gptoss_mlx.convert.there import Damage, find_there
from gptoss_mlx.errors import GptOssError, NotEnoughDisk, UsageError
from gptoss_mlx.manifest import Manifest
from gptoss_mlx.settings import PARTIAL_SUFFIX, models_folder

CONTEXT: Final = 8192
"""Tokens of conversation that a model must have memory for, when nobody says."""


@dataclass(frozen=True, slots=True)
class Request:
    """A model of the hub, and the folder that it goes to."""

    target: Path
    repository: str
    revision: str | None
    dense_bits: int | None
    context: int
    options: FetchOptions
    keep_download: bool
    stopped: Stopped

    def look(self, *, thorough: bool, report: Callable[[DownloadProgress], None]) -> Manifest | Damage | None:
        """As `find_there`; `report` hears on this thread how much is read."""
        read = (0, 0)

        def count(done: int, total: int) -> None:
            nonlocal read
            self.stopped.check()
            read = (done, total)

        with ThreadPoolExecutor(1) as reader:
            looking = reader.submit(
                find_there, self.target, self.repository, self.revision, self.dense_bits, thorough=thorough, read=count
            )
            try:
                while not wait([looking], REPORT_SECONDS).done:
                    report(DownloadProgress("checking", (), 0, 0, *read))
            except BaseException:
                self.stopped.set()
                raise
            return looking.result()

    def plan(self, damage: Damage | None) -> DownloadPlan:
        """The plan, as things are now; `damage` is what was found."""
        return plan_download(
            self.target,
            self.repository,
            self.revision if damage is None or damage.commit is None else damage.commit,
            dense_bits=self.dense_bits,
            context=self.context,
            options=self.options,
            stopped=self.stopped,
            keep_download=self.keep_download,
            damage=damage,
        )

    def first_plan(self, damage: Damage | None) -> tuple[DownloadPlan, Damage | None]:
        """The plan, and `damage` with all that can be known of it."""
        plan = self.plan(damage)
        if damage is None or damage.manifest is not None:
            return plan, damage
        damage = prove(damage, plan, self.stopped)
        self.stopped.check()
        return self.plan(damage), damage


def make_request(
    model: str,
    *,
    path: str | Path | None = None,
    dense_bits: int | None = None,
    context: int = CONTEXT,
    options: FetchOptions | None = None,
    keep_download: bool = False,
    stop: threading.Event | None = None,
) -> Request:
    """The request for `model`, as `download` takes it. Raises `UsageError`."""
    repository, revision = split_name(model)
    return Request(
        _destination(repository, path, dense_bits),
        repository,
        revision,
        dense_bits,
        context,
        FetchOptions() if options is None else options,
        keep_download,
        Stopped(stop),
    )


def _destination(repository: str, path: str | Path | None, dense_bits: int | None) -> Path:
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


@contextmanager
def disk_sentences(target: Path, access: Literal["read", "written to"] = "written to") -> Iterator[None]:
    """Turns what the disk says, when it is read or written to, into sentences: `NotEnoughDisk`, `UsageError`."""
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
            ready = "readable" if access == "read" else "writable"
            raise UsageError(
                f"{error.filename or target.parent} cannot be {access} ({error.strerror}); make it {ready}, set "
                "GPTOSS_HOME to a folder of yours, or name one with --path"
            ) from error
        raise
