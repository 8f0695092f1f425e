"""YaRN's frequencies against transformers, and the turns themselves against exact arithmetic."""

import math

import numpy as np
import pytest

from gptoss_mlx.config import YarnParameters
from gptoss_mlx.rope import YarnRope, inverse_frequencies
from tests.golden.cases import FOLDER, ROPES, YARN
from tests.reference import yarn_frequencies


def parameters_of(rope: dict) -> YarnParameters:
    return YarnParameters(
        theta=rope["rope_theta"], truncate=rope["truncate"], attention_factor=0.1 * math.log(32) + 1, **YARN
    )


@pytest.mark.parametrize("number", range(len(ROPES)), ids=lambda n: "-".join(map(str, ROPES[n].values())))
def test_frequencies_and_factor_agree_with_transformers(number: int) -> None:
    rope = ROPES[number]
    with np.load(FOLDER / "rope.npz") as golden:
        ours = inverse_frequencies(rope["head_dim"], parameters_of(rope))
        # transformers computes them in float32.
        np.testing.assert_allclose(ours, golden[f"inverse_frequencies_{number}"], rtol=1e-6)
        factor = YarnRope(rope["head_dim"], parameters_of(rope)).attention_factor
        assert factor == pytest.approx(float(golden[f"attention_factor_{number}"]), rel=1e-12)


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: "-".join(map(str, rope.values())))
def test_frequencies_agree_with_the_reference(rope: dict) -> None:
    expected = yarn_frequencies(rope["head_dim"], rope["rope_theta"], {**YARN, "truncate": rope["truncate"]})
    np.testing.assert_allclose(inverse_frequencies(rope["head_dim"], parameters_of(rope)), expected, rtol=1e-12)


def test_rounding_the_range_changes_gpt_oss() -> None:
    exact, rounded = (inverse_frequencies(64, parameters_of(ROPES[n])) for n in (0, 1))
    assert np.abs(exact / rounded - 1).max() > 0.05


@pytest.mark.parametrize("offset", [0, 1, 127, 4096, 131_071])
def test_turns_are_exact_at_any_position(offset: int) -> None:
    rope = YarnRope(64, parameters_of(ROPES[0]))
    cos, sin = rope.rotation(offset, 3)
    for row in range(3):
        spin = rope.attention_factor * np.exp(1j * (offset + row) * rope.inverse_frequencies)
        np.testing.assert_allclose(np.array(cos[row]), spin.real, atol=1e-7)
        np.testing.assert_allclose(np.array(sin[row]), spin.imag, atol=1e-7)


def test_a_range_of_no_width_is_a_step() -> None:
    narrow = YarnParameters(10000.0, 32.0, 4096, beta_fast=2.0, beta_slow=2.0, truncate=False, attention_factor=1.0)
    plain = 10000.0 ** (-np.arange(32) / 32)
    ratio = inverse_frequencies(64, narrow) / plain
    np.testing.assert_allclose(np.unique(ratio.round(12)), [1 / 32, 1.0])
