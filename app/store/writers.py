"""Which process writes a running turn, and whether it still lives.

Each store that writes an answer holds a lock on a file of its own, `chats.sqlite3-writers/<name>`, whose name stands in
the turn's row. The system lets go of the lock when the process ends, however it ends: a running turn whose writer's
file can be locked has nobody who writes it. That holds across containers and after the numbers of processes were used
again, where a process id would mislead.
"""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path


def lock_file(path: Path) -> int:
    """A handle of the file, made where it is not there, with the lock held; waits for it. Closing it lets go.

    Raises OSError where no file can be made.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Another app may have swept the file away before it was locked.
            if _is_file(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


class Writer:
    """This store as a writer. Its file is there from the first running turn until `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None
        self.name: str = f"{os.getpid()}-{secrets.token_hex(8)}"
        """Stands in the rows of the turns that it writes."""

    def begin(self) -> None:
        """Holds the lock from now on. Raises OSError where no file can be made."""
        if self._handle is None:
            self._handle = lock_file(self._folder / self.name)

    def is_gone(self, name: str) -> bool:
        """Whether the writer of this name has ended. Never true of this one."""
        return name != self.name and self._try(name, remove=False)

    def sweep(self) -> None:
        """Removes the files of writers that have ended."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name != self.name:
                    self._try(path.name, remove=True)

    def close(self) -> None:
        """Lets go of the lock and removes the file."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                (self._folder / self.name).unlink(missing_ok=True)
            os.close(handle)

    def _try(self, name: str, *, remove: bool) -> bool:
        """Whether nobody holds the lock of this name."""
        path = self._folder / Path(name).name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if remove:
                # While it is locked, so that nobody takes it in between.
                path.unlink(missing_ok=True)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(handle)


def _is_file(handle: int, path: Path) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    held = os.fstat(handle)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
