"""A model that is in memory while it is needed: loaded, unloaded when nobody asks for long, loaded again.

All of it happens on the engine's thread. Whoever keeps caches for the model says how they are dropped (`when_short`):
that is done when the model goes, and when an operation found no memory, so that the next one finds some.

Owns: whether the weights are there, and what goes when memory is short. Does not own: the thread and its jobs
(`engine`), how MLX says that memory is short (`memory_limits`).
"""

import gc
from collections.abc import Callable

import mlx.core as mx

from gptoss_mlx.errors import EngineError, GptOssError, HostsError, NotEnoughMemory
from gptoss_mlx.memory_limits import as_shortage, is_shortage
from gptoss_mlx.model import Model


class Residence:
    """One model, in memory or not."""

    def __init__(self, load: Callable[[], Model], idle_seconds: float | None = None) -> None:
        self._load = load
        self._idle_seconds = idle_seconds
        self._model: Model | None = None
        self._failure: BaseException | None = None
        self._drops: list[Callable[[], None]] = []

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory. May be asked from any thread."""
        return self._model is not None

    @property
    def patience_seconds(self) -> float | None:
        """How long to wait for work before `unload`; None: for ever."""
        return self._idle_seconds if self.loaded else None

    def model(self) -> Model:
        """The model, loaded if it is not there, or is lost.

        Raises what loading raises; the same again the next time, except where there was no memory, or a host could not
        take part: then it is tried anew.
        """
        if self._failure is not None and not isinstance(self._failure, NotEnoughMemory | HostsError):
            raise self._failure
        if isinstance(self._model, Model) and self._model.lost:
            self.unload()
        if self._model is None:
            try:
                self._model = self._load()
            except BaseException as error:
                self._failure = as_engine_error(error, "loading the model failed", "for the weights")
                raise self._failure from self._failure.__cause__
            self._failure = None
        return self._model

    def when_short(self, drop: Callable[[], None]) -> None:
        """Has `drop` called, on the engine's thread, when memory is short and when the model is unloaded."""
        self._drops.append(drop)

    def unload(self) -> None:
        """Lets the model and all that is kept for it go."""
        if isinstance(self._model, Model):
            self._model.close()
        self._model = None
        self.make_room()

    def make_room(self) -> None:
        """Lets go of what is kept to save time: caches, and MLX's freed memory."""
        for drop in self._drops:
            drop()
        # What an error went through may hold itself, and arrays with it.
        gc.collect()
        mx.clear_cache()


def as_engine_error(error: BaseException, what: str, purpose: str = "for this request") -> BaseException:
    """A GptOssError as it is; want of memory as NotEnoughMemory; anything else wrapped, with the original as cause.

    `what` failed; `purpose` is what memory was needed for.
    """
    if isinstance(error, GptOssError):
        return error
    if is_shortage(error):
        return as_shortage(error, purpose)
    wrapped = EngineError(f"{what}: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
