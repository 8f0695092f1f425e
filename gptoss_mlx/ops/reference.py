"""Every operation in plain MLX: right everywhere, and what every other implementation is measured against."""

from copy import copy
from functools import lru_cache

import mlx.core as mx
import numpy as np

from gptoss_mlx.device import this_device
from gptoss_mlx.operands import ExpertLinear, GrowingKV, Heads, Norm, Position, Projection, QuantizedLinear, Rotation
from gptoss_mlx.ops.interface import Recording, Routing


class ReferenceOps:
    """Every operation in plain MLX.

    Activations keep the dtype of `x`; softmax, RMSNorm, rotary turns and the experts' weighted sum are float32 inside.
    Another implementation may take this one as its base and replace whole operations, or the three matrix products that
    most of the work is in: `_project`, `_project_pairs` and `_attend`.
    """

    def runs_apart(self, lm_head: Projection) -> bool:
        return True

    def recording(self, heads: Heads, dtype: mx.Dtype, window: int, most_keys: int) -> Recording | None:
        return None

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        return False

    def embed(self, tokens: mx.array, table: Projection, dtype: mx.Dtype) -> mx.array:
        if isinstance(table, QuantizedLinear):
            codes, scales, offsets = table.weight[tokens], table.scales[tokens], table.biases[tokens]
            return mx.dequantize(codes, scales, offsets, table.group_size, table.bits).astype(dtype)
        return table.weight[tokens].astype(dtype)

    def norm_qkv_rope(
        self, x: mx.array, norm: Norm, qkv: Projection, heads: Heads, rotation: Rotation
    ) -> tuple[mx.array, mx.array]:
        batch, seq, _ = x.shape
        projected = self._project(_norm(x, norm), qkv).reshape(batch, seq, heads.query + 2 * heads.kv, heads.dim)
        projected = projected.transpose(0, 2, 1, 3)
        rotated = _rotate(projected[:, : heads.query + heads.kv], rotation)
        values = projected[:, heads.query + heads.kv :]
        return rotated[:, : heads.query], mx.concatenate([rotated[:, heads.query :], values], axis=1)

    def write_rows(self, buffer: mx.array, rows: mx.array, start: int) -> mx.array:
        # Assignment changes the Python object that it is applied to, so a second object of the same array takes it: the
        # caller's stays as it is, and once the caller lets go of it MLX writes in place.
        written = copy(buffer)
        written[..., start : start + rows.shape[2], :] = rows
        return written

    def full_attention(self, q: mx.array, kv: mx.array, length: Position, sinks: mx.array, heads: Heads) -> mx.array:
        keys, values = _keys_and_values(kv, 0, length.number, heads)
        return _join_heads([self._attend(q, keys, values, sinks, heads, "causal")])

    def growing_attention(
        self, q: mx.array, rows: mx.array, kv: GrowingKV, position: Position, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        flushed, slot = kv.flushed.number, position.number - kv.flushed.number
        recent = self.write_rows(kv.recent, rows, slot)
        joined = mx.concatenate([kv.body[:, :, :flushed], recent[:, :, : slot + 1]], axis=2)
        keys, values = _keys_and_values(joined, 0, joined.shape[2], heads)
        return _join_heads([self._attend(q, keys, values, sinks, heads, None)]), recent

    def banded_attention(self, q: mx.array, kv: mx.array, window: int, sinks: mx.array, heads: Heads) -> mx.array:
        seq, history = q.shape[2], kv.shape[2] - q.shape[2]
        outputs = []
        # Tiles as long as the window: a tile scores at most twice the keys it needs, whatever the chunk's length.
        for start in range(0, seq, window):
            stop = min(start + window, seq)
            first = max(0, history + start - window + 1)
            keys, values = _keys_and_values(kv, first, history + stop, heads)
            mask = _band_mask(stop - start, history + stop - first, window)
            outputs.append(self._attend(q[:, :, start:stop], keys, values, sinks, heads, mask))
        return _join_heads(outputs)

    def ring_attention(
        self, q: mx.array, rows: mx.array, ring: mx.array, position: Position, sinks: mx.array, heads: Heads
    ) -> tuple[mx.array, mx.array]:
        window = ring.shape[2]
        ring = self.write_rows(ring, rows, position.number % window)
        # Softmax does not mind the order of keys, so the ring is read as it lies.
        keys, values = _keys_and_values(ring, 0, min(position.number + 1, window), heads)
        return _join_heads([self._attend(q, keys, values, sinks, heads, None)]), ring

    def linear_residual(self, x: mx.array, linear: Projection, residual: mx.array) -> mx.array:
        return residual + self._project(x, linear)

    def norm_router(self, x: mx.array, norm: Norm, router: Projection) -> tuple[mx.array, mx.array]:
        normed = _norm(x, norm)
        return normed, self._project(normed, router).astype(mx.float32)

    def expert_gate_up(
        self, x: mx.array, routing: Routing, gate_up: ExpertLinear, limit: float, alpha: float
    ) -> mx.array:
        choices = routing.experts_per_token
        tokens = x.reshape(-1, x.shape[-1])
        pairs = mx.repeat(tokens, choices, axis=0) if routing.order is None else tokens[routing.order // choices]
        both = self._route_pairs(pairs, routing, gate_up)
        return self._swiglu(both, limit, alpha)

    def expert_down(self, inner: mx.array, routing: Routing, down: ExpertLinear, residual: mx.array) -> mx.array:
        outputs = self._route_pairs(inner, routing, down)
        if routing.order is not None:
            outputs = outputs[mx.argsort(routing.order)]
        outputs = outputs.reshape(*routing.experts.shape, -1)
        return residual + (outputs * routing.weights[..., None]).sum(axis=-2).astype(residual.dtype)

    def norm_lm_head(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        return self._project(_norm(x, norm), lm_head).astype(mx.float32)

    def norm_lm_head_argmax(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        return mx.argmax(self.norm_lm_head(x, norm, lm_head), axis=-1)

    def norm_lm_head_best(self, x: mx.array, norm: Norm, lm_head: Projection) -> tuple[mx.array, mx.array]:
        logits = self.norm_lm_head(x, norm, lm_head)
        tokens = mx.argmax(logits, axis=-1, keepdims=True)
        return tokens[..., 0], mx.take_along_axis(logits, tokens, axis=-1)[..., 0]

    def _project(self, x: mx.array, linear: Projection) -> mx.array:
        """`x` `[..., in]` through a dense projection: `[..., out]`."""
        if isinstance(linear, QuantizedLinear):
            product = mx.quantized_matmul(
                _summable(x),
                linear.weight,
                linear.scales,
                linear.biases,
                transpose=True,
                group_size=linear.group_size,
                bits=linear.bits,
            )
            return (product if linear.bias is None else product + linear.bias).astype(x.dtype)
        if linear.bias is None:
            return x @ linear.weight.T
        return mx.addmm(linear.bias, x, linear.weight.T)

    def _route_pairs(self, pairs: mx.array, routing: Routing, linear: ExpertLinear) -> mx.array:
        ordered = routing.order is not None
        return self._project_pairs(pairs, routing.pair_experts, linear, tokens=routing.tokens, ordered=ordered)

    def _project_pairs(
        self, pairs: mx.array, experts: mx.array, linear: ExpertLinear, *, tokens: int, ordered: bool
    ) -> mx.array:
        """Each pair through its expert: `[pairs, in]` to `[pairs, out]`.

        `experts` is uint32 `[pairs]`, each number at most `tokens` times; `ordered` says that its numbers never fall.
        """
        product = mx.gather_qmm(
            _summable(pairs)[:, None],
            linear.blocks,
            linear.scales,
            rhs_indices=experts,
            transpose=True,
            group_size=32,
            bits=4,
            mode="mxfp4",
            sorted_indices=ordered,
        )
        return (product[:, 0] + linear.bias[experts]).astype(pairs.dtype)

    def _swiglu(self, both: mx.array, limit: float, alpha: float) -> mx.array:
        """The activation of `both` `[pairs, 2 * intermediate]`, gate and up in turn: `[pairs, intermediate]`."""
        gate = mx.minimum(both[..., 0::2], limit)
        up = mx.clip(both[..., 1::2], -limit, limit)
        return gate * mx.sigmoid(alpha * gate) * (up + 1)

    def _attend(
        self, q: mx.array, keys: mx.array, values: mx.array, sinks: mx.array, heads: Heads, mask: str | mx.array | None
    ) -> mx.array:
        """Attention of `q` `[batch, query_heads, rows, dim]` to `[batch, kv_heads, keys, dim]`, in the shape of `q`.

        `mask` is "causal" (the queries are the last of the keys), bool `[rows, keys]`, or None for all.
        """
        return mx.fast.scaled_dot_product_attention(
            q, keys, values, scale=heads.scale, mask=mask, sinks=sinks.astype(q.dtype)
        )


def _summable(x: mx.array) -> mx.array:
    """`x` in a dtype in which MLX's quantised products are right: on a processor they sum in the dtype of x."""
    return x if this_device().gpu else x.astype(mx.float32)


def _norm(x: mx.array, norm: Norm) -> mx.array:
    return mx.fast.rms_norm(x, norm.weight, norm.eps)


def _rotate(x: mx.array, rotation: Rotation) -> mx.array:
    """`x` `[batch, heads, seq, dim]` with each pair (d, d + dim/2) rotated, in x's dtype."""
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    rotated = [first * rotation.cos - second * rotation.sin, second * rotation.cos + first * rotation.sin]
    return mx.concatenate(rotated, axis=-1).astype(x.dtype)


def _keys_and_values(kv: mx.array, start: int, stop: int, heads: Heads) -> tuple[mx.array, mx.array]:
    """Keys and values, `[batch, kv_heads, stop - start, dim]` each, as views of the buffer `kv`."""
    return kv[:, : heads.kv, start:stop], kv[:, heads.kv :, start:stop]


def _join_heads(tiles: list[mx.array]) -> mx.array:
    """Tiles `[batch, heads, rows, dim]` of consecutive rows as one `[batch, seq, heads * dim]`."""
    joined = tiles[0] if len(tiles) == 1 else mx.concatenate(tiles, axis=2)
    batch, heads, seq, dim = joined.shape
    return joined.transpose(0, 2, 1, 3).reshape(batch, seq, heads * dim)


@lru_cache(maxsize=64)
def _band_mask(rows: int, keys: int, window: int) -> mx.array:
    """Which of the last `rows` of `keys` positions see which keys: bool `[rows, keys]`."""
    query = np.arange(keys - rows, keys)[:, None]
    key = np.arange(keys)[None, :]
    # From numpy, so that the array is ready at once and belongs to no stream: streams are bound to their thread.
    return mx.array(np.logical_and(key <= query, key > query - window))
