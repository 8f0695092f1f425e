"""The models and prompts that golden logits exist for: made again from their seeds, so that only logits are kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.random_checkpoint import random_checkpoint, tiny_config

FOLDER = Path(__file__).parent
"""Where the golden files lie."""

YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096}
"""gpt-oss's YaRN parameters, less how they are rounded."""


@dataclass(frozen=True)
class GoldenCase:
    """One random model and one random prompt."""

    name: str
    tokens: int
    """Length of the prompt."""
    seed: int
    kept: tuple[int, ...] | None = None
    """The positions whose logits are kept; None for all."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What differs from `tiny_config()`."""

    @property
    def file(self) -> Path:
        """The golden logits: float32 `logits` `[positions, vocab]`."""
        return FOLDER / f"{self.name}.npz"

    @property
    def positions(self) -> list[int]:
        """The positions whose logits are kept."""
        return list(range(self.tokens)) if self.kept is None else list(self.kept)

    def config(self) -> dict[str, Any]:
        """config.json of the model."""
        return tiny_config(**self.changes)

    def prompt(self) -> np.ndarray:
        """Token ids, int32 `[tokens]`."""
        return np.random.default_rng(self.seed + 1000).integers(
            0, self.config()["vocab_size"], self.tokens, dtype=np.int32
        )

    def write_checkpoint(self, folder: Path) -> Path:
        """The model's checkpoint, written to `folder`."""
        return random_checkpoint(folder, seed=self.seed, shards=2, **self.changes)


CASES = [
    GoldenCase("plain", tokens=300, seed=1),
    GoldenCase(
        # The range of YaRN rounded to whole dimensions, as other models have it; the config in its newer form.
        "truncated",
        tokens=300,
        seed=2,
        kept=(*range(0, 120, 8), *range(120, 300, 4)),
        changes={
            "head_dim": 64,
            "num_hidden_layers": 2,
            "rope_scaling": None,
            "rope_theta": None,
            "rope_parameters": {**YARN, "rope_type": "yarn", "rope_theta": 150000.0, "truncate": True},
        },
    ),
    GoldenCase(
        # Heads as in gpt-oss (64 wide, 8 queries a key), widths that are odd multiples of 32, as many experts as 20b.
        "wide",
        tokens=270,
        seed=3,
        kept=(*range(0, 120, 8), *range(120, 270, 3)),
        changes={
            "hidden_size": 96,
            "intermediate_size": 160,
            "head_dim": 64,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "num_hidden_layers": 6,
            "num_local_experts": 32,
            "vocab_size": 127,
        },
    ),
    GoldenCase(
        # Past the original context of 4,096 and many times round the ring.
        "long",
        tokens=4400,
        seed=4,
        kept=(*range(0, 4400, 97), *range(120, 136), *range(250, 262), *range(4090, 4102), *range(4384, 4400)),
        changes={"num_hidden_layers": 2},
    ),
]

ROPES = [
    {"head_dim": head_dim, "rope_theta": theta, "truncate": truncate}
    for head_dim, theta in ((64, 150000.0), (16, 150000.0), (32, 10000.0))
    for truncate in (False, True)
]
"""The rotary positions that golden frequencies exist for, in the order of `rope.npz`."""
