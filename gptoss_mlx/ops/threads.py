"""Work shared among a processor's cores: several threads, each with a BLAS of one thread.

OpenBLAS, which numpy brings along, has threads of its own. After each product they wait for the next one at full
speed, for tens of milliseconds, and take the core from whatever comes in between: MLX's streams, or the expanding of
the next weights. So while work is shared here, OpenBLAS computes on the calling thread only, and the cores are kept
busy by calling it from several threads.

Owns: those threads, and OpenBLAS's setting while they run. Does not own: what they compute.
"""

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Final, NamedTuple

from gptoss_mlx.device import this_device

MOST_THREADS: Final = 16
"""Threads that share work at most."""


def share(count: int, work: Callable[[int, int], None], *, parts: int | None = None) -> None:
    """Calls `work(start, stop)` for consecutive parts of `range(count)`, all at once; returns when all are done.

    There are as many parts as threads, or `parts` if that is fewer; the caller's thread takes the first.
    """
    parts = max(1, min(count, thread_count(), count if parts is None else parts))
    bounds = [count * part // parts for part in range(parts + 1)]
    with _blas_on_one_thread():
        others: list[Future[None]] = [
            _pool().submit(work, start, stop) for start, stop in itertools.pairwise(bounds[1:])
        ]
        try:
            work(0, bounds[1])
        finally:
            # Whatever happens, nobody may write into the caller's arrays after this.
            errors = [future.exception() for future in others]
    for error in errors:
        if error is not None:
            raise error


@cache
def thread_count() -> int:
    """Threads that share work: a core each, and no more than OpenBLAS was allowed when this was first asked.

    One if numpy's BLAS is not OpenBLAS: then each product is shared among threads by the BLAS itself.
    """
    setting = _openblas()
    return 1 if setting is None else min(setting.get(), this_device().cpu_cores, MOST_THREADS)


class _OpenBlas(NamedTuple):
    """How many threads OpenBLAS uses, in the whole process."""

    get: Callable[[], int]
    set: Callable[[int], None]


@cache
def _openblas() -> _OpenBlas | None:
    # A library's symbols include those of the libraries that it is linked to. Numpy's own build has a prefix and a
    # suffix on OpenBLAS's names, others have neither.
    spec = find_spec("numpy._core._multiarray_umath")
    try:
        library = ctypes.CDLL(spec.origin if spec is not None and spec.origin is not None else "")
    except OSError:
        return None
    for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
        try:
            get = library[f"{prefix}openblas_get_num_threads{suffix}"]
            put = library[f"{prefix}openblas_set_num_threads{suffix}"]
        except AttributeError:
            continue
        get.restype, put.restype, put.argtypes = ctypes.c_int, None, (ctypes.c_int,)
        return _OpenBlas(get, put)
    return None


_lock = threading.Lock()
_sharers = 0
_threads_before = 0


@contextmanager
def _blas_on_one_thread() -> Iterator[None]:
    """Restores what it found when the last of those who are inside at the same time leaves."""
    global _sharers, _threads_before
    setting = _openblas()
    if setting is None:
        yield
        return
    with _lock:
        if _sharers == 0:
            _threads_before = setting.get()
            setting.set(1)
        _sharers += 1
    try:
        yield
    finally:
        with _lock:
            _sharers -= 1
            if _sharers == 0:
                setting.set(_threads_before)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="gptoss-cpu")
