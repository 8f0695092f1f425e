"""The download of a model while the app goes on: on a thread, stopped and gone on with. Knows no Textual.

One at a time. It belongs to the app and not to the screen that shows it, so that a person chats while 13.8 GB come.
Whatever ends it, what came stays on the disk, and the next one for the same model goes on there.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from gptoss_mlx.errors import Cancelled, GptOssError, NotEnoughDisk, NotEnoughMemory

if TYPE_CHECKING:
    from gptoss_mlx.convert.download import DownloadReport
    from gptoss_mlx.convert.landing import DownloadProgress

DownloadState: TypeAlias = Literal["none", "running", "stopped", "failed", "done"]


class Download(Protocol):
    """What `gptoss_mlx.download` does, as far as the app asks for it."""

    def __call__(
        self,
        model: str,
        *,
        force: bool,
        progress: "Callable[[DownloadProgress], None]",
        stop: threading.Event,
    ) -> "DownloadReport": ...


class ModelDownload:
    """What is being got, and how far it is."""

    def __init__(self, download: Download | None = None) -> None:
        """`download` is for tests; without it, `gptoss_mlx.download`, imported when the first one begins."""
        self.on_change: Callable[[], object] = lambda: None
        """Called after every change, from any thread, about ten times a second while bytes come."""
        self.model: str | None = None
        """As it was asked for: `20b`."""
        self.state: DownloadState = "none"
        self.progress: DownloadProgress | None = None
        self.bytes_per_second = 0.0
        self.left = ""
        """How much longer the bytes that miss take, in words; empty where nobody can tell."""
        self.error: str | None = None
        self.does_not_fit = False
        """Whether it failed for want of memory or disk alone: `begin(force=True)` tries nevertheless."""
        self._download = download
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, model: str, *, force: bool = False) -> bool:
        """Begins, or goes on, and comes back at once. False, and nothing happens, while another one runs."""
        if self.state == "running":
            return False
        self.model, self.state, self.progress, self.error = model, "running", None, None
        self.bytes_per_second, self.left, self.does_not_fit = 0.0, "", False
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(model, force, self._stop), name="gptoss-download", daemon=True
        )
        self._thread.start()
        self.on_change()
        return True

    def stop(self) -> None:
        """Asks it to end; what came is kept. `on_change` tells when it has ended."""
        self._stop.set()

    def close(self, patience_seconds: float = 5.0) -> None:
        """Stops it and waits until its files are in order, but no longer than that."""
        self.stop()
        if self._thread is not None:
            self._thread.join(patience_seconds)

    def _run(self, model: str, force: bool, stop: threading.Event) -> None:
        from gptoss_mlx.convert.speed import Speed

        speed = Speed()

        def report(progress: "DownloadProgress") -> None:
            self.progress = progress
            if progress.state == "working":
                self.bytes_per_second = speed.update(progress.downloaded_bytes)
                self.left = Speed.left(progress.download_bytes - progress.downloaded_bytes, self.bytes_per_second)
            self.on_change()

        try:
            self._function()(model, force=force, progress=report, stop=stop)
        except Cancelled:
            self.state = "stopped"
        except GptOssError as error:
            self.does_not_fit = isinstance(error, NotEnoughDisk | NotEnoughMemory)
            self.error, self.state = str(error), "failed"
        except Exception as error:
            self.error, self.state = f"the download failed: {type(error).__name__}: {error}", "failed"
        else:
            self.state = "done"
        self.on_change()

    def _function(self) -> Download:
        if self._download is not None:
            return self._download
        from gptoss_mlx.convert.download import download

        return download
