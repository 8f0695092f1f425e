"""`gptoss bench --turns`: what is to be played, and the runs of it, each engine in a process of its own.

Imports no MLX and holds no model, as `race`, which starts the processes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.bench.conversation import ScriptedRequest, make_conversation
from gptoss_mlx.bench.plan import OURS, check, find_models
from gptoss_mlx.bench.race import Outcome, take_turns
from gptoss_mlx.bench.turns_worker import TurnsRequest
from gptoss_mlx.checkpoint import find_tokenizer
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import UsageError
from gptoss_mlx.models import FoundModel
from gptoss_mlx.tokenizer import Tokenizer

WORKER = (sys.executable, "-m", "gptoss_mlx.bench.turns_worker")
"""The command of a run; the request's file follows."""


@dataclass(frozen=True, slots=True)
class TurnsSettings:
    """What the caller may choose."""

    conversation_tokens: int = 8000
    """Of the last prompt."""
    runs: int = 1
    seed: int = 0
    """Which words are drawn."""
    timeout_seconds: float = 1800.0
    """How long one run may take, from the start of its process."""

    def __post_init__(self) -> None:
        check(self.runs >= 1, "--runs", self.runs, "1 or more")
        check(self.timeout_seconds > 0, "--timeout", self.timeout_seconds, "more than 0 seconds")


@dataclass(frozen=True, slots=True)
class TurnsPlan:
    """A conversation that can be played."""

    model: FoundModel
    config: ModelConfig
    """Of `model`."""
    peer: str | None
    """The engine to compare with, if any."""
    peer_folder: Path
    """What that engine loads."""
    requests: list[ScriptedRequest]
    end_ids: list[int]
    """The tokens that end a message."""
    settings: TurnsSettings

    @property
    def engines(self) -> list[str]:
        """In the order in which they play."""
        return [OURS] if self.peer is None else [OURS, self.peer]

    def folder_of(self, engine: str) -> Path:
        """What an engine loads."""
        return self.model.folder if engine == OURS else self.peer_folder


def make_turns_plan(
    model: str, settings: TurnsSettings, *, peer: str | None = None, peer_model: str | None = None
) -> TurnsPlan:
    """A plan for `model`, ours alone or against `peer`, which loads `peer_model` (default: the same folder).

    Raises as `make_plan`, and TokenizerError for a folder without a tokenizer: messages need one.
    """
    found, config, peer_folder = find_models(model, peer=peer, peer_model=peer_model)
    longest = config.max_position_embeddings
    if settings.conversation_tokens > longest // 2:
        raise UsageError(
            f"--conversation-tokens is {settings.conversation_tokens}; expected at most {longest // 2}, half of the "
            f"context length of {found.name}"
        )
    tokenizer = Tokenizer.from_file(find_tokenizer(found.folder), vocab_size=config.vocab_size)
    requests = make_conversation(tokenizer, settings.conversation_tokens, settings.seed)
    ends = sorted(tokenizer.special.message_end_ids)
    return TurnsPlan(found, config, peer, peer_folder, requests, ends, settings)


def run_turns(
    plan: TurnsPlan, *, on_line: Callable[[str], None] = lambda line: None, worker: Sequence[str] = WORKER
) -> Outcome:
    """Plays the conversation with every engine of `plan` in turn; `on_line` hears of each run's begin and end.

    It ends at the first run that fails. Never raises for what a run does, nor for Ctrl-C.
    """

    def request_of(engine: str) -> TurnsRequest:
        return TurnsRequest(engine, str(plan.folder_of(engine).resolve()), plan.end_ids, plan.requests)

    def in_words(figures: Mapping[str, Any]) -> str:
        read = sum(request["read_tokens"] for request in figures["requests"])
        seconds = sum(request["ttft_seconds"] for request in figures["requests"])
        return f"{read:,} prompt tokens read, {seconds:.2f} s until the first tokens"

    return take_turns(
        plan.engines,
        plan.settings.runs,
        request_of,
        timeout_seconds=plan.settings.timeout_seconds,
        worker=worker,
        in_words=in_words,
        on_line=on_line,
    )
