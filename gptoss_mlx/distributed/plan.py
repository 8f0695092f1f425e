"""Which part of a model each machine has: plain numbers, from JSON and to it. Knows no MLX.

    tensor    kv_heads [0, 5) [5, 8)   inner [0, 1792) [1792, 2880)   vocab [0, 125,664) [125,664, 201,088)
    pipeline  layers [0, 15) [15, 24)

In tensor mode a rank's query heads are those that its key/value heads serve, and sinks go with their heads. `inner` are
columns inside every expert: rows of gate and up, columns of down, whole MXFP4 blocks of both. `vocab` are rows of
lm_head and of the embedding. The embedding is divided too, though its rows are only looked up: a whole one on every
machine is 1.16 GB of the 20b's 13.8, for want of one sum more beside the 48 that a token costs anyway. Norms and
routers are everybody's. What is added once for all (the biases of o_proj and of the experts' down) rank 0 adds.

Owns: what a share is, that shares cover a model once, and their file. Does not own: how large each is to be
(`planning`), nor what it is in bytes (`cuts`).
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, get_args

from gptoss_mlx.config import MXFP4_GROUP, ModelConfig
from gptoss_mlx.errors import UsageError

Mode: TypeAlias = Literal["tensor", "pipeline"]
"""How a model is divided: every layer among all machines, or whole layers."""

MODES: Final[tuple[Mode, ...]] = get_args(Mode)

VERSION: Final = 1
"""Of the JSON."""


class Span(NamedTuple):
    """Some of a row of things that are numbered from 0."""

    start: int
    """The first."""
    stop: int
    """The one after the last."""

    @property
    def size(self) -> int:
        """How many."""
        return self.stop - self.start

    def times(self, factor: int) -> "Span":
        """The same of things of which each of these is `factor`."""
        return Span(self.start * factor, self.stop * factor)


@dataclass(frozen=True, slots=True)
class TensorShare:
    """One rank's part of every layer, and of both ends."""

    kv_heads: Span
    """Key/value heads, at least one, and the query heads that they serve."""
    inner: Span
    """Columns inside each expert: a multiple of 32, at least 32."""
    vocab: Span
    """Rows of the embedding and of lm_head, at least one."""


@dataclass(frozen=True, slots=True)
class PipelineShare:
    """One rank's layers; the first rank has the embedding, too, the last one lm_head."""

    layers: Span


Share: TypeAlias = TensorShare | PipelineShare
"""One rank's part of a model."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What each rank has, in order of rank."""

    shares: tuple[TensorShare, ...] | tuple[PipelineShare, ...]

    def __post_init__(self) -> None:
        kinds = {type(share) for share in self.shares}
        if len(kinds) != 1:
            raise UsageError(
                f"a plan has {len(self.shares)} shares of {len(kinds)} kinds; expected at least one, alike"
            )
        for name in self._names():
            spans: list[Span] = [getattr(share, name) for share in self.shares]
            if spans[0].start != 0 or any(span.size < 1 for span in spans):
                raise UsageError(f"{name} of the plan is {_listed(spans)}; expected to begin at 0, each at least 1")
            if any(left.stop != right.start for left, right in itertools.pairwise(spans)):
                raise UsageError(f"{name} of the plan is {_listed(spans)}; expected each to begin where the last ends")
            if name == "inner" and any(span.stop % MXFP4_GROUP for span in spans):
                raise UsageError(f"inner of the plan is {_listed(spans)}; expected multiples of {MXFP4_GROUP}")

    @property
    def mode(self) -> Mode:
        """How the model is divided."""
        return "tensor" if isinstance(self.shares[0], TensorShare) else "pipeline"

    @property
    def size(self) -> int:
        """Ranks."""
        return len(self.shares)

    def check(self, config: ModelConfig) -> None:
        """Raises `UsageError` unless the shares are all of a model of this shape.

        In pipeline mode each rank needs a layer of every kind that the model has: only then can all their KV caches go
        back to the same places.
        """
        totals = totals_of(config)
        for name in self._names():
            if (stop := getattr(self.shares[-1], name).stop) != totals[name]:
                raise UsageError(
                    f"the plan divides {stop} {name} and the model has {totals[name]}; was it made for another model?"
                )
        for rank, share in enumerate(self.shares):
            if isinstance(share, PipelineShare):
                missing = set(config.layer_types) - set(config.layer_types[share.layers.start : share.layers.stop])
                if missing:
                    raise UsageError(
                        f"rank {rank} would have layers {share.layers.start} to {share.layers.stop - 1} and no "
                        f"{missing.pop()} among them; expected both kinds on every machine: use fewer machines, or "
                        "tensor mode"
                    )

    def to_json(self) -> str:
        """The plan as one line of JSON, which `from_json` reads."""
        shares = [{name: list(getattr(share, name)) for name in self._names()} for share in self.shares]
        return json.dumps({"version": VERSION, "mode": self.mode, "shares": shares})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote. Raises `UsageError` for anything else."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UsageError(f"the plan is not JSON ({error}); expected what Plan.to_json gives") from error
        if not isinstance(values, dict) or values.get("version") != VERSION or values.get("mode") not in MODES:
            raise UsageError(
                f"the plan is {_shortened(values)}; expected an object of version {VERSION} with mode tensor or "
                "pipeline: do all machines have the same version of this program?"
            )
        shares = values.get("shares")
        if not isinstance(shares, list) or not all(isinstance(share, dict) for share in shares):
            raise UsageError(f"shares of the plan is {_shortened(shares)}; expected a list of objects")
        if values["mode"] == "tensor":
            return cls(
                tuple(
                    TensorShare(_span(share, "kv_heads"), _span(share, "inner"), _span(share, "vocab"))
                    for share in shares
                )
            )
        return cls(tuple(PipelineShare(_span(share, "layers")) for share in shares))

    def _names(self) -> tuple[str, ...]:
        return ("kv_heads", "inner", "vocab") if self.mode == "tensor" else ("layers",)


def share_config(config: ModelConfig, share: Share) -> ModelConfig:
    """The shape of one rank's part of the layers, as far as memory goes; the vocabulary stays whole."""
    if isinstance(share, PipelineShare):
        kinds = config.layer_types[share.layers.start : share.layers.stop]
        return replace(config, num_hidden_layers=len(kinds), layer_types=kinds)
    group = config.num_attention_heads // config.num_key_value_heads
    return replace(
        config,
        num_key_value_heads=share.kv_heads.size,
        num_attention_heads=share.kv_heads.size * group,
        intermediate_size=share.inner.size,
    )


def totals_of(config: ModelConfig) -> dict[str, int]:
    """How many there are in a model of this shape of everything that plans divide, by the name that shares use."""
    return {
        "kv_heads": config.num_key_value_heads,
        "inner": config.intermediate_size,
        "vocab": config.vocab_size,
        "layers": config.num_hidden_layers,
    }


def _span(share: Mapping[str, Any], name: str) -> Span:
    value = share.get(name)
    if not isinstance(value, list) or len(value) != 2 or any(type(number) is not int for number in value):
        raise UsageError(f"{name} of a share of the plan is {_shortened(value)}; expected two whole numbers")
    return Span(*value)


def _listed(spans: Sequence[Span]) -> str:
    return ", ".join(f"{span.start} to {span.stop}" for span in spans)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
