"""RMSNorm, q, k, v, bias and rotary turn of one token, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.metal import norm_qkv_rope
from gptoss_mlx.operands import Heads, Norm, Projection, QuantizedLinear, Rotation
from gptoss_mlx.ops.reference import ReferenceOps
from tests.metal.arrays import random_array, to_float64
from tests.metal.projections import (
    FORMATS,
    NARROW,
    assert_weights_are_loaded_once,
    exact_norm,
    exact_product,
    random_norm,
    random_projection,
)
from tests.simulator import simulated
from tests.tolerances import ONE_ROUNDING, OPERATION_ERROR, assert_within

REAL = (2880, Heads(64, 8, 64))
"""Width and heads of gpt-oss-20b and -120b."""

POCKET = (192, Heads(4, 2, 64))


def random_rotation(rng: np.random.Generator, factor: float = 1.25) -> Rotation:
    """Any turn, and a factor that cos and sin come with."""
    angles = rng.uniform(-np.pi, np.pi, (1, 32))
    return Rotation(*(mx.array((factor * turn(angles)).astype(np.float32)) for turn in (np.cos, np.sin)))


def expected(
    x: mx.array, norm: Norm, qkv: Projection, heads: Heads, rotation: Rotation
) -> tuple[np.ndarray, np.ndarray]:
    """Queries `[1, query, 1, 64]` and rows `[1, 2 * kv, 1, 64]`, the pairs turned as complex numbers."""
    projected = exact_product(exact_norm(x, norm), qkv).reshape(-1, 64)
    turned = heads.query + heads.kv
    spun = (projected[:turned, :32] + 1j * projected[:turned, 32:]) * (
        to_float64(rotation.cos) + 1j * to_float64(rotation.sin)
    )
    projected[:turned] = np.concatenate([spun.real, spun.imag], axis=1)
    return projected[None, : heads.query, None], projected[None, heads.query :, None]


def operands(
    sizes: tuple[int, Heads], stored: tuple[int, int] = (16, 0), dtype: mx.Dtype = mx.bfloat16, *, biased: bool = True
) -> tuple[mx.array, Norm, Projection, Heads, Rotation]:
    rng = np.random.default_rng(7)
    width, heads = sizes
    rows = (heads.query + 2 * heads.kv) * 64
    return (
        random_array(rng, 1, 1, width, dtype=dtype, scale=3.0),
        random_norm(rng, width, dtype),
        random_projection(rng, rows, width, stored, dtype, biased=biased),
        heads,
        random_rotation(rng),
    )


def assert_right(call: tuple[mx.array, Norm, Projection, Heads, Rotation], seed: int = 0) -> None:
    with simulated(seed=seed):
        q, rows = norm_qkv_rope.launch(*call)
    expected_q, expected_rows = expected(*call)
    assert q.dtype == rows.dtype == call[0].dtype
    assert_within(q, expected_q, ONE_ROUNDING[q.dtype])
    assert_within(rows, expected_rows, ONE_ROUNDING[q.dtype])


@pytest.mark.parametrize("stored", (FORMATS | NARROW).values(), ids=FORMATS | NARROW)
def test_at_the_models_widths_it_agrees_with_float64_and_reads_every_weight_once(stored):
    call = operands(REAL, stored)
    with simulated(seed=3, counting=True) as simulator:
        q, rows = norm_qkv_rope.launch(*call)
    expected_q, expected_rows = expected(*call)
    assert_within(q, expected_q, ONE_ROUNDING[mx.bfloat16])
    assert_within(rows, expected_rows, ONE_ROUNDING[mx.bfloat16])
    launch = simulator.launches[-1]
    assert_weights_are_loaded_once(launch, call[2], most_lines=1.6)
    assert launch.threadgroup_bytes <= 6 * 1024


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("stored", [(16, 0), (8, 32)], ids=["dense", "8 bits"])
def test_every_dtype_of_activations_is_served(dtype, stored):
    assert_right(operands(POCKET, stored, dtype), seed=1)


@pytest.mark.parametrize("stored", [(16, 0), (8, 64), (6, 32), (4, 32)])
def test_the_pocket_models_widths_are_served(stored):
    assert_right(operands(POCKET, stored), seed=2)


@pytest.mark.parametrize(
    ("sizes", "stored"),
    [
        ((32, Heads(1, 1, 64)), (16, 0)),
        ((32, Heads(1, 1, 64)), (4, 32)),
        ((416, Heads(8, 1, 64)), (8, 32)),
        ((1152, Heads(3, 1, 64)), (6, 128)),
        ((1152, Heads(3, 1, 64)), (8, 128)),
        ((1152, Heads(3, 1, 64)), (4, 128)),
    ],
)
def test_widths_that_fill_no_round_of_lanes_are_served(sizes, stored):
    assert_right(operands(sizes, stored), seed=2)


def test_a_projection_without_bias_is_served():
    assert_right(operands(POCKET, biased=False))


def test_dense_weights_may_be_wider_than_the_activations():
    x, norm, _, heads, rotation = operands(POCKET)
    qkv = random_projection(np.random.default_rng(1), 512, 192, dtype=mx.float32)
    assert_right((x, norm, qkv, heads, rotation))


def test_values_are_not_turned_and_not_scaled():
    x, norm, qkv, heads, _ = operands(POCKET)
    turns = [Rotation(mx.full((1, 32), number), mx.full((1, 32), 1.0)) for number in (0.0, 7.0)]
    with simulated():
        first, second = (norm_qkv_rope.launch(x, norm, qkv, heads, rotation)[1] for rotation in turns)
    assert mx.array_equal(first[:, heads.kv :], second[:, heads.kv :])
    assert not mx.array_equal(first[:, : heads.kv], second[:, : heads.kv])


def test_a_token_of_zeros_gives_the_turned_bias():
    x, norm, qkv, heads, rotation = operands(POCKET)
    assert_right((mx.zeros_like(x), norm, qkv, heads, rotation))


@pytest.mark.parametrize("stored", [(16, 0), (8, 64)])
def test_any_order_of_lanes_gives_the_same_bits(stored):
    call = operands(POCKET, stored)
    results = []
    for seed in (0, 1, 2):
        with simulated(seed=seed):
            results.append(norm_qkv_rope.launch(*call))
    for q, rows in results[1:]:
        assert mx.array_equal(q, results[0][0])
        assert mx.array_equal(rows, results[0][1])


def test_it_gives_what_the_reference_gives():
    call = operands(POCKET, dtype=mx.float32)
    with simulated():
        q, rows = norm_qkv_rope.launch(*call)
    reference_q, reference_rows = ReferenceOps().norm_qkv_rope(*call)
    assert_within(q, to_float64(reference_q), OPERATION_ERROR[mx.float32])
    assert_within(rows, to_float64(reference_rows), OPERATION_ERROR[mx.float32])


def test_what_it_does_not_serve_it_refuses():
    x, norm, qkv, heads, rotation = call = operands(POCKET)
    assert norm_qkv_rope.fits(*call)
    two = mx.zeros((1, 2, 192), mx.bfloat16)
    assert not norm_qkv_rope.fits(two, norm, qkv, heads, rotation)
    assert not norm_qkv_rope.fits(x.astype(mx.float32), norm, qkv, heads, rotation)
    assert not norm_qkv_rope.fits(x, norm, qkv, Heads(8, 4, 32), rotation)
    assert not norm_qkv_rope.fits(x, norm, qkv, Heads(4, 1, 64), rotation)
    codes, scales, offsets = mx.quantize(qkv.weight, 64, 3)
    assert not norm_qkv_rope.fits(x, norm, QuantizedLinear(codes, scales, offsets, 3, 64), heads, rotation)


def test_tokens_and_heads_of_another_size_are_refused_at_the_launch_too():
    x, norm, qkv, heads, rotation = operands(POCKET)
    for token in (mx.zeros((1, 2, 192), mx.bfloat16), mx.zeros((1, 1, 160), mx.bfloat16)):
        with pytest.raises(ValueError, match="does not take"):
            norm_qkv_rope.launch(token, norm, qkv, heads, rotation)
    with pytest.raises(ValueError, match="does not take"):
        norm_qkv_rope.launch(x, norm, qkv, Heads(4, 1, 64), rotation)
