"""How `gptoss pull` shows how far it is: bars at a terminal, lines in a pipe, JSON for programs."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final, Protocol

from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.landing import DownloadProgress, State
from gptoss_mlx.convert.speed import Speed
from gptoss_mlx.memory import gigabytes

LINE_SECONDS: Final = 10.0
"""How often a line goes into a pipe."""

JSON_SECONDS: Final = 0.5
"""How often an object goes to a program."""


FAULTS: Final = 5
"""So many faults of a damaged model are named."""


class Display(Protocol):
    """Something that shows a download."""

    def planned(self, plan: DownloadPlan) -> None:
        """What will be done."""

    def update(self, progress: DownloadProgress) -> None:
        """How far it is."""


@contextmanager
def display_for(*, as_json: bool) -> Iterator[Display]:
    """The display that suits standard error, or objects on standard output."""
    if as_json:
        yield JsonDisplay()
    elif sys.stderr.isatty():
        bars = BarDisplay()
        try:
            yield bars
        finally:
            bars.close()
    else:
        yield LineDisplay()


def plan_facts(plan: DownloadPlan) -> dict[str, object]:
    """The plan as one JSON object."""
    fit = plan.fit
    return {
        "type": "plan",
        "folder": str(plan.target),
        "already_there": False,
        "repository": plan.listing.repository,
        "commit": plan.listing.commit,
        "dense_bits": plan.dense_bits,
        "faults": list(plan.faults),
        "files": [
            {"name": step.shard.file.name, "bytes": step.shard.file.size, "cached": step.shard.cached}
            for step in plan.steps
        ],
        **{name: value for name, value in asdict(fit).items() if name != "name"},
        "memory_needed_bytes": fit.memory_needed_bytes,
        "disk_ok": fit.disk_ok,
        "memory_ok": fit.memory_ok,
    }


def fault_lines(plan: DownloadPlan) -> list[str]:
    """What is wrong with the model that is there, for people."""
    if not plan.faults:
        return []
    shown = [*plan.faults[:FAULTS], *([f"and {len(plan.faults) - FAULTS} more"] if len(plan.faults) > FAULTS else [])]
    return [f"{plan.target} is damaged: {'; '.join(shown)}; mending it"]


class LineDisplay:
    """Plain lines on standard error."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._states: dict[str, State] = {}
        self._last = time.monotonic()
        self._waiting = self._checking = self._stalled = False

    def planned(self, plan: DownloadPlan) -> None:
        """The plan in one line, and what is to be known of the fit."""
        for line in fault_lines(plan):
            self._say(line)
        fit = plan.fit
        self._say(
            f"{plan.listing.repository} at {plan.listing.commit[:12]}: {gigabytes(fit.download_bytes)} to download, "
            f"{gigabytes(fit.result_bytes)} when it is ready, {gigabytes(fit.memory_needed_bytes)} of memory to run"
        )

    def update(self, progress: DownloadProgress) -> None:
        """A line when a file's state changes, and one now and then."""
        if progress.state == "checking":
            if not self._checking:
                self._say(f"the model is here already; reading it ({gigabytes(progress.convert_bytes)})")
            self._checking = True
            return
        if progress.state == "waiting":
            if not self._waiting:
                self._say("another process is downloading this model; waiting for it")
            self._waiting = True
            return
        if self._stalled != (progress.stalled is not None):
            self._stalled = not self._stalled
            self._say(
                f"waiting for the network ({progress.stalled}); it goes on by itself"
                if self._stalled
                else "the network is back"
            )
        for file in progress.files:
            if self._states.get(file.name) != file.state and file.state != "waiting":
                words = {"here": "verified", "done": "converted"}.get(file.state, file.state)
                self._say(f"{file.name}: {words} ({gigabytes(file.total_bytes)})")
            self._states[file.name] = file.state
        speed = self._speed.update(progress.downloaded_bytes)
        if progress.state == "working" and time.monotonic() - self._last > LINE_SECONDS:
            self._last = time.monotonic()
            missing = progress.download_bytes - progress.downloaded_bytes
            left = Speed.left(missing, speed)
            self._say(
                f"{gigabytes(progress.downloaded_bytes)} of {gigabytes(progress.download_bytes)} downloaded, "
                f"{speed / 1e6:.1f} MB/s{', ' + left if left else ''}; {gigabytes(progress.converted_bytes)} of "
                f"{gigabytes(progress.convert_bytes)} converted"
            )

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class JsonDisplay:
    """One object a line on standard output."""

    def __init__(self) -> None:
        self._last = 0.0
        self._states: tuple[str, ...] = ()

    def planned(self, plan: DownloadPlan) -> None:
        """The plan."""
        print(json.dumps(plan_facts(plan)), flush=True)

    def update(self, progress: DownloadProgress) -> None:
        """The progress, twice a second and whenever a file's state changes."""
        states = (progress.state, *(file.state for file in progress.files))
        if states != self._states or time.monotonic() - self._last > JSON_SECONDS:
            self._states, self._last = states, time.monotonic()
            print(json.dumps({"type": "progress", **asdict(progress)}), flush=True)


class BarDisplay:
    """A bar for each file and for the whole, at a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

        self._speed = Speed()
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}

    def planned(self, plan: DownloadPlan) -> None:
        """The plan and the table of the fit."""
        self._bars.stop()
        for line in fault_lines(plan):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._console.print(f"{plan.listing.repository} at {plan.listing.commit[:12]}", highlight=False)
        for line in plan.fit.lines():
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._bars.start()

    def update(self, progress: DownloadProgress) -> None:
        """Moves the bars."""
        if progress.state == "checking":
            self._bars.start()
            self._move("checking", progress.converted_bytes, progress.convert_bytes, "the model is here already")
            return
        if progress.state == "waiting":
            self._move("waiting", 0, None, "another process is downloading this model")
            return
        for name in {"checking", "waiting"} & self._tasks.keys():
            self._bars.remove_task(self._tasks.pop(name))
        if progress.state == "done":
            return
        for file in progress.files:
            words = {"here": "verified", "done": "converted"}.get(file.state, file.state)
            self._move(file.name, file.done_bytes, file.total_bytes, words)
        speed = self._speed.update(progress.downloaded_bytes)
        left = Speed.left(progress.download_bytes - progress.downloaded_bytes, speed)
        note = f"{speed / 1e6:.1f} MB/s  {left}".strip() if progress.stalled is None else "waiting for the network"
        self._move("downloaded", progress.downloaded_bytes, progress.download_bytes, note)
        self._move("converted", progress.converted_bytes, progress.convert_bytes, "")

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._bars.stop()

    def _move(self, name: str, done: int, total: int | None, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)
