"""The accelerated operations of one forward pass: what each takes and gives.

A decoder layer is six operations, or seven, cut where a fused kernel would be cut:

    x ── norm_qkv_rope ── (cache write) ── attention ── linear_residual ──┐
    ┌── norm_router ── expert_gate_up ── expert_down ────────────────────┘

with `embed` before the first layer and `norm_lm_head` after the last. Attention is one of four: `full_attention` after
a cache write, `banded_attention`, and for a single token `growing_attention` and `ring_attention`, which write its rows
themselves.

Owns: the interface, and how tokens are routed. Does not own: the bundles of arrays that operations take (`operands`),
how one is computed (`reference`, `cpu`), the order of a layer (`attention`, `moe`, `model`), nor what is kept between
steps (`cache`).
"""

from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol

import mlx.core as mx

from gptoss_mlx.operands import ExpertLinear, GrowingKV, Heads, Norm, Position, Projection, Rotation

SORT_FROM_PAIRS: Final = 64
"""From this many (token, expert) pairs on, they are sorted by expert, so that one expert's weights are read once."""


class Routing:
    """Which experts each token visits, and the order in which the (token, expert) pairs are worked off.

    All follows from the router's logits. What an implementation asks for is computed by MLX then, once; a kernel that
    chooses the experts from the logits itself asks for nothing.
    """

    def __init__(self, logits: mx.array, experts_per_token: int) -> None:
        self.logits = logits
        """The router's, float32 `[batch, seq, experts]`."""
        self.experts_per_token = experts_per_token
        """How many experts a token visits: those of the largest logits; of equal ones the lower."""
        self.arrangement: Any = None
        """How an implementation's `expert_gate_up` arranged the pairs, for its `expert_down`; None as said here."""

    @property
    def tokens(self) -> int:
        """Tokens in all, of every sequence of the batch."""
        return self.logits.size // self.logits.shape[-1]

    @property
    def pairs(self) -> int:
        """(token, expert) pairs in all."""
        return self.tokens * self.experts_per_token

    @cached_property
    def experts(self) -> mx.array:
        """uint32 `[batch, seq, experts_per_token]`, the strongest first."""
        # A stable sort of the negated logits: of equal ones the lower expert comes first.
        return mx.argsort(-self.logits, axis=-1)[..., : self.experts_per_token]

    @cached_property
    def weights(self) -> mx.array:
        """float32 `[batch, seq, experts_per_token]`, the softmax over the chosen experts; each token's sum to 1."""
        return mx.softmax(mx.take_along_axis(self.logits, self.experts, axis=-1), axis=-1)

    @cached_property
    def order(self) -> mx.array | None:
        """uint32 `[pairs]`: pairs (token * experts_per_token + choice) sorted by expert; None for their natural order.

        They are sorted when that pays.
        """
        return mx.argsort(self.experts.reshape(-1)) if self.pairs >= SORT_FROM_PAIRS else None

    @cached_property
    def pair_experts(self) -> mx.array:
        """The expert of each pair, uint32 `[pairs]`, in the order of work."""
        flat = self.experts.reshape(-1)
        return flat if self.order is None else flat[self.order]


class Recording(NamedTuple):
    """Which attention of one token `mx.compile` may record once and replay for every position; all else, it may."""

    ring: bool
    """`ring_attention`."""
    full: bool
    """`growing_attention`."""


class Ops(Protocol):
    """One implementation of every accelerated operation. All are pure: no argument is changed.

    Results have the dtype of `x`, unless something else is said.
    """

    def runs_apart(self, lm_head: Projection) -> bool:
        """Whether a model with this lm_head, the largest of its projections, is computed apart from the caller.

        If so, a forward pass is queued and the caller goes on; if not, most of it is computed before the call returns.
        """
        ...

    def recording(self, heads: Heads, dtype: mx.Dtype, window: int, most_keys: int) -> Recording | None:
        """What of one token's step may be recorded, with at most `most_keys` positions; None: nothing."""
        ...

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        """Whether one token's attention to at most `most_keys` positions is best asked of `growing_attention`.

        If not, of `write_rows` and `full_attention`.
        """
        ...

    def embed(self, tokens: mx.array, table: Projection, dtype: mx.Dtype) -> mx.array:
        """The rows of `table` (`[vocab, hidden]`, no bias) for `tokens` `[batch, seq]`: `[batch, seq, hidden]`.

        The result has dtype `dtype`.
        """
        ...

    def norm_qkv_rope(
        self, x: mx.array, norm: Norm, qkv: Projection, heads: Heads, rotation: Rotation
    ) -> tuple[mx.array, mx.array]:
        """Queries `[batch, query_heads, seq, dim]`, and the rows for the KV cache `[batch, 2 * kv_heads, seq, dim]`.

        `x` is `[batch, seq, hidden]`; `qkv` stacks the outputs of q, k and v. Queries and keys are rotated. A row's
        first `kv_heads` heads are keys, the rest values, so that one write serves both.
        """
        ...

    def write_rows(self, buffer: mx.array, rows: mx.array, start: int) -> mx.array:
        """`buffer` `[batch, heads, capacity, dim]` with `rows` `[batch, heads, seq, dim]` from position `start` on.

        Runs in place when nobody else holds `buffer`.
        """
        ...

    def full_attention(self, q: mx.array, kv: mx.array, length: Position, sinks: mx.array, heads: Heads) -> mx.array:
        """Causal attention of the last `seq` of `length` positions to all of them, `[batch, seq, query_heads * dim]`.

        `q` is `[batch, query_heads, seq, dim]`; `kv` is the whole buffer `[batch, 2 * kv_heads, capacity, dim]`, of
        which the first `length` positions count; a length that is not exact says how long it can become. `sinks`
        `[query_heads]` are logits that join the softmax's denominator only.
        """
        ...

    def growing_attention(
        self, q: mx.array, rows: mx.array, kv: GrowingKV, position: Position, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        """One token's attention to all positions up to its own, `[batch, 1, query_heads * dim]`, and the recent rows.

        `rows` `[batch, 2 * kv_heads, 1, dim]` belong to `position`, for which `kv.recent` has a slot; what comes back
        is `kv.recent` with them in it. `kv.body` is only read, so that it costs nothing to keep while it is read.
        """
        ...

    def banded_attention(self, q: mx.array, kv: mx.array, window: int, sinks: mx.array, heads: Heads) -> mx.array:
        """Attention of `seq` queries to `window` positions each, their own included: `[batch, seq, query_heads * dim]`.

        `kv` is `[batch, 2 * kv_heads, history + seq, dim]` in order of position; its last `seq` rows are the queries'
        own.
        """
        ...

    def ring_attention(
        self, q: mx.array, rows: mx.array, ring: mx.array, position: Position, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        """One token's attention over the ring, `[batch, 1, query_heads * dim]`, and the ring with its rows written.

        `ring` is `[batch, 2 * kv_heads, window, dim]`; position p lies in slot p % window, and `rows`
        `[batch, 2 * kv_heads, 1, dim]` belong to `position`.
        """
        ...

    def linear_residual(self, x: mx.array, linear: Projection, residual: mx.array) -> mx.array:
        """`residual + linear(x)`, `[batch, seq, hidden]`."""
        ...

    def norm_router(self, x: mx.array, norm: Norm, router: Projection) -> tuple[mx.array, mx.array]:
        """The normed `x` and the router's logits for it, float32 `[batch, seq, experts]`."""
        ...

    def expert_gate_up(
        self, x: mx.array, routing: Routing, gate_up: ExpertLinear, limit: float, alpha: float
    ) -> mx.array:
        """Each pair's activation inside its expert, `[pairs, intermediate]`, for this implementation's `expert_down`.

        The pairs are in the order of `routing.order`, unless the implementation says otherwise in
        `routing.arrangement`.

        `gate_up` has gate in its even rows and up in its odd ones; gate is clamped to at most `limit`, up to
        [-limit, limit], and the result is `gate * sigmoid(alpha * gate) * (up + 1)`.
        """
        ...

    def expert_down(self, inner: mx.array, routing: Routing, down: ExpertLinear, residual: mx.array) -> mx.array:
        """`residual` plus the weighted sum of each token's experts' outputs, `[batch, seq, hidden]`."""
        ...

    def norm_lm_head(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        """Logits, float32 `[batch, seq, vocab]`."""
        ...

    def norm_lm_head_argmax(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        """The most probable token after each position, uint32 `[batch, seq]`; of equals the lowest id."""
        ...

    def norm_lm_head_best(self, x: mx.array, norm: Norm, lm_head: Projection) -> tuple[mx.array, mx.array]:
        """What `norm_lm_head_argmax` gives, and the logits of those tokens, float32 `[batch, seq]`."""
        ...
