"""What runs where MLX has no GPU: the same values as the reference, by the fastest way that a processor offers.

MLX's processor back-end runs each stream on one thread and multiplies with a reference BLAS. So

- products large enough go through numpy's BLAS, on views of MLX's own memory: float32 weights as they are, shorter
  and quantised ones and experts with many tokens a few rows at a time as float32;
- products of a single token with quantised weights stay with MLX's kernels, shared among several streams.

What goes through numpy is computed before the call returns; the rest is queued as ever.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.device import this_device
from gptoss_mlx.operands import ExpertLinear, Heads, Linear, Projection, QuantizedLinear
from gptoss_mlx.ops.blas import multiply, multiply_expanded
from gptoss_mlx.ops.cpu_attention import attend
from gptoss_mlx.ops.expand import Float32, RowSource, affine_rows, array_view, dense_rows, float32_view, mxfp4_rows
from gptoss_mlx.ops.reference import ReferenceOps
from gptoss_mlx.ops.threads import share

Numbers: TypeAlias = npt.NDArray[np.integer[Any]]

BLAS_FROM_PRODUCTS: Final = 1 << 20
"""From this many products of two numbers on, a matrix product goes through numpy (MLX takes 0.8 ms for so many)."""

EXPAND_FROM_ROWS: Final = 2
"""From this many rows of x on, quantised weights are expanded; below, MLX multiplies them as they are."""

EXPAND_FROM_PAIRS: Final = 3
"""From this many pairs on, an expert's matrix is expanded; below, MLX multiplies it as it is."""

SPLIT_FROM_PRODUCTS: Final = 1 << 21
"""From this many products on, MLX's own product is shared among streams (one thread takes 1 ms for so many)."""

MOST_STREAMS: Final = 8
"""Streams that share a product at most: the tokens of one step do not feed more."""


class CpuOps(ReferenceOps):
    """The operations on a processor.

    The arguments replace the thresholds of the same names, and the number of streams; tests make them small.
    """

    def __init__(
        self,
        *,
        streams: int | None = None,
        blas_from_products: int = BLAS_FROM_PRODUCTS,
        expand_from_rows: int = EXPAND_FROM_ROWS,
        expand_from_pairs: int = EXPAND_FROM_PAIRS,
        split_from_products: int = SPLIT_FROM_PRODUCTS,
    ) -> None:
        count = min(this_device().cpu_cores, MOST_STREAMS) if streams is None else streams
        # The caller's own stream takes the first share. Streams belong to a thread and this object to none: each of
        # these stands for one stream of whatever thread uses it.
        self._streams = [mx.new_thread_local_stream(mx.cpu) for _ in range(count - 1)]
        self._blas_from_products = blas_from_products
        self._expand_from_rows = expand_from_rows
        self._expand_from_pairs = expand_from_pairs
        self._split_from_products = split_from_products

    def runs_apart(self, lm_head: Projection) -> bool:
        return not self._uses_blas(1, lm_head)

    def _project(self, x: mx.array, linear: Projection) -> mx.array:
        rows = x.size // x.shape[-1]
        if self._uses_blas(rows, linear):
            flat = float32_view(x.reshape(rows, -1))
            if isinstance(linear, Linear) and linear.weight.dtype == mx.float32:
                product = multiply(flat, array_view(linear.weight))
            else:
                product = multiply_expanded(flat, len(linear.weight), _rows_of(linear))
            if linear.bias is not None:
                product += float32_view(linear.bias)
            return mx.array(product).astype(x.dtype).reshape(*x.shape[:-1], -1)
        if rows * _values(linear) < self._split_from_products:
            return super()._project(x, linear)
        project = super()._project
        shares = self._in_shares(len(linear.weight), lambda start, stop: project(x, _part(linear, start, stop)))
        return mx.concatenate(shares, axis=-1)

    def _uses_blas(self, rows: int, linear: Projection) -> bool:
        enough = rows * _values(linear) >= self._blas_from_products
        return enough and (isinstance(linear, Linear) or rows >= self._expand_from_rows)

    def _project_pairs(
        self, pairs: mx.array, experts: mx.array, linear: ExpertLinear, *, tokens: int, ordered: bool
    ) -> mx.array:
        # A token visits an expert once, so with few tokens there is no need to wait for the choice of experts.
        if tokens >= self._expand_from_pairs:
            numbers = np.array(experts)
            counts = np.bincount(numbers)[numbers]
            if counts.max() >= self._expand_from_pairs:
                return self._project_by_expert(pairs, numbers, counts, linear)
        return self._project_as_they_lie(pairs, experts, linear)

    def _project_by_expert(self, pairs: mx.array, experts: Numbers, counts: Numbers, linear: ExpertLinear) -> mx.array:
        """Experts that many pairs visit through BLAS, the pairs of all others through MLX.

        `counts` tells for each pair how many pairs its expert has.
        """
        inputs, biases, rows = float32_view(pairs), float32_view(linear.bias), linear.blocks.shape[1]
        out: Float32 = np.empty((len(inputs), rows), dtype=np.float32)
        many = counts >= self._expand_from_pairs
        for expert in np.unique(experts[many]):
            mine = np.flatnonzero(experts == expert)
            out[mine] = multiply_expanded(inputs[mine], rows, mxfp4_rows(linear, int(expert))) + biases[expert]
        if len(rest := np.flatnonzero(~many)):
            few = mx.array(inputs[rest])
            out[rest] = float32_view(self._project_as_they_lie(few, mx.array(experts[rest]), linear))
        return mx.array(out).astype(pairs.dtype)

    def _project_as_they_lie(self, pairs: mx.array, experts: mx.array, linear: ExpertLinear) -> mx.array:
        """Pairs through MLX's kernel for MXFP4, shared among the streams."""
        _, out, words = linear.blocks.shape
        project = partial(super()._project_pairs, linear=linear, tokens=len(pairs), ordered=False)
        if len(pairs) * out * words * 8 < self._split_from_products:
            return project(pairs, experts)
        shares = self._in_shares(len(pairs), lambda start, stop: project(pairs[start:stop], experts[start:stop]))
        return mx.concatenate(shares)

    def _swiglu(self, both: mx.array, limit: float, alpha: float) -> mx.array:
        # An exponential is worth about eight products.
        if 8 * both.size < self._blas_from_products:
            return super()._swiglu(both, limit, alpha)
        values = float32_view(both)
        out = np.empty((len(values), values.shape[1] // 2), dtype=np.float32)

        def work(start: int, stop: int) -> None:
            # A row at a time stays in a core's cache.
            for row in range(start, stop):
                gate = np.minimum(values[row, 0::2], np.float32(limit))
                up = np.clip(values[row, 1::2], np.float32(-limit), np.float32(limit))
                with np.errstate(over="ignore"):
                    denominator = np.exp(gate * np.float32(-alpha)) + np.float32(1)
                np.divide(gate * (up + np.float32(1)), denominator, out=out[row])

        share(len(values), work)
        return mx.array(out).astype(both.dtype)

    def _attend(
        self, q: mx.array, keys: mx.array, values: mx.array, sinks: mx.array, heads: Heads, mask: str | mx.array | None
    ) -> mx.array:
        if 2 * q.size * keys.shape[2] >= self._blas_from_products:
            return attend(q, keys, values, sinks, heads, mask)
        return super()._attend(q, keys, values, sinks, heads, mask)

    def _in_shares(self, count: int, compute: Callable[[int, int], mx.array]) -> list[mx.array]:
        """`compute(start, stop)` for as many even parts of `count` as there are streams, each on its own."""
        parts = min(len(self._streams) + 1, count)
        bounds = [count * part // parts for part in range(parts + 1)]
        shares = [compute(0, bounds[1])]
        for stream, start, stop in zip(self._streams, bounds[1:], bounds[2:], strict=False):
            with mx.stream(stream):
                shares.append(compute(start, stop))
        return shares


def _values(linear: Projection) -> int:
    """How many values the weight of `linear` has."""
    if isinstance(linear, QuantizedLinear):
        return linear.scales.size * linear.group_size
    return linear.weight.size


def _rows_of(linear: Projection) -> RowSource:
    return affine_rows(linear) if isinstance(linear, QuantizedLinear) else dense_rows(linear.weight)


def _part(linear: Projection, start: int, stop: int) -> Projection:
    """The projection to outputs `start` to `stop` only."""
    bias = None if linear.bias is None else linear.bias[start:stop]
    if isinstance(linear, Linear):
        return Linear(linear.weight[start:stop], bias)
    return replace(
        linear,
        weight=linear.weight[start:stop],
        scales=linear.scales[start:stop],
        biases=linear.biases[start:stop],
        bias=bias,
    )
