"""The (token, expert) pairs of a prompt sorted by expert, and cut into tiles of one expert each."""

from typing import NamedTuple

import mlx.core as mx

from gptoss_mlx.metal import pick_experts
from gptoss_mlx.metal.library import Kernel
from gptoss_mlx.metal.pick_experts import CHUNK_TOKENS, THREADS

_kernel = Kernel(
    "route_pairs",
    inputs=["chosen", "counts", "most_tiles"],
    outputs=["order", "places", "tiles"],
    body="""
threadgroup uint chunk_chosen[CHUNK * CHOICES];
threadgroup uint own_starts[EXPERTS];
threadgroup uint starts[EXPERTS + 1];
threadgroup uint tile_starts[EXPERTS + 1];
threadgroup uint totals[2 * ROUTE_THREADS / 32];
route_pairs<EXPERTS, CHOICES, CHUNK, TILE_ROWS>(
    chosen, counts, chosen_shape[0], most_tiles, order, places, tiles, chunk_chosen, own_starts, starts, tile_starts,
    totals, threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_index_in_threadgroup,
    simdgroup_index_in_threadgroup, thread_index_in_simdgroup);
""",
)


class PairTable(NamedTuple):
    """Which experts each token visits, and the order in which the pairs are worked off.

    A pair is token * experts_per_token + choice; its place is where it lies when pairs are sorted by expert, and by
    token within an expert.
    """

    experts: mx.array
    """uint32 `[tokens, experts_per_token]`, the strongest first; of equal logits the lower expert."""
    weights: mx.array
    """float32 `[tokens, experts_per_token]`; each token's sum to 1."""
    order: mx.array
    """uint32 `[pairs]`: the pair at each place."""
    places: mx.array
    """uint32 `[tokens, experts_per_token]`: the place of each pair."""
    tiles: mx.array
    """uint32 `[most_tiles, 3]`: expert, first place and number of pairs; behind the last tile, rows of zeros."""
    tile_rows: int
    """Pairs of a full tile."""


def launch(logits: mx.array, experts_per_token: int, tile_rows: int) -> PairTable:
    """The table of pairs for router `logits`, float32 `[tokens, experts]`, in two dispatches."""
    tokens, experts = logits.shape
    pairs = tokens * experts_per_token
    picks = pick_experts.launch(logits, experts_per_token)
    tiles = most_tiles(pairs, experts, tile_rows)
    order, places, table = _kernel(
        picks.experts,
        picks.counts,
        mx.array(tiles, dtype=mx.uint32),
        template={
            "EXPERTS": experts,
            "CHOICES": experts_per_token,
            "CHUNK": CHUNK_TOKENS,
            "TILE_ROWS": tile_rows,
        },
        grid=(picks.counts.shape[0] * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        shapes=[(pairs,), (tokens, experts_per_token), (tiles, 3)],
        dtypes=[mx.uint32, mx.uint32, mx.uint32],
    )
    return PairTable(picks.experts, picks.weights, order, places, table, tile_rows)


def most_tiles(pairs: int, experts: int, tile_rows: int) -> int:
    """How many tiles `pairs` can need at most, however they fall on the experts.

    An expert with n pairs needs ceil(n / tile_rows) <= (n + tile_rows - 1) / tile_rows tiles, and no more experts are
    visited than there are pairs.
    """
    visited = min(experts, pairs)
    return (pairs + visited * (tile_rows - 1)) // tile_rows
