"""A file's pages in place of memory that was to hold the same bytes: on Linux, so that loading copies nothing.

    ├─ first page ─┼─ whole pages ───────────────┼─ last page ─┤
         ▲ the array's bytes begin here                  end here ▲
         read                 the file's own pages          read

MLX has no arrays on mapped files where there is no GPU, but it says where it wants an array's bytes. Whole pages there
are replaced by the file's: nothing is read before it is used, nothing is held twice, and a model that was used lately
is in the system's cache already. The pages are private: a write changes memory and never the file. Freeing the array
gives them back like any memory. As with every mapped file, whoever cuts the file off while it is in use crashes the
process that uses it.

Owns: the system call. Does not own: which tensors it is good for (`tensor_file`).
"""

import contextlib
import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

PAGE_BYTES: Final = mmap.PAGESIZE
"""What the system maps at once."""

LARGE_BYTES: Final = (32 << 20) + 1
"""From here on the C library takes every allocation from the system by itself (M_MMAP_THRESHOLD_MAX of glibc's malloc),
so that no other object ever lives in pages that were replaced."""

READ_AHEAD_BYTES: Final = 32 << 20
"""What the system is asked to bring into its cache at once."""

_MAP_FIXED: Final = 0x10


def can_replace_pages() -> bool:
    """Whether this system can: Linux with glibc."""
    return sys.platform == "linux" and _mmap() is not None


def first_byte(buffer: Bytes, offset: int) -> int:
    """Where in `buffer` a file's bytes from `offset` on must begin for its pages to fit: less than a page."""
    return (offset - buffer.ctypes.data) % PAGE_BYTES


def replace_pages(buffer: Bytes, file: Path, offset: int) -> tuple[int, int]:
    """Puts the file's pages in place of the whole pages in `buffer`, whose first byte is the file's byte `offset`.

    Gives the part of `buffer` that holds the file's bytes now, as (start, stop); the rest is as it was. (0, 0) when the
    file is gone or shorter, or the system refuses. Both must be equally far into a page, which `first_byte` sees to.
    """
    system_mmap = _mmap()
    address = buffer.ctypes.data
    assert (address - offset) % PAGE_BYTES == 0, "the file's pages do not fit here"
    start = -address % PAGE_BYTES
    stop = start + (len(buffer) - start) // PAGE_BYTES * PAGE_BYTES
    if system_mmap is None or stop <= start:
        return 0, 0
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size < offset + stop:
                # Pages past the end of a file crash whoever looks at them; reading says what is wrong.
                return 0, 0
            found = system_mmap(
                address + start,
                stop - start,
                mmap.PROT_READ | mmap.PROT_WRITE,
                mmap.MAP_PRIVATE | _MAP_FIXED,
                opened.fileno(),
                offset + start,
            )
    except OSError:
        # Reading says what is wrong with the file.
        return 0, 0
    return (start, stop) if found == address + start else (0, 0)


def read_ahead(parts: Iterable[tuple[Path, int, int]]) -> None:
    """Has the system bring parts of files, (file, offset, bytes) each, into its cache, one after the other, meanwhile.

    Pages that are read when they are first looked at come in small pieces; this reads them in large ones, in the order
    in which they are going to be used. A thread of its own does it, which ends with the process.
    """

    def read_all() -> None:
        for file, offset, length in parts:
            # The file may be gone by now, which those who mapped it do not mind.
            with contextlib.suppress(OSError), file.open("rb") as opened:
                for start in range(offset, offset + length, READ_AHEAD_BYTES):
                    count = min(READ_AHEAD_BYTES, offset + length - start)
                    os.posix_fadvise(opened.fileno(), start, count, os.POSIX_FADV_WILLNEED)

    if hasattr(os, "posix_fadvise"):
        threading.Thread(target=read_all, name="gptoss-read-ahead", daemon=True).start()


def advise_huge_pages(buffer: Bytes) -> None:
    """Asks Linux for large pages under `buffer`, before it is touched: small ones by the million take seconds."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return
    start = -buffer.ctypes.data % PAGE_BYTES
    length = (len(buffer) - start) // PAGE_BYTES * PAGE_BYTES
    # Advice only: where it is not taken, everything works as it would without.
    ctypes.CDLL(None).madvise(
        ctypes.c_void_p(buffer.ctypes.data + start), ctypes.c_size_t(max(length, 0)), ctypes.c_int(advice)
    )


@cache
def _mmap() -> Any:
    """The C library's mmap, or None where it is not glibc's."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    function = library.mmap
    function.restype = ctypes.c_size_t
    function.argtypes = (
        ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    )  # fmt: skip
    return function
