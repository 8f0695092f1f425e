"""Bytes from the hub: in ranges, over several connections, again and again until they are there and right.

    fetch_file      a whole file into a folder, or to many places, resumed, hashed on the way, verified
    fetch_range     a few bytes of a file into memory

A connection that ends, stalls, or is refused for now is opened again after a while, from the byte where it ended; the
wait grows while nothing comes. Errors are what cannot pass by itself, and `give_up_seconds` without a single byte.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import get_session

from gptoss_mlx.convert.hub import RemoteFile, explain, explain_status, hub_headers
from gptoss_mlx.convert.part import POLL_SECONDS, Part, Writer
from gptoss_mlx.convert.places import Run
from gptoss_mlx.errors import Cancelled, ChecksumError, DownloadError, GptOssError

SEGMENT_BYTES: Final = 64 << 20
"""What one request asks for at most: a few seconds of a fast line, so that the hub is asked seldom."""

SMALL_BYTES: Final = 8 << 20
"""A file is cut into requests of no less than this, so that small ones come over one connection."""

SYNC_SECONDS: Final = 2.0
"""At most so much work is lost when the power goes."""

ATTEMPTS: Final = 2
"""How often a file is fetched from its first byte before its checksum is held against it."""

QUIET_SECONDS: Final = 3.0
"""When nothing came for so long, a person is told that the network is waited for."""

DRIP_BYTES: Final = 1 << 10
"""Less than this a second is as good as nothing."""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How a download deals with the network."""

    connections: int = 4
    """Requests at a time; one connection seldom fills a fast line."""
    bytes_per_second: float | None = None
    """A limit for all connections together; None for none."""
    stall_seconds: float = 20.0
    """A connection that is silent for so long is given up and opened again."""
    give_up_seconds: float = 300.0
    """How long nothing at all may come before the download ends with an error."""
    first_wait_seconds: float = 0.5
    """The wait after a first failure; doubled after each one that follows."""
    longest_wait_seconds: float = 30.0


class Stopped:
    """Says when the work is to end: set by the caller, asked by everybody."""

    def __init__(self, event: threading.Event | None = None) -> None:
        self.event = threading.Event() if event is None else event

    def set(self) -> None:
        """Ends the work at its next step."""
        self.event.set()

    def __call__(self) -> bool:
        return self.event.is_set()

    def wait(self, seconds: float) -> None:
        """Sleeps for so long, or until the end."""
        self.event.wait(seconds)

    def check(self) -> None:
        """Raises `Cancelled` at the end."""
        if self.event.is_set():
            raise Cancelled("the download was stopped; the same call goes on with it")


class Limiter:
    """Keeps all connections together below so many bytes a second, and knows when the last ones came."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = self._moved_at = time.monotonic()
        self._trouble: str | None = None

    def begin(self) -> None:
        """Bytes are waited for from now on."""
        self._moved_at, self._trouble = time.monotonic(), None

    def failed(self, reason: GptOssError) -> None:
        """A connection ended; it will be tried again."""
        self._trouble = str(reason).split(";", 1)[0]

    @property
    def stalled(self) -> str | None:
        """Why nothing has come for some seconds; None while something does."""
        if time.monotonic() - self._moved_at < QUIET_SECONDS:
            return None
        return self._trouble or "nothing comes"

    def take(self, count: int, stopped: Stopped) -> None:
        """Waits until `count` bytes that came are allowed."""
        self.begin()
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            wait = self._free_at - now
            self._free_at = max(self._free_at, now) + count / self._rate
        if wait > 0:
            stopped.wait(wait)


class _Passing(Exception):
    """Something that may be over after a while."""

    def __init__(self, reason: GptOssError, wait_seconds: float | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.wait_seconds = wait_seconds
        """What the hub asked for, by Retry-After."""


class _Retries:
    """When to try again, and when no longer; one for all connections of a file."""

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._moved_at = time.monotonic()
        self._bytes = 0
        """What came since then."""
        self._failures = 0

    def moved(self, count: int) -> None:
        """So many bytes came; a few that come now and then do not count."""
        self._bytes += count
        now = time.monotonic()
        if self._bytes >= DRIP_BYTES * (now - self._moved_at):
            self._moved_at, self._bytes, self._failures = now, 0, 0

    def wait(self, failure: _Passing, stopped: Stopped) -> None:
        """Sleeps before the next try. Raises the failure's reason when there have been enough."""
        options = self._options
        pause = min(options.first_wait_seconds * 2.0 ** min(self._failures, 10), options.longest_wait_seconds)
        self._failures += 1
        # Several connections that failed together must not come back together.
        pause *= random.uniform(0.5, 1.0)
        if failure.wait_seconds is not None:
            pause = max(pause, failure.wait_seconds)
        if time.monotonic() + pause - self._moved_at > options.give_up_seconds:
            raise failure.reason
        stopped.wait(pause)


def fetch_range(url: str, file: RemoteFile, start: int, end: int, options: FetchOptions, stopped: Stopped) -> bytes:
    """The bytes of `file` from `start` to `end`. Raises `DownloadError`."""
    data = bytearray()
    retries = _Retries(options)
    while len(data) < end - start:
        stopped.check()
        try:
            with _opened(url, file, start + len(data), end, options) as (response, skip):
                for piece in response.iter_raw():
                    data += piece[skip:]
                    skip = max(skip - len(piece), 0)
                    retries.moved(len(piece))
                    if len(data) >= end - start:
                        break
        except _Passing as failure:
            retries.wait(failure, stopped)
    return bytes(data[: end - start])


def fetch_file(
    url: str,
    folder: Path,
    file: RemoteFile,
    options: FetchOptions,
    limiter: Limiter,
    stopped: Stopped,
    begun: Callable[[Part], None],
) -> Path:
    """`folder / file.name`, whole and verified; goes on with what an earlier call left of it.

    `begun` is given the part when the download begins, and again when it begins anew. Raises `DownloadError`,
    `ChecksumError` when the bytes were wrong twice, `Cancelled`, and OSError for the disk.
    """
    target = folder / file.name
    if not target.is_file() or target.stat().st_size != file.size:
        _fetch_part(url, lambda: Part(folder, file), options, limiter, stopped, begun, None).finish()
    return target


def fetch_to_places(
    url: str,
    folder: Path,
    file: RemoteFile,
    runs: Sequence[Run],
    options: FetchOptions,
    limiter: Limiter,
    stopped: Stopped,
    begun: Callable[[Part], None],
    passed: Callable[[int], None],
) -> Part | None:
    """As `fetch_file`, but the bytes go where `runs` say, and the notes about them stay in `folder`.

    `passed` is told how many of the bytes are hashed, from the first on. Gives the part, for the caller to note that it
    is verified, or None when that was noted before. Raises `GivenGone`, too.
    """

    def make_part() -> Part:
        return Part(folder, file, runs)

    part = make_part()
    if part.was_verified:
        begun(part)
        try:
            whole = part.check_needed(stopped)
        finally:
            part.close()
        stopped.check()
        if whole:
            passed(file.size)
            return None
    else:
        part.close()
    return _fetch_part(url, make_part, options, limiter, stopped, begun, passed)


def _fetch_part(
    url: str,
    make_part: Callable[[], Part],
    options: FetchOptions,
    limiter: Limiter,
    stopped: Stopped,
    begun: Callable[[Part], None],
    passed: Callable[[int], None] | None,
) -> Part:
    """A part whose bytes are all there and right; whoever gets it ends it."""
    found = None
    for _ in range(ATTEMPTS):
        part = make_part()
        begun(part)
        try:
            found = _Fetch(part, url, options, limiter, stopped).run(passed)
        except BaseException:
            part.close()
            raise
        if found == part.file.checksum:
            return part
        part.close()
        part.discard()
    raise ChecksumError(
        f"{part.file.name} arrived with wrong bytes twice (checksum {found}, expected {part.file.checksum}) and was "
        "removed; run the same command again later, on another network or without a proxy or mirror"
    )


class _Fetch:
    """One file over several connections; the calling thread hashes."""

    def __init__(self, part: Part, url: str, options: FetchOptions, limiter: Limiter, stopped: Stopped) -> None:
        self._part = part
        self._url = url
        self._options = options
        self._limiter = limiter
        self._stopped = stopped
        self._retries = _Retries(options)
        self._over = False
        self._failure: BaseException | None = None
        self._whole = False
        """True once the hub sent all of the file where a range was asked for."""
        self._syncing = threading.Lock()
        self._synced_at = time.monotonic()

    def run(self, passed: Callable[[int], None] | None) -> str:
        """The file's checksum, once all of it is there. Raises what ended the download before."""
        self._limiter.begin()
        size = self._part.file.size
        count = max(1, min(self._options.connections, size // SMALL_BYTES))
        # Daemons: one that waits for a silent connection must not keep a stopped program from leaving.
        workers = [
            threading.Thread(target=self._work, args=(number,), name=f"gptoss-fetch-{number}", daemon=True)
            for number in range(count)
        ]
        for worker in workers:
            worker.start()
        try:
            digest = self._part.hash_all(self._ended, passed)
        finally:
            self._over = True
            for worker in workers:
                worker.join(2 * POLL_SECONDS)
        if self._failure is not None:
            raise self._failure
        self._stopped.check()
        assert digest is not None
        return digest

    def _ended(self) -> bool:
        return self._over or self._failure is not None or self._stopped()

    def _work(self, number: int) -> None:
        """Fetches range after range until the file is done or the download ends."""
        size = self._part.file.size
        pieces = max(size // self._options.connections, SMALL_BYTES)
        try:
            while not self._ended():
                if self._whole and number > 0:
                    return
                claim = self._part.claim(size if self._whole else min(SEGMENT_BYTES, pieces))
                if claim is None:
                    # Others may give back what they took, and hashing may find what has to come again.
                    with self._part.changed:
                        self._part.changed.wait(POLL_SECONDS)
                    continue
                try:
                    self._fetch(*claim)
                except _Passing as failure:
                    if not self._ended():
                        self._part.release(claim)
                        claim = None
                        self._limiter.failed(failure.reason)
                        self._retries.wait(failure, self._stopped)
                finally:
                    if claim is not None:
                        self._part.release(claim)
        except BaseException as error:
            if not self._ended():
                self._failure = error
                with self._part.changed:
                    self._part.changed.notify_all()

    def _fetch(self, start: int, end: int) -> None:
        with _opened(self._url, self._part.file, start, end, self._options) as (response, skip):
            self._whole = self._whole or response.status_code == 200
            writer = Writer(self._part, start)
            try:
                self._copy(response, skip, writer, end)
            finally:
                writer.close()
            if writer.position < end and not self._ended():
                raise _Passing(
                    DownloadError(
                        f"{self._part.file.name}: the hub ends after {writer.position} of {self._part.file.size} bytes"
                    )
                )

    def _copy(self, response: httpx2.Response, skip: int, writer: Writer, end: int) -> None:
        window, window_bytes = time.monotonic(), 0
        for data in response.iter_raw():
            if self._ended():
                return
            self._limiter.take(len(data), self._stopped)
            self._retries.moved(len(data))
            window_bytes += len(data)
            if (now := time.monotonic()) - window > self._options.stall_seconds:
                slow = self._options.bytes_per_second is None and window_bytes < DRIP_BYTES * (now - window)
                if slow:
                    raise _Passing(DownloadError(f"{self._part.file.name}: the connection is all but silent"))
                window, window_bytes = now, 0
            piece = memoryview(data)[skip:]
            skip = max(skip - len(data), 0)
            writer.write(piece[: end - writer.position])
            self._sync_now_and_then()
            if writer.position >= end:
                return

    def _sync_now_and_then(self) -> None:
        if time.monotonic() - self._synced_at > SYNC_SECONDS and self._syncing.acquire(blocking=False):
            try:
                self._part.sync()
                self._synced_at = time.monotonic()
            finally:
                self._syncing.release()


@contextmanager
def _opened(
    url: str, file: RemoteFile, start: int, end: int, options: FetchOptions
) -> Iterator[tuple[httpx2.Response, int]]:
    """The hub's answer for the bytes from `start` to `end`, and how many of its bytes come before `start`.

    Turns what the network does, inside the block too, into `_Passing`, and what the hub refuses into `DownloadError`.
    """
    headers = {**hub_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    timeout = httpx2.Timeout(options.stall_seconds, pool=None)
    try:
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            yield response, _check_answer(response, file, start)
    except httpx2.TransportError as error:
        raise _Passing(_network_error(error, file)) from error
    except (httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
        raise DownloadError(f"{file.name}: the hub sends in circles ({error}); run the same command later") from error
    except ConnectionError as error:
        # HF_HUB_OFFLINE, which huggingface_hub checks for every request.
        raise explain(error, file.name) from error


def _check_answer(response: httpx2.Response, file: RemoteFile, start: int) -> int:
    """How many bytes of the answer come before `start`."""
    status = response.status_code
    if status == 206:
        found = response.headers.get("Content-Range", "")
        expected = f"bytes {start}-"
        if not found.startswith(expected) or not found.endswith(f"/{file.size}"):
            raise _Passing(
                DownloadError(
                    f"{file.name}: the hub sends the range {found!r}; expected it to begin at {start} of {file.size} "
                    "bytes; run the same command later, or without a proxy or mirror"
                )
            )
        return 0
    if status == 200:
        length = response.headers.get("Content-Length")
        if length is not None and length != str(file.size):
            raise _Passing(
                DownloadError(
                    f"{file.name}: the hub sends {length} bytes; expected {file.size}; run the same command later, or "
                    "without a proxy or mirror"
                )
            )
        return start
    failure = explain_status(status, file.name)
    if status in (408, 425, 429) or status >= 500:
        asked = None
        with suppress(ValueError):
            asked = float(response.headers.get("Retry-After", ""))
        raise _Passing(failure, asked)
    raise failure


def _network_error(error: httpx2.TransportError, file: RemoteFile) -> DownloadError:
    said = str(error).splitlines()
    reason = "nothing came for a while" if isinstance(error, httpx2.TimeoutException) else said[0] if said else "cut"
    return DownloadError(
        f"{file.name}: the connection failed ({reason}); check the network and run the same command again, it goes on"
    )
