"""MLX's own kernels against float64: what they get right on a GPU, the simulator must get right."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.simulator import Fault, mlx_kernels, unsupported
from tests.simulator.compiler import preprocess
from tests.simulator.kernel import Options, Source

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=unsupported() or "")

DTYPES = [mx.float32, mx.bfloat16]
ROUNDING = {mx.float32: 2e-5, mx.bfloat16: 2.0**-8}
"""Error allowed, relative to the largest value of the result."""
SEEDS = [0, 1]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def random(rng: np.random.Generator, dtype: mx.Dtype, *shape: int) -> tuple[mx.array, np.ndarray]:
    """An array of the dtype, and the same in float64."""
    array = mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)
    return array, np.array(array.astype(mx.float32)).astype(np.float64)


def mxfp4(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks and scales of random weights, and the weights in float64."""
    words = rng.integers(0, 2**32, (*shape[:-1], shape[-1] // 8), dtype=np.uint32)
    scales = rng.integers(120, 130, (*shape[:-1], shape[-1] // 32), dtype=np.uint8)
    codes = (words[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    values = E2M1[codes].reshape(shape)
    return words, scales, values * np.repeat(2.0 ** (scales.astype(np.float64) - 127), 32, axis=-1)


def assert_close(found: mx.array, expected: np.ndarray, dtype: mx.Dtype) -> None:
    values = np.array(found.astype(mx.float32)).astype(np.float64)
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() <= ROUNDING[dtype] * np.abs(expected).max()


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, sinks: np.ndarray | None) -> np.ndarray:
    group = q.shape[0] // k.shape[0]
    scores = np.einsum("hd,hnd->hn", q, np.repeat(k, group, 0)) * scale
    sink = np.full(q.shape[0], -np.inf) if sinks is None else sinks
    most = np.maximum(scores.max(1), sink)[:, None]
    weights = np.exp(scores - most)
    total = weights.sum(1) + np.exp(sink - most[:, 0])
    return np.einsum("hn,hnd->hd", weights, np.repeat(v, group, 0)) / total[:, None]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(dtype: mx.Dtype, seed: int) -> None:
    x, exact = random(np.random.default_rng(0), dtype, 5, 1000)
    found, launch = mlx_kernels.softmax(x, Options(seed=seed))
    weights = np.exp(exact - exact.max(1, keepdims=True))
    assert_close(found, weights / weights.sum(1, keepdims=True), dtype)
    assert launch.barriers == 5 * 5
    assert launch.buffers["in"].loaded_bytes == x.nbytes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sdpa_vector(dtype: mx.Dtype, with_sinks: bool, seed: int) -> None:
    rng = np.random.default_rng(1)
    (q, q64), (k, k64), (v, v64) = (random(rng, dtype, *shape) for shape in ((8, 64), (2, 70, 64), (2, 70, 64)))
    sinks, sinks64 = random(rng, dtype, 8)
    found, launch = mlx_kernels.sdpa_vector(
        q, k, v, scale=0.125, sinks=sinks if with_sinks else None, options=Options(seed=seed)
    )
    assert_close(found, attention(q64, k64, v64, 0.125, sinks64 if with_sinks else None), dtype)
    # Each of the four heads that share keys loads them for itself.
    assert launch.buffers["keys"].loaded_bytes == 4 * k.nbytes
    assert launch.buffers["keys"].unique_loaded_bytes == k.nbytes


@pytest.mark.parametrize("seed", SEEDS)
def test_sdpa_vector_in_two_passes(seed: int) -> None:
    rng = np.random.default_rng(2)
    (q, q64), (k, k64), (v, v64) = (random(rng, mx.float32, *shape) for shape in ((8, 64), (2, 200, 64), (2, 200, 64)))
    sinks, sinks64 = random(rng, mx.float32, 8)
    found, _ = mlx_kernels.sdpa_vector_2pass(q, k, v, scale=0.125, sinks=sinks, blocks=32, options=Options(seed=seed))
    assert_close(found, attention(q64, k64, v64, 0.125, sinks64), mx.float32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "k"), [(72, 192), (64, 512)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_qmv(dtype: mx.Dtype, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(3)
    x, exact = random(rng, dtype, 3, k)
    blocks, scales, weights = mxfp4(rng, n, k)
    found, launch = mlx_kernels.qmv_mxfp4(x, blocks, scales, Options(seed=seed))
    assert_close(found, exact @ weights.T, dtype)
    assert launch.buffers["w"].unique_loaded_bytes == blocks.nbytes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_qmv(dtype: mx.Dtype, seed: int) -> None:
    rng = np.random.default_rng(4)
    blocks, scales, weights = mxfp4(rng, 4, 72, 192)
    experts = np.array([3, 0, 3, 1], np.uint32)
    for rows in (1, 4):
        x, exact = random(rng, dtype, rows, 192)
        found, _ = mlx_kernels.gather_qmv_mxfp4(x, blocks, scales, experts, Options(seed=seed))
        assert_close(found, np.einsum("bk,bnk->bn", np.broadcast_to(exact, (4, 192)), weights[experts]), dtype)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [96, 72])
@pytest.mark.parametrize("dtype", DTYPES)
def test_qmm_with_simdgroup_matrices(dtype: mx.Dtype, n: int, seed: int) -> None:
    rng = np.random.default_rng(5)
    x, exact = random(rng, dtype, 37, 128)
    blocks, scales, weights = mxfp4(rng, n, 128)
    found, launch = mlx_kernels.qmm_mxfp4(x, blocks, scales, Options(seed=seed))
    assert_close(found, exact @ weights.T, dtype)
    # Tiles of 32 x 32 x 32 are 64 products of 8 x 8 matrices.
    assert launch.matrix_ops == 2 * 3 * 4 * 64


BARRIERS = {
    "softmax_single_row": range(5),
    "sdpa_vector": range(3),
    "sdpa_vector_2pass_2": range(2),
    # Those of a tile with fewer rows than 32; the others stand in branches that are not taken.
    "fp_qmm_t_impl": range(2, 4),
}
LAUNCHERS: dict[str, Callable[[mx.array, mx.array], object]] = {
    "softmax_single_row": lambda x, keys: mlx_kernels.softmax(x),
    "sdpa_vector": lambda x, keys: mlx_kernels.sdpa_vector(x[:, :64], keys, keys, scale=0.125),
    "sdpa_vector_2pass_2": lambda x, keys: mlx_kernels.sdpa_vector_2pass(x[:, :64], keys, keys, scale=0.125, blocks=32),
    "fp_qmm_t_impl": lambda x, keys: mlx_kernels.qmm_mxfp4(x, *mxfp4(np.random.default_rng(8), 32, 256)[:2]),
}


@pytest.mark.parametrize(("function", "number"), [(name, i) for name, numbers in BARRIERS.items() for i in numbers])
def test_a_barrier_that_is_taken_from_a_kernel_of_mlx_is_missed(
    monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    whole = mlx_kernels._source

    def without_a_barrier(*arguments: Any) -> Source:
        source = whole(*arguments)
        text = preprocess(source.text, includes=source.includes, defines=source.defines)
        begin = text.index(f" void {function}(")
        barriers = list(re.finditer(r"threadgroup_barrier\([^()]*\)", text[begin:]))
        first, last = (begin + place for place in barriers[number].span())
        return replace(source, text=f"{text[:first]}(void)0{text[last:]}")

    monkeypatch.setattr(mlx_kernels, "_source", without_a_barrier)
    rng = np.random.default_rng(7)
    x, _ = random(rng, mx.float32, 8, 256)
    keys, _ = random(rng, mx.float32, 2, 100, 64)
    with pytest.raises(Fault, match=r"race|uninitialised"):
        LAUNCHERS[function](x, keys)


def test_transactions_are_those_of_neighbouring_lanes() -> None:
    rng = np.random.default_rng(6)
    x, _ = random(rng, mx.float16, 1, 512)
    blocks, scales, _ = mxfp4(rng, 8, 512)
    _, launch = mlx_kernels.qmv_mxfp4(x, blocks, scales, Options(counting=True))
    # Each simdgroup loads four rows of 256 bytes, 8 bytes a lane.
    assert launch.buffers["w"].loaded_bytes == blocks.nbytes
    assert launch.buffers["w"].transactions >= blocks.nbytes // 128
