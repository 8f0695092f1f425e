"""Training batches as tensors: packed rows with positions, loss targets and masks.

Many conversations of a row see the same system message but not each other, so it is computed once. Owns the tensors and
the attention masks; the rows come from `packing`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from gptoss_mlx.pocket.packing import make_rows
from gptoss_mlx.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Packed rows, all `[batch, seq]`."""

    ids: Tensor
    """Token ids."""
    positions: Tensor
    """Rotary positions: every conversation goes on from the end of its system message."""
    documents: Tensor
    """0 for the system message, 1, 2, ... for the conversations, -1 for padding."""
    targets: Tensor
    """The next token of each position; -1 where none is learned."""

    def masks(self, window: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Additive masks `[batch, 1, seq, seq]` of the sliding and of the full layers."""
        documents, length = self.documents, self.ids.shape[1]
        same = documents.unsqueeze(2) == documents.unsqueeze(1)
        shared = documents.unsqueeze(1) == 0
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        full = (same | shared) & causal
        near = self.positions.unsqueeze(2) - self.positions.unsqueeze(1) < window
        zero, none = torch.zeros((), dtype=dtype), torch.full((), float("-inf"), dtype=dtype)
        sliding = full & near
        return torch.where(sliding, zero, none).unsqueeze(1), torch.where(full, zero, none).unsqueeze(1)


def make_batches(seed: int, tokenizer: Tokenizer, rows: int, length: int, together: int = 4) -> Iterator[Batch]:
    """An endless stream of batches of `rows` rows; `together` rows share a system message. The same for one seed."""
    rng = Random(seed)
    while True:
        made = [row for _ in range(rows // together) for row in make_rows(rng, tokenizer, length, together)]
        columns = [torch.from_numpy(np.array([row[i] for row in made], dtype=np.int64)) for i in range(4)]
        yield Batch(*columns)
