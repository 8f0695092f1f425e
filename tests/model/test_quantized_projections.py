"""Projections in MLX's affine quantisation, in every operation that takes one, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.ops import Heads, Linear, Norm, Ops, QuantizedLinear, Rotation, Routing
from tests import reference
from tests.model.implementations import implementations
from tests.tolerances import assert_close

BITS = [2, 3, 4, 5, 6, 8]
GROUPS = [32, 64, 128]
DTYPES = [mx.float32, mx.bfloat16, mx.float16]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(
    out: int, width: int, bits: int, group_size: int, *, bias: bool = False, dtype: mx.Dtype = mx.float32
) -> tuple[QuantizedLinear, np.ndarray]:
    """A projection with scales and offsets in `dtype`, and its weight in float64, unpacked bit by bit."""
    words, scales, offsets = mx.quantize(mx.array(normal(out, width, seed=11)), group_size=group_size, bits=bits)
    scales, offsets = scales.astype(dtype), offsets.astype(dtype)
    stream = np.unpackbits(np.array(words).view(np.uint8), axis=-1, bitorder="little")
    codes = (stream.reshape(out, width, bits) * 2.0 ** np.arange(bits)).sum(axis=-1)
    scale, offset = (np.array(part.astype(mx.float32), dtype=np.float64) for part in (scales, offsets))
    values = codes.reshape(out, -1, group_size) * scale[..., None] + offset[..., None]
    linear_bias = mx.array(normal(out, seed=12)).astype(dtype) if bias else None
    return QuantizedLinear(words, scales, offsets, bits, group_size, linear_bias), values.reshape(out, width)


def in_dtype(values: np.ndarray, dtype: mx.Dtype) -> tuple[mx.array, np.ndarray]:
    """`values` rounded to `dtype`, and what they are then in float64."""
    rounded = mx.array(values).astype(dtype)
    return rounded, np.array(rounded.astype(mx.float32), dtype=np.float64)


@pytest.mark.parametrize("ops", implementations())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group_size", GROUPS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_linear_residual(ops: Ops, rows: int, bits: int, group_size: int, dtype: mx.Dtype) -> None:
    linear, weight = quantized(31, 384, bits, group_size, bias=True, dtype=dtype)
    x, exact = in_dtype(normal(1, rows, 384), dtype)
    residual, exact_residual = in_dtype(normal(1, rows, 31, seed=1), dtype)
    assert linear.bias is not None
    out = ops.linear_residual(x, linear, residual)
    assert out.dtype == dtype
    bias = np.array(linear.bias.astype(mx.float32), dtype=np.float64)
    assert_close(out, exact_residual + exact @ weight.T + bias, dtype)


@pytest.mark.parametrize("ops", implementations())
@pytest.mark.parametrize("scales_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 33])
def test_the_dtype_of_the_scales_does_not_matter(ops: Ops, rows: int, dtype: mx.Dtype, scales_dtype: mx.Dtype) -> None:
    linear, weight = quantized(127, 192, 4, 64, dtype=scales_dtype)
    x, exact = in_dtype(normal(1, rows, 192), dtype)
    out = ops.linear_residual(x, linear, mx.zeros((1, rows, 127), dtype=dtype))
    assert out.dtype == dtype
    assert_close(out, exact @ weight[None].transpose(0, 2, 1), dtype)


@pytest.mark.parametrize("ops", implementations())
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", [1, 5, 65])
def test_router_and_lm_head(ops: Ops, rows: int, bits: int) -> None:
    linear, weight = quantized(32, 160, bits, 32)
    x, norm = normal(1, rows, 160), Norm(mx.array(normal(160, seed=1) + 1), 1e-5)
    normed = reference.rms_norm(x[0].astype(np.float64), np.array(norm.weight), 1e-5)
    logits = ops.norm_lm_head(mx.array(x), norm, linear)
    assert logits.dtype == mx.float32
    assert_close(logits[0], normed @ weight.T)
    routing = Routing(ops.norm_router(mx.array(x), norm, linear)[1], 4)
    expected_chosen, expected_weights = reference.route(normed @ weight.T, 4)
    np.testing.assert_array_equal(np.array(routing.experts[0]), expected_chosen)
    np.testing.assert_allclose(np.array(routing.weights[0]), expected_weights, atol=1e-4)


@pytest.mark.parametrize("ops", implementations())
@pytest.mark.parametrize("rows", [1, 2, 129])
def test_qkv(ops: Ops, rows: int) -> None:
    heads = Heads(query=6, kv=2, dim=16)
    quantized_qkv, weight = quantized(160, 96, 8, 32, bias=True)
    assert quantized_qkv.bias is not None
    norm, rotation = Norm(mx.ones(96), 1e-5), Rotation(mx.ones((rows, 8)), mx.zeros((rows, 8)))
    x = mx.array(normal(2, rows, 96))
    dense = Linear(mx.array(weight.astype(np.float32)), quantized_qkv.bias)
    found, expected = (ops.norm_qkv_rope(x, norm, qkv, heads, rotation) for qkv in (quantized_qkv, dense))
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, np.array(theirs, dtype=np.float64))


@pytest.mark.parametrize("ops", implementations())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group_size", GROUPS)
@pytest.mark.parametrize("bits", BITS)
def test_embedding_rows(ops: Ops, bits: int, group_size: int, dtype: mx.Dtype) -> None:
    table, weight = quantized(50, 256, bits, group_size)
    tokens = np.array([[49, 0, 7], [7, 7, 31]], dtype=np.int32)
    rows = ops.embed(mx.array(tokens), table, dtype)
    assert rows.dtype == dtype
    assert_close(rows, weight[tokens], dtype)


@pytest.mark.parametrize("ops", implementations())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_embedding_rows_that_are_not_quantised_are_exact(ops: Ops, dtype: mx.Dtype) -> None:
    table = mx.array(normal(50, 96)).astype(mx.bfloat16)
    rows = ops.embed(mx.array([[49, 0]]), Linear(table), dtype)
    assert rows.dtype == dtype
    assert mx.array_equal(rows, table[mx.array([[49, 0]])].astype(dtype))
