"""The reference with steps that are recorded, as kernels on a GPU have them."""

import mlx.core as mx

from gptoss_mlx.ops import GrowingKV, Heads, Position, Recording, ReferenceOps


class RecordedOps(ReferenceOps):
    """The reference, with attention that reads positions from arrays where that is recorded."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.projections = 0
        """How often Python asked for queries, keys and values."""

    def recording(self, heads: Heads, dtype: mx.Dtype, window: int, most_keys: int) -> Recording | None:
        return self._recording

    def norm_qkv_rope(self, x, norm, qkv, heads, rotation):
        self.projections += 1
        return super().norm_qkv_rope(x, norm, qkv, heads, rotation)

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        return self._recording.full

    def growing_attention(self, q, rows, kv: GrowingKV, position: Position, sinks, heads):
        if position.exact:
            return super().growing_attention(q, rows, kv, position, sinks, heads)
        slots, own = mx.arange(kv.recent.shape[2]), position.array - kv.flushed.array
        recent = mx.where((slots == own)[:, None], rows, kv.recent)
        seen = mx.concatenate([mx.arange(kv.body.shape[2]) < kv.flushed.array, slots <= own])
        return self._masked(q, mx.concatenate([kv.body, recent], axis=2), seen, sinks, heads), recent

    def ring_attention(self, q, rows, ring, position: Position, sinks, heads):
        if position.exact:
            return super().ring_attention(q, rows, ring, position, sinks, heads)
        slots = mx.arange(ring.shape[2])
        ring = mx.where((slots == position.array % ring.shape[2])[:, None], rows, ring)
        return self._masked(q, ring, slots <= position.array, sinks, heads), ring

    def _masked(self, q: mx.array, kv: mx.array, seen: mx.array, sinks: mx.array, heads: Heads) -> mx.array:
        keys, values = kv[:, : heads.kv], kv[:, heads.kv :]
        out = self._attend(q, keys, values, sinks, heads, mx.broadcast_to(seen, (1, kv.shape[2])))
        return out.transpose(0, 2, 1, 3).reshape(1, 1, -1)
