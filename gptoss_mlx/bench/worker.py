"""One measured run in a process of its own: `python -m gptoss_mlx.bench.worker REQUEST.json`.

Writes JSON objects to standard output, one a line: {"stage": ...} when a part of the work begins, and at the end
{"figures": {...}} or {"error": "..."}. Everything else that is printed, by whomever, goes to standard error. Standard
input is the line of life: the process ends when the other side of it is closed, so no worker outlives its parent.
"""

import hashlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.distributed.plan import Mode
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.hosts.options import HostOptions

WARM_UP_TOKENS = 4
"""Tokens decoded by the first request after loading, when another one is measured."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one run does."""

    engine: str
    folder: str
    prompt: list[int]
    decode_tokens: int
    warm_up: bool
    hosts: str | None = None
    """The machines that share the model; None: this one alone."""
    host_mode: Mode | None = None
    """How they share it; None: as seems faster."""
    host_timeout_seconds: float | None = None

    def write(self, file: Path) -> None:
        """Puts the request into `file`, as JSON."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> "Request":
        """The request in `file`."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))


def measure(request: Request, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """The figures of one run, in seconds, bytes and tokens per second; `on_stage` hears what begins.

    The first request after loading reads the whole prompt: its first token ends `start_to_first_token_seconds`. With
    `warm_up` it stops soon after, and a second request on an empty cache gives the other figures; without, it gives
    them itself.
    """
    on_stage("importing")
    imports_begin = time.perf_counter()
    import mlx.core as mx

    from gptoss_mlx.bench.engines import make_engine

    how = HostOptions(request.host_mode, request.host_timeout_seconds)
    engine = make_engine(request.engine, hosts=request.hosts, how=how)
    on_stage("loading")
    load_begin = time.perf_counter()
    engine.load(Path(request.folder))
    load_end = time.perf_counter()
    prompt, count = request.prompt, request.decode_tokens
    first: list[tuple[int, float]] = []
    if request.warm_up:
        on_stage("warming up")
        first = engine.decode(prompt, min(WARM_UP_TOKENS, count))
    on_stage("measuring")
    begin = time.perf_counter()
    timed = engine.decode(prompt, count)
    tokens = [token for token, _ in timed]
    if len(tokens) != count:
        raise GptOssError(f"{request.engine} decoded {len(tokens)} tokens; expected {count}")
    ttft, decoding = timed[0][1] - begin, timed[-1][1] - timed[0][1]
    figures = {
        "load_seconds": load_end - load_begin,
        "start_to_first_token_seconds": (first or timed)[0][1] - load_begin,
        "ttft_seconds": ttft,
        "prefill_tokens_per_second": len(prompt) / ttft,
        "decode_tokens_per_second": (count - 1) / decoding,
        "peak_resident_bytes": peak_resident_bytes(),
        "peak_mlx_bytes": engine.peak_mlx_bytes(),
        "import_seconds": load_begin - imports_begin,
        "dtype": engine.dtype(),
        "device": "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu",
        "engine_version": engine.version,
        "prompt_sha256": prompt_digest(prompt),
        "tokens": tokens,
        **({"hosts": shares} if (shares := engine.shares()) else {}),
    }
    engine.close()
    return figures


def prompt_digest(prompt: Sequence[int]) -> str:
    """SHA-256 of the ids as decimal numbers with spaces between them."""
    return hashlib.sha256(" ".join(map(str, prompt)).encode()).hexdigest()


def peak_resident_bytes() -> int:
    """The most memory that this process had in RAM at once."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            # Not ru_maxrss: on Linux a process takes that over from the one that started it.
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def serve(run: Callable[[Path, Callable[[str], None]], dict[str, Any]]) -> int:
    """Has `run` measure what the file that the command line names asks for, and says what comes of it.

    `run` takes the file, and whom to tell of stages; it gives the figures. Gives the exit code.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Whatever a library prints must not come between the lines that the parent reads.
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()

    def say(**line: Any) -> None:
        print(json.dumps(line), file=out, flush=True)

    try:
        say(figures=run(Path(sys.argv[1]), lambda stage: say(stage=stage)))
    except Exception as error:
        import traceback

        traceback.print_exc()
        say(error=str(error) if isinstance(error, GptOssError) else f"{type(error).__name__}: {error}")
        return 1
    return 0


def _end_with_parent() -> None:
    # Below Python's own reader of standard input: its lock, held here for ever, would disturb the interpreter's end.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(serve(lambda file, on_stage: measure(Request.read(file), on_stage)))
