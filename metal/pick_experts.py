"""Each token's strongest experts, and how often each chunk of tokens visits each expert."""

from typing import Final, NamedTuple

import mlx.core as mx

from gptoss_mlx.metal.library import Kernel

CHUNK_TOKENS: Final = 32
"""Tokens of one threadgroup here and in `route_pairs`."""

MOST_EXPERTS: Final = 256
"""Experts that the kernels of the routing can hold: a thread each."""

MOST_CHOICES: Final = 32
"""Experts of one token that they can hold: a lane each."""

THREADS: Final = 256
"""Threads of a threadgroup."""

_kernel = Kernel(
    "pick_experts",
    inputs=["logits"],
    outputs=["chosen", "weights", "counts"],
    body="""
threadgroup uint chunk_chosen[CHUNK * CHOICES];
pick_experts<EXPERTS, CHOICES, CHUNK>(
    logits, logits_shape[0], chosen, weights, counts, chunk_chosen, threadgroup_position_in_grid.x,
    thread_index_in_threadgroup, simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
""",
)


class Picks(NamedTuple):
    """What each token chose."""

    experts: mx.array
    """uint32 `[tokens, experts_per_token]`, the strongest first; of equal logits the lower expert."""
    weights: mx.array
    """float32 `[tokens, experts_per_token]`; each token's sum to 1."""
    counts: mx.array
    """uint32 `[chunks, experts]`: how many of each `CHUNK_TOKENS` tokens chose an expert."""


def launch(logits: mx.array, experts_per_token: int) -> Picks:
    """The picks of `logits`, float32 `[tokens, experts]`."""
    tokens, experts = logits.shape
    if logits.dtype != mx.float32:
        raise ValueError(f"logits are {logits.dtype}; expected float32")
    if not 0 < experts_per_token <= min(experts, MOST_CHOICES) or experts > MOST_EXPERTS:
        raise ValueError(f"{experts_per_token} of {experts} experts; at most {MOST_CHOICES} of {MOST_EXPERTS}")
    chunks = -(-tokens // CHUNK_TOKENS)
    chosen, weights, counts = _kernel(
        logits,
        template={"EXPERTS": experts, "CHOICES": experts_per_token, "CHUNK": CHUNK_TOKENS},
        grid=(chunks * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        shapes=[(tokens, experts_per_token), (tokens, experts_per_token), (chunks, experts)],
        dtypes=[mx.uint32, mx.float32, mx.uint32],
    )
    return Picks(chosen, weights, counts)
