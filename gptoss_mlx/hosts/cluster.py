"""All ranks as the front end has them: commands to all of them in one order, results of the first, and a watch on each.

A host counts as lost when its line ends, when it says nothing for `patience_seconds`, and when all say that they live
but a command makes no progress for longer than it may take (`call`'s `limit_seconds`): then the link between them
stalls. All ranks are ended then, since none can compute without the others. Owns: the lines, the watch. Does not own:
what commands mean (`commands`), which are given when (`start`, `remote_model`).
"""

import atexit
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gptoss_mlx import errors
from gptoss_mlx.errors import EngineError, GptOssError, HostLost, HostsError
from gptoss_mlx.hosts.addresses import Host
from gptoss_mlx.hosts.frames import Array, BrokenLine
from gptoss_mlx.hosts.process import RankProcess

START_SECONDS: Final = 30.0
"""How long a rank may take until it says who it is: ssh, and starting Python."""

BEAT_SECONDS: Final = 1.0
"""Between two signs of life to the ranks."""

LATE_SECONDS: Final = 2.0
"""A rank that has said nothing for so long is to blame when nothing comes of what all do; signs of life come twice a
second."""

BLAME_SECONDS: Final = 1.5
"""When a rank fails, so long is waited for the end of another one, which is then the cause."""

END_SECONDS: Final = 2.0
"""How long ranks may take to end by themselves."""

AGAIN: Final = "the conversation is as it was, and the next message starts the hosts again"

_live: "weakref.WeakSet[Cluster]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rank gave for a command."""

    values: dict[str, Any]
    array: Array | None = None


@dataclass
class _Rank:
    """A rank, and what came from it."""

    number: int
    process: RankProcess
    heard: float
    hello: dict[str, Any] | None = None
    memory: tuple[int, int, int] = (0, 0, 0)
    answers: dict[int, Answer] = field(default_factory=dict)
    errors: dict[int, tuple[str, str]] = field(default_factory=dict)
    progress: deque[tuple[int, int, int]] = field(default_factory=deque)
    ended: str | None = None
    """Why its line ended, once it has."""
    alone: bool = False
    """Whether it is the only one."""

    @property
    def called(self) -> str:
        """For messages."""
        return self.process.host.name if self.alone else f"{self.process.host.name} (rank {self.number})"


class Cluster:
    """The ranks of one model. `call` from one thread at a time; `close` from any."""

    def __init__(self, hosts: Sequence[Host], *, patience_seconds: float) -> None:
        """Starts a rank on each host; `wait_until_there` says whether they came up.

        Raises HostsError when a process cannot be started.
        """
        self.hosts = tuple(hosts)
        self.patience_seconds = patience_seconds
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._lost: HostLost | None = None
        self._closed = False
        self._started = False
        self._over = threading.Event()
        """Set once no rank is left."""
        self._ranks: list[_Rank] = []
        for number, host in enumerate(hosts):
            try:
                process = RankProcess(host, patience_seconds=patience_seconds)
            except OSError as error:
                self._end_all(0.0)
                raise HostsError(f"no rank can be started on {host.name}: {error}") from error
            self._ranks.append(_Rank(number, process, time.monotonic(), alone=len(hosts) == 1))
        _live.add(self)
        for rank in self._ranks:
            threading.Thread(target=self._listen, args=(rank,), name="gptoss-rank", daemon=True).start()
        threading.Thread(target=self._watch, name="gptoss-hosts-watch", daemon=True).start()

    # What it is asked

    @property
    def lost(self) -> HostLost | None:
        """Why it is of no use any more; None while it is."""
        return self._lost

    @property
    def closed(self) -> bool:
        """Whether its ranks have ended or are about to."""
        return self._closed

    @property
    def pids(self) -> list[int]:
        """The number of each rank's process on its host."""
        return [rank.process.remote_pid or 0 for rank in self._ranks]

    @property
    def memory(self) -> list[tuple[int, int, int]]:
        """What MLX holds on each rank, by its last sign of life: now, kept of freed memory, at most."""
        return [rank.memory for rank in self._ranks]

    def called(self, number: int) -> str:
        """A rank's name for messages."""
        return self._ranks[number].called

    # What it does

    def wait_until_there(self) -> list[dict[str, Any]]:
        """What each rank says of itself. Raises HostsError for one that does not come up."""
        deadline = time.monotonic() + START_SECONDS
        with self._changed:
            while True:
                if self._closed:
                    raise HostLost("the hosts were let go of while they were being started")
                for rank in self._ranks:
                    if rank.ended is not None:
                        raise HostsError(f"{rank.called} could not be started: {rank.ended}")
                if all(rank.hello is not None for rank in self._ranks):
                    break
                left = deadline - time.monotonic()
                if left <= 0:
                    missing = next(rank for rank in self._ranks if rank.hello is None)
                    raise HostsError(
                        f"{missing.called} did not start within {START_SECONDS:.0f} s; see whether `ssh "
                        f"{missing.process.host.name}` connects, and what `gptoss hosts check` says"
                    )
                self._changed.wait(min(left, 0.5))
            self._started = True
            return [rank.hello or {} for rank in self._ranks]

    def tell(self, op: str, **values: Any) -> None:
        """Gives all ranks a command whose result nobody waits for; if it fails, a later one does. Raises HostLost."""
        self._send(op, {**values, "quiet": True}, None)

    def call(
        self,
        op: str,
        *,
        limit_seconds: float | None,
        of_all: bool = False,
        each: Sequence[dict[str, Any]] | None = None,
        progress: Callable[[int, int, int], None] | None = None,
        **values: Any,
    ) -> list[Answer]:
        """Gives all ranks a command and waits: for the first rank's result, or `of_all`.

        `each` are values for each rank by itself; `progress(rank, done, total)` hears how far they are, on this thread.
        `limit_seconds` without a result or progress are too long; None goes by signs of life alone. Raises HostLost,
        and what a rank raised: a command that failed on some ranks only ends them all.
        """
        number = self._send(op, values, each)
        awaited = self._ranks if of_all else self._ranks[:1]
        moved = time.monotonic()
        while True:
            with self._changed:
                reports = self._take_reports(number)
                failed = any(rank.errors for rank in self._ranks)
                done = all(number in rank.answers for rank in awaited)
                if not (reports or failed or done or self._closed):
                    self._changed.wait(0.25)
            if reports:
                moved = time.monotonic()
                if progress is not None:
                    for report in reports:
                        progress(*report)
            if failed:
                raise self._failure(number)
            if self._closed:
                raise self._gone()
            if done:
                with self._changed:
                    return [rank.answers.pop(number) for rank in awaited]
            if limit_seconds is not None and time.monotonic() - moved > limit_seconds:
                raise self._lose(self._stalled(number, awaited, limit_seconds))

    def close(self) -> None:
        """Ends all ranks. Safe to call twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        for rank in self._ranks:
            try:
                rank.process.writer.write({"op": "exit"})
            except (BrokenLine, OSError, ValueError):
                continue
        self._end_all(END_SECONDS)

    # How it works

    def _send(self, op: str, values: dict[str, Any], each: Sequence[dict[str, Any]] | None) -> int:
        number = next(self._numbers)
        for rank in self._ranks:
            if self._closed:
                raise self._gone()
            own = {} if each is None else each[rank.number]
            try:
                rank.process.writer.write({"op": op, "id": number, **values, **own})
            except (BrokenLine, OSError, ValueError) as error:
                raise self._lose(self._ended(rank, self._why_ended(rank) or str(error))) from error
        return number

    def _why_ended(self, rank: _Rank) -> str | None:
        """What the thread that listens to it found of its end; None where it finds nothing for a while."""
        with self._changed:
            self._changed.wait_for(lambda: rank.ended is not None, BLAME_SECONDS)
            return rank.ended

    def _take_reports(self, number: int) -> list[tuple[int, int, int]]:
        reports = []
        for rank in self._ranks:
            while rank.progress:
                of, done, total = rank.progress.popleft()
                if of == number:
                    reports.append((rank.number, done, total))
            # Of commands that only the first rank is waited for.
            for old in [old for old in rank.answers if old < number]:
                del rank.answers[old]
        return reports

    def _gone(self) -> HostLost:
        """Why there are no ranks any more."""
        return self._lose(HostLost(f"the hosts were let go of; {AGAIN}"))

    def _failure(self, number: int) -> GptOssError:
        """What a rank raised, for the caller. They go on only if all of them raised it for command `number`, before any
        work."""
        deadline = time.monotonic() + BLAME_SECONDS
        with self._changed:
            while time.monotonic() < deadline and self._lost is None:
                if all(rank.errors for rank in self._ranks):
                    break
                self._changed.wait(0.1)
            these = all(set(rank.errors) == {number} for rank in self._ranks)
            found = [(rank, *error) for rank in self._ranks for error in list(rank.errors.values())[:1]]
            # One that only says that another one failed is not the cause.
            found.sort(key=lambda failed: failed[1] == "PeerFailed")
            together = these and len({kind for _, kind, _ in found}) == 1
            for rank in self._ranks:
                rank.errors.clear()
        if self._lost is not None:
            return self._lose(self._lost)
        rank, kind, message = found[0]
        if together and kind in ("UsageError", "ContextOverflow"):
            return _raised(kind, message)
        if kind == "EngineError" or "[ring]" in message:
            return self._lose(HostLost(f"{rank.called} failed ({message}); {AGAIN}"))
        # The others may be in the midst of it, waiting for this one.
        self._lose(HostLost(f"{rank.called} failed: {message}"))
        error = _raised(kind, message if together else f"{rank.called}: {message}")
        error.__cause__ = self._lost
        return error

    def _listen(self, rank: _Rank) -> None:
        """The thread that reads what one rank says."""
        why: str | None = None
        try:
            if rank.process.reader.skip_to_mark():
                while (message := rank.process.reader.read()) is not None:
                    self._take(rank, *message)
        except BrokenLine as error:
            why = str(error)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"its line is broken ({error!r})"
        if why is None:
            why = rank.process.why_it_ended()
        with self._changed:
            rank.ended = why
            self._changed.notify_all()
        rank.process.reader.close()
        if self._started:
            self._lose(self._ended(rank, why))

    def _take(self, rank: _Rank, values: dict[str, Any], array: Array | None) -> None:
        with self._changed:
            rank.heard = time.monotonic()
            if "beat" in values:
                active, cached, peak = values["beat"]
                rank.memory = (int(active), int(cached), int(peak))
                return
            if "hello" in values:
                rank.hello = dict(values["hello"])
                rank.process.remote_pid = int(rank.hello["pid"])
            elif "progress" in values:
                done, total = values["progress"]
                rank.progress.append((int(values["id"]), int(done), int(total)))
            elif "error" in values:
                rank.errors[int(values["id"])] = (str(values["error"]["type"]), str(values["error"]["message"]))
            else:
                rank.answers[int(values["id"])] = Answer(dict(values["result"]), array)
            self._changed.notify_all()

    def _watch(self) -> None:
        """The thread that gives the ranks signs of life and misses theirs."""
        looked = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._lost is not None, BEAT_SECONDS)
                if self._closed or self._lost is not None:
                    return
                now = time.monotonic()
                if now - looked > BEAT_SECONDS + 1.0:
                    # This process stood still, suspended perhaps: what they said meanwhile is still to be read.
                    for rank in self._ranks:
                        rank.heard = now
                looked = now
            for rank in self._ranks:
                silent = time.monotonic() - rank.heard
                if rank.hello is not None and silent > self.patience_seconds:
                    self._lose(self._silent(rank, silent))
                    return
                try:
                    rank.process.writer.write({"beat": 1})
                except (BrokenLine, OSError, ValueError):
                    # Its reader sees the end, and says why.
                    continue

    def _stalled(self, number: int, awaited: Sequence[_Rank], limit_seconds: float) -> HostLost:
        silent = max(self._ranks, key=lambda rank: time.monotonic() - rank.heard)
        if (seconds := time.monotonic() - silent.heard) > LATE_SECONDS:
            return self._silent(silent, seconds)
        late = [rank.called for rank in awaited if number not in rank.answers]
        return HostLost(
            f"the hosts live, but nothing came of what they do together for {limit_seconds:.0f} s (waiting for "
            f"{', '.join(late)}): the link between them stalls; `gptoss hosts check` measures it; {AGAIN}"
        )

    def _silent(self, rank: _Rank, seconds: float) -> HostLost:
        return HostLost(
            f"{rank.called} has said nothing for {seconds:.0f} s: it hangs, or the network to it is gone; {AGAIN}"
        )

    def _ended(self, rank: _Rank, why: str) -> HostLost:
        return HostLost(f"{rank.called} is lost: {why}; {AGAIN}")

    def _lose(self, error: HostLost) -> HostLost:
        """Notes that it is of no use any more, and ends what is left of it; gives the first reason."""
        with self._changed:
            first = not self._closed
            if first:
                self._lost, self._closed = error, True
                self._changed.notify_all()
        if first:
            self._end_all(0.0)
        else:
            # Who raises this may be about to end the process, and another thread is still ending ranks.
            self._over.wait(END_SECONDS)
        return self._lost or error

    def _end_all(self, grace_seconds: float) -> None:
        if grace_seconds:
            for rank in self._ranks:
                rank.process.let_go()
        deadline = time.monotonic() + grace_seconds
        for rank in self._ranks:
            rank.process.end(max(0.0, deadline - time.monotonic()))
            rank.process.let_go()
        self._over.set()


@atexit.register
def _close_all() -> None:
    """Ends what nobody has closed."""
    for cluster in list(_live):
        cluster.close()


def _raised(kind: str, message: str) -> GptOssError:
    """The error of this name; those that take more than a message, and unknown ones, as an EngineError."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, GptOssError) and kind != "ContextOverflow":
        return found(message)
    return EngineError(message)
