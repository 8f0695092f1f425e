"""The parent of the measured runs: starts one process after the other, the engines in turn, and collects what they say.

Imports no MLX and holds no model, so that a run has the machine to itself. When a run fails or Ctrl-C comes, its
process is ended and what was measured before it is kept.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from gptoss_mlx.bench.plan import OURS, Plan
from gptoss_mlx.bench.worker import Request
from gptoss_mlx.command_buffers import environment_without_limits
from gptoss_mlx.errors import GptOssError

WORKER = (sys.executable, "-m", "gptoss_mlx.bench.worker")
"""The command of a run; the request's file follows."""

LAST_LINES = 3
"""Lines of a failed run's standard error that its message quotes."""

LINE_LENGTH = 300
"""Characters of such a line that are quoted at most."""


class WorkerRequest(Protocol):
    """What a worker is asked to do."""

    @property
    def engine(self) -> str:
        """The engine that runs."""
        ...

    def write(self, file: Path) -> None:
        """Puts the request into `file`, as JSON."""
        ...


@dataclass
class Outcome:
    """What a benchmark gave."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    """The figures of each run in the order in which they were measured, with `engine` and `run` (from 1)."""
    error: str | None = None
    """Why it ended early: one sentence."""
    interrupted: bool = False
    """Whether Ctrl-C ended it."""


class RunFailed(GptOssError):
    """A measured run ended without figures."""


def run_race(
    plan: Plan, *, on_line: Callable[[str], None] = lambda line: None, worker: Sequence[str] = WORKER
) -> Outcome:
    """Measures every run of `plan`; `on_line` hears of each run's begin and end, in words.

    It ends at the first run that fails. Never raises for what a run does, nor for Ctrl-C.
    """
    settings = plan.settings

    def request_of(engine: str) -> Request:
        folder = str(plan.folder_of(engine).resolve())
        request = Request(engine, folder, plan.prompt, settings.decode_tokens, settings.warm_up)
        if engine == OURS and settings.hosts is not None:
            return replace(
                request,
                hosts=settings.hosts,
                host_mode=settings.host_mode,
                host_timeout_seconds=settings.host_timeout_seconds,
            )
        return request

    def in_words(figures: Mapping[str, Any]) -> str:
        return (
            f"prefill {figures['prefill_tokens_per_second']:.1f} tok/s, "
            f"decode {figures['decode_tokens_per_second']:.1f} tok/s"
        )

    return take_turns(
        plan.engines,
        settings.runs,
        request_of,
        timeout_seconds=settings.timeout_seconds,
        worker=worker,
        in_words=in_words,
        on_line=on_line,
    )


def take_turns(
    engines: Sequence[str],
    runs: int,
    request_of: Callable[[str], WorkerRequest],
    *,
    timeout_seconds: float,
    worker: Sequence[str],
    in_words: Callable[[Mapping[str, Any]], str],
    on_line: Callable[[str], None],
) -> Outcome:
    """Has `worker` measure each of `engines` in turn, `runs` times; `in_words` says a run's figures in short.

    It ends at the first run that fails. Never raises for what a run does, nor for Ctrl-C.
    """
    outcome = Outcome()
    total = runs * len(engines)
    try:
        for run in range(1, runs + 1):
            for engine in engines:
                on_line(f"[{len(outcome.runs) + 1}/{total}] {engine}, run {run} of {runs} ...")
                label = f"{engine}, run {run} of {runs},"
                figures = run_worker(request_of(engine), label, timeout_seconds, worker)
                outcome.runs.append({"engine": engine, "run": run, **figures})
                on_line(f"      {in_words(figures)}")
    except RunFailed as failure:
        outcome.error = str(failure)
    except KeyboardInterrupt:
        outcome.interrupted = True
        outcome.error = f"stopped by Ctrl-C after {len(outcome.runs)} of {total} runs"
    return outcome


def run_worker(request: WorkerRequest, label: str, timeout_seconds: float, worker: Sequence[str]) -> dict[str, Any]:
    """The figures of one run in a process of its own. Raises RunFailed, with `label` at the start of its sentence."""
    with tempfile.TemporaryDirectory(prefix="gptoss-bench-") as name, tempfile.TemporaryFile() as errors:
        file = Path(name) / "request.json"
        request.write(file)
        process = subprocess.Popen(
            [*worker, str(file)],
            # A pipe that is never written to: the worker ends when we do, however that comes.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Out of reach of the terminal's Ctrl-C, and with all that it starts within reach of ours.
            process_group=0,
            # Another engine runs as it would without us.
            env=None if request.engine == OURS else environment_without_limits(),
        )
        try:
            stage, last, timed_out = _listen(process, timeout_seconds)
        finally:
            _end(process)
        if "figures" in last:
            return dict(last["figures"])
        where = f"while {stage}" if stage else "before it began"
        if timed_out:
            what = f"was ended {where}: it took longer than {timeout_seconds:g} s (see --timeout)"
        elif "error" in last:
            what = f"failed {where}: {last['error']}"
        else:
            what = f"{_how_it_ended(process.returncode)} {where}"
        raise RunFailed(f"{label} {what}{'' if 'error' in last else _quoted(errors)}")


def _listen(process: "subprocess.Popen[bytes]", timeout_seconds: float) -> tuple[str, dict[str, Any], bool]:
    """Reads what a worker says until it closes its output: the last stage, its last word, and whether time ran out."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_seconds
    stage, last, pending = "", dict[str, Any](), b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            if not (chunk := os.read(process.stdout.fileno(), 1 << 16)):
                # The output closes a moment before the process is gone, and only then is its exit code known.
                try:
                    process.wait(max(deadline - time.monotonic(), 1.0))
                except subprocess.TimeoutExpired:
                    return stage, last, "figures" not in last
                return stage, last, False
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if isinstance(said, dict):
                    stage = said.get("stage", stage)
                    last = said
    return stage, last, True


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a worker, and what it started, if it has not ended by itself; waits until it is gone."""
    if process.poll() is None:
        # SIGKILL: inside a long evaluation nothing softer is heard, and there is nothing to tidy up.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and without figures"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", which is what happens when memory runs out," if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _quoted(errors: Any) -> str:
    """The last lines of a run's standard error, for its message."""
    errors.seek(max(errors.seek(0, os.SEEK_END) - (1 << 16), 0))
    text = errors.read().decode("utf-8", errors="replace")
    lines = [line.strip()[:LINE_LENGTH] for line in text.splitlines() if line.strip()]
    return f"; its last words: {' | '.join(lines[-LAST_LINES:])}" if lines else ""
