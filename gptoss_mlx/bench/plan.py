"""What a benchmark is to do: engines, models, numbers of tokens and runs. Checked before the first process starts."""

import importlib.util
import json
import random
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.plan import Mode
from gptoss_mlx.errors import ModelNotFound, UsageError
from gptoss_mlx.models import FoundModel, find_model
from gptoss_mlx.tokenizer import Tokenizer

OURS = "gptoss-mlx"
"""This package's name as an engine."""

PEERS = {"mlx-lm": "mlx_lm"}
"""The engines to compare with -> the module that each one is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller may choose."""

    prompt_tokens: int = 512
    decode_tokens: int = 128
    """Tokens decoded in a run, the first one included."""
    runs: int = 3
    """Runs of each engine."""
    seed: int = 0
    """Which prompt is drawn."""
    warm_up: bool = True
    """Whether a request that is not part of the rates comes before the one that is."""
    timeout_seconds: float = 1800.0
    """How long one run may take, from the start of its process."""
    hosts: str | None = None
    """The machines that share our model; None: this one alone."""
    host_mode: Mode | None = None
    """How they share it; None: as seems faster."""
    host_timeout_seconds: float | None = None
    """After how long a host that says nothing is given up; None: as usual."""

    def __post_init__(self) -> None:
        check(self.prompt_tokens >= 1, "--prompt-tokens", self.prompt_tokens, "1 or more")
        check(self.decode_tokens >= 2, "--decode-tokens", self.decode_tokens, "2 or more: a rate needs two")
        check(self.runs >= 1, "--runs", self.runs, "1 or more")
        check(self.timeout_seconds > 0, "--timeout", self.timeout_seconds, "more than 0 seconds")


def check(right: bool, name: str, value: object, expected: str) -> None:
    """Raises UsageError about the option `name` unless its value is `right`."""
    if not right:
        raise UsageError(f"{name} is {value}; expected {expected}")


@dataclass(frozen=True, slots=True)
class Plan:
    """A benchmark that can be run."""

    model: FoundModel
    config: ModelConfig
    """Of `model`."""
    peer: str | None
    """The engine to compare with, if any."""
    peer_folder: Path
    """What that engine loads."""
    prompt: list[int]
    """Token ids, the same for every run."""
    settings: Settings

    @property
    def engines(self) -> list[str]:
        """In the order in which they take turns."""
        return [OURS] if self.peer is None else [OURS, self.peer]

    def folder_of(self, engine: str) -> Path:
        """What an engine loads."""
        return self.model.folder if engine == OURS else self.peer_folder


def make_plan(model: str, settings: Settings, *, peer: str | None = None, peer_model: str | None = None) -> Plan:
    """A plan for `model`, ours alone or against `peer`, which loads `peer_model` (default: the same folder).

    Raises UsageError for a peer that is not installed, a peer's model with another vocabulary, and lengths that do not
    fit the model; ModelNotFound, ConfigError and TokenizerError for the folders.
    """
    found, config, peer_folder = find_models(model, peer=peer, peer_model=peer_model)
    length = settings.prompt_tokens + settings.decode_tokens
    if length > config.max_position_embeddings:
        raise UsageError(
            f"--prompt-tokens and --decode-tokens add up to {length}; expected at most "
            f"{config.max_position_embeddings}, the context length of {found.name}"
        )
    return Plan(
        found,
        config,
        peer,
        peer_folder,
        draw_prompt(found.folder, config, settings.prompt_tokens, settings.seed),
        settings,
    )


def find_models(model: str, *, peer: str | None, peer_model: str | None) -> tuple[FoundModel, ModelConfig, Path]:
    """`model`, its config, and what `peer` loads: `peer_model`, or the same folder. Raises as `make_plan`."""
    if peer is None and peer_model is not None:
        raise UsageError(f"--peer-model is {peer_model} but there is no peer; expected --against {next(iter(PEERS))}")
    check_installed(peer)
    found = find_model(model)
    config = ModelConfig.from_file(found.folder / "config.json")
    return found, config, found.folder if peer_model is None else _find_peer_model(peer_model, config)


def check_installed(peer: str | None) -> None:
    """Raises UsageError for an engine to compare with that is not installed."""
    if peer is not None and importlib.util.find_spec(PEERS[peer]) is None:
        raise UsageError(f"{peer} is not installed; get it with: pip install 'gptoss-mlx[bench]'")


def draw_prompt(folder: Path, config: ModelConfig, count: int, seed: int) -> list[int]:
    """`count` token ids, drawn evenly from the vocabulary's ordinary tokens: no special ones.

    Without a tokenizer.json in `folder` every id of the vocabulary counts as ordinary.
    """
    file = folder / "tokenizer.json"
    special: set[int] = set()
    if file.is_file():
        special.update(Tokenizer.from_file(file, vocab_size=config.vocab_size).special_ids.values())
    ordinary = [token for token in range(config.vocab_size) if token not in special]
    # Python promises the same `random()` for the same seed in every version, which it does not of `choices`.
    generator = random.Random(seed)
    return [ordinary[int(generator.random() * len(ordinary))] for _ in range(count)]


def _find_peer_model(name: str, config: ModelConfig) -> Path:
    """The folder of the peer's model, if the prompt's token ids belong to it; the rest of its config is the peer's."""
    folder = find_model(name).folder
    file = folder / "config.json"
    try:
        vocab_size = json.loads(file.read_text(encoding="utf-8")).get("vocab_size")
    except (ValueError, AttributeError) as error:
        raise ModelNotFound(f"{file} is no JSON object; expected the config of the peer's model") from error
    if vocab_size != config.vocab_size:
        raise UsageError(
            f"{file} says vocab_size {vocab_size}; expected {config.vocab_size}, as in the model to compare with"
        )
    return folder
