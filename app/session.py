"""The model of the app: none, loading, ready or failed. Loads on a thread of its own; knows no Textual.

One model at a time: the next is read when the one before has been freed, since two large ones do not fit side by side.
Opening another while one loads makes the first load end at its next report. Every change is told to `on_change`, on
whatever thread it happens; progress at most ten times a second.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gptoss_mlx.errors import Cancelled, GptOssError

if TYPE_CHECKING:
    from gptoss_mlx.api import GptOss

SessionState: TypeAlias = Literal["none", "loading", "ready", "failed"]

Progress: TypeAlias = Callable[[int, int], None]

REPORT_SECONDS = 0.1
"""Between two reports of progress."""


Load: TypeAlias = Callable[..., "GptOss"]
"""`gptoss_mlx.load`, called with the name, `context`, `idle_unload_seconds`, `progress`, `checking`, options of every
answer, and, where several machines share the model, `hosts`, `host_mode`, `host_timeout_seconds` and `starting`."""


class ModelSession:
    """Which model answers, and how far it is."""

    def __init__(
        self,
        load: Load | None = None,
        on_change: Callable[[], object] = lambda: None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """`load` is for tests; without it, `gptoss_mlx.load`, imported when the first model is opened. `defaults` are
        options of every answer, under those of the conversation."""
        self.on_change = on_change
        """Called after every change, from any thread."""
        self.name: str | None = None
        """As it was asked for: `pocket`, `20b`, a folder; of the model that is there, `model.name`."""
        self.context: int | None = None
        """Context length that was asked for; None: all that the model was made for."""
        self.state: SessionState = "none"
        self.error: str | None = None
        """Why the model could not be loaded, one sentence."""
        self.progress: tuple[int, int] | None = None
        """Bytes read, and bytes in all; None before the first report and when the model is there."""
        self.checking: tuple[int, int] | None = None
        """Kernels checked, and in all, while that goes on (the first time on a Mac)."""
        self.model: GptOss | None = None
        self.unloaded = False
        """Whether the model that is ready was unloaded, since nobody asked it; the next request loads it again."""
        self.idle_unload_seconds: float | None = None
        """After how long without a request that is; holds from the next `open`."""
        self.hosts: str | None = None
        """The machines that share the model; None: this one alone. Holds from the next `open`."""
        self.host_mode: str | None = None
        """How they share it; None: as seems faster."""
        self.host_timeout_seconds: float | None = None
        """After how long a host that says nothing is given up; None: 10 s."""
        self.starting = ""
        """What is done with the hosts, before and while weights are read."""
        self.before_close: Callable[[GptOss], object] = lambda model: None
        """Called on the loading thread before a model is closed because another one comes."""
        self._load = load
        self._defaults = dict(defaults or {})
        self._lock = threading.Lock()
        self._turnstile = threading.Lock()
        self._number = 0
        self._old: list[GptOss] = []
        self._threads: list[threading.Thread] = []
        """Those that load."""
        self._reported = 0.0

    def open(self, name: str, context: int | None = None) -> None:
        """Begins to load a model and comes back at once; the one before is closed, an answer under way stopped."""
        with self._lock:
            number = self._next(name, "loading")
            self.context = context
            thread = threading.Thread(
                target=self._run, args=(number, name, context), name="gptoss-loading", daemon=True
            )
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]
            thread.start()
        self.on_change()

    def look(self) -> bool:
        """Looks whether the model is in memory; to be called now and then. True: it has just left."""
        model = self.model
        if model is None or (self.idle_unload_seconds is None and not model.hosts):
            return False
        unloaded = not model.memory().loaded
        if unloaded != self.unloaded:
            with self._lock:
                if model is self.model:
                    self.unloaded = unloaded
                    self.progress = self.checking = None
                    self.starting = ""
            self.on_change()
            return unloaded
        return False

    def reload(self) -> None:
        """Opens the same model again, after its engine failed. Nothing happens where none was opened."""
        if self.name is not None:
            self.open(self.name, self.context)

    def close(self) -> None:
        """Frees the model; a loading that is under way ends at its next report. Blocks while the engine ends."""
        with self._lock:
            self._next(None, "none")
        self._close_old()
        self.on_change()

    def wait_until_ended(self, seconds: float) -> bool:
        """After `close`: blocks until nothing loads any more; False when `seconds` passed before."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _next(self, name: str | None, state: SessionState) -> int:
        """Puts the model that is there aside and numbers what comes."""
        self._number += 1
        if self.model is not None:
            self._old.append(self.model)
        self.name, self.state = name, state
        self.error = self.progress = self.checking = self.model = None
        self.unloaded, self.starting = False, ""
        return self._number

    def _close_old(self, *, keep: bool = False) -> None:
        while True:
            with self._lock:
                if not self._old:
                    return
                model = self._old.pop()
            if keep:
                self.before_close(model)
            model.close()

    def _run(self, number: int, name: str, context: int | None) -> None:
        """Loads on this thread; threads take turns, and one that nobody waits for any more does nothing."""
        with self._turnstile:
            self._close_old(keep=True)
            if number != self._number:
                return
            try:
                model = self._loader()(
                    name,
                    context=context,
                    idle_unload_seconds=self.idle_unload_seconds,
                    progress=lambda done, total: self._report(number, "progress", done, total),
                    checking=lambda done, total: self._report(number, "checking", done, total),
                    **self._on_hosts(number),
                    **self._defaults,
                )
            except Exception as error:
                self._settle(number, None, _sentence(error))
            else:
                self._settle(number, model, None)

    def _on_hosts(self, number: int) -> Mapping[str, Any]:
        """How the model is loaded where several machines share it."""
        if self.hosts is None:
            return {}

        def starting(sentence: str) -> None:
            if number == self._number:
                self.starting = sentence
                self.on_change()

        return {
            "hosts": self.hosts,
            "host_mode": self.host_mode,
            "host_timeout_seconds": self.host_timeout_seconds,
            "starting": starting,
        }

    def _settle(self, number: int, model: "GptOss | None", error: str | None) -> None:
        with self._lock:
            current = number == self._number
            if current:
                self.model, self.error = model, error
                self.state = "failed" if model is None else "ready"
                self.progress = self.checking = None
                self.starting = ""
        if current:
            self.on_change()
        elif model is not None:
            model.close()

    def _report(self, number: int, what: Literal["progress", "checking"], done: int, total: int) -> None:
        if number != self._number:
            raise Cancelled(f"loading {self.name} was stopped after {done} of {total}")
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS and done < total:
            return
        self._reported = now
        if what == "progress":
            self.progress = (done, total)
        else:
            self.checking = (done, total)
        self.on_change()

    def _loader(self) -> Load:
        if self._load is not None:
            return self._load
        # MLX and numpy come in here, on this thread, while the screen is up.
        from gptoss_mlx.api import load

        return load


def _sentence(error: Exception) -> str:
    """What went wrong, in one sentence."""
    return str(error) if isinstance(error, GptOssError) else f"loading failed: {type(error).__name__}: {error}"
