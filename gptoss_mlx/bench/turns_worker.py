"""One engine plays the conversation of `gptoss bench --turns`, in a process of its own.

`python -m gptoss_mlx.bench.turns_worker REQUEST.json` speaks as `worker` does.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.bench.conversation import ScriptedRequest
from gptoss_mlx.bench.worker import peak_resident_bytes, serve

COLD_TURNS = (2,)
"""Turns whose question is asked once more, from nothing, when the conversation is over."""


@dataclass(frozen=True, slots=True)
class TurnsRequest:
    """What one run does."""

    engine: str
    folder: str
    end_ids: list[int]
    """The tokens that end a message."""
    requests: list[ScriptedRequest]

    def write(self, file: Path) -> None:
        """Puts the request into `file`, as JSON."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> "TurnsRequest":
        """The request in `file`."""
        values = json.loads(file.read_text(encoding="utf-8"))
        values["requests"] = [ScriptedRequest(**request) for request in values["requests"]]
        return cls(**values)


def measure_turns(request: TurnsRequest, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """The figures of one conversation: tokens read and seconds to the first token of each request, in order.

    A warm-up, the first prompt on a cache that is forgotten, comes first.
    """
    on_stage("importing")
    import mlx.core as mx

    from gptoss_mlx.bench.turn_engines import make_turn_engine

    engine = make_turn_engine(request.engine, request.end_ids)
    on_stage("loading")
    engine.load(Path(request.folder))
    on_stage("warming up")
    engine.ask_cold(request.requests[0])
    figures: list[dict[str, Any]] = []
    for asked in request.requests:
        on_stage(f"in turn {asked.turn}")
        read, seconds = engine.ask(asked)
        figures.append({"read_tokens": read, "ttft_seconds": seconds})
    cold: dict[str, float] = {}
    for asked in request.requests:
        if asked.turn in COLD_TURNS and asked.kind == "question":
            on_stage(f"in turn {asked.turn} from nothing")
            cold[str(asked.turn)] = engine.ask_cold(asked)[1]
    results = {
        "requests": figures,
        "cold_ttft_seconds": cold,
        "peak_resident_bytes": peak_resident_bytes(),
        "peak_mlx_bytes": mx.get_peak_memory(),
        "dtype": engine.dtype(),
        "device": "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu",
        "engine_version": engine.version,
    }
    engine.close()
    return results


if __name__ == "__main__":
    sys.exit(serve(lambda file, on_stage: measure_turns(TurnsRequest.read(file), on_stage)))
