"""Sampling against numpy: what may be chosen, how often, and what is reported."""

from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.errors import UsageError
from gptoss_mlx.sampling import Sampler, Sampling

LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], dtype=np.float32))


def draws(sampling: Sampling, count: int, logits: np.ndarray = LOGITS, context: tuple[int, ...] = ()) -> np.ndarray:
    sampler = Sampler(sampling, len(logits), context)
    row = mx.array(logits)[None]
    return np.array(mx.concatenate([sampler.draw(row)[0] for _ in range(count)]))


def test_temperature_zero_takes_the_most_probable_token_and_the_lower_id_of_equals():
    assert set(draws(Sampling(temperature=0), 5)) == {0}
    assert set(draws(Sampling(temperature=0), 5, np.array([1.0, 3.0, 3.0], dtype=np.float32))) == {1}


def test_the_default_draws_from_the_models_own_distribution():
    counts = np.bincount(draws(Sampling(seed=7), 4000), minlength=5) / 4000
    # Four standard deviations of the rarest and of the commonest share.
    assert np.abs(counts - np.exp(LOGITS)).max() < 4 * np.sqrt(0.4 * 0.6 / 4000)


def test_a_higher_temperature_flattens_the_distribution():
    expected = np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum()
    counts = np.bincount(draws(Sampling(temperature=2, seed=3), 4000), minlength=5) / 4000
    assert np.abs(counts - expected).max() < 0.04


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.01}, {0}),
        ({"top_p": 0.5}, {0, 1}),
        ({"top_p": 0.84}, {0, 1, 2}),
        ({"min_p": 0.3}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 4, "top_p": 0.84, "min_p": 0.5}, {0, 1}),
    ],
)
def test_filters_leave_exactly_the_tokens_they_should(options: dict[str, Any], allowed: set[int]):
    assert set(draws(Sampling(seed=1, **options), 400)) == allowed


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40),
    st.floats(0.05, 1.0),
    st.integers(0, 45),
    st.floats(0, 0.9),
    st.integers(0, 2**32),
)
def test_a_filtered_draw_is_always_among_the_tokens_that_numpy_allows(
    values: list[float], top_p: float, top_k: int, min_p: float, seed: int
):
    logits = np.array(values, dtype=np.float32)
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    shares = np.exp(logits[order].astype(np.float64) - logits.max())
    shares /= shares.sum()
    before = np.cumsum(shares) - shares
    slack = 1e-5
    kept = order[(before < top_p + slack) & (shares >= min_p * shares[0] - slack)]
    # Equal logits at the edge of top-k, or of top-p, may be resolved either way.
    edge = {i for i in range(len(logits)) if logits[i] in logits[[order[-1], *kept]]}
    sampling = Sampling(top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    assert int(draws(sampling, 1, logits)[0]) in set(kept.tolist()) | edge


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    first, again, other = (draws(Sampling(seed=seed), 50).tolist() for seed in (5, 5, 6))
    assert first == again != other


def test_logit_bias_forbids_and_forces():
    assert 0 not in draws(Sampling(seed=2, logit_bias={0: -1e9}), 100)
    assert set(draws(Sampling(seed=2, logit_bias={4: 1e9}), 20)) == {4}


def test_repetition_penalty_counts_the_context_and_what_was_observed():
    logits = np.array([2.0, 1.9, -0.1], dtype=np.float32)
    assert set(draws(Sampling(temperature=0, repetition_penalty=2), 3, logits, context=(0,))) == {1}
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=50), 3)
    row = mx.array(logits)[None]
    seen = []
    for _ in range(3):
        token, _ = sampler.draw(row)
        sampler.observe(token)
        seen.append(cast(int, token.item()))
    # -0.1 is multiplied, so that a penalty never makes a token more probable.
    assert seen == [0, 1, 0]


def test_logprobs_are_of_the_unmodified_distribution():
    sampler = Sampler(Sampling(temperature=0.5, top_k=2, logit_bias={1: 9.0}, logprobs=True, seed=0), 5)
    token, logprob = sampler.draw(mx.array(LOGITS)[None])
    assert logprob is not None
    assert cast(float, logprob.item()) == pytest.approx(float(LOGITS[cast(int, token.item())]), abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
        {"seed": -1},
    ],
)
def test_a_value_out_of_range_is_refused_by_name(options: dict[str, Any]):
    with pytest.raises(UsageError, match=next(iter(options))):
        Sampling(**options)


def test_a_bias_on_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="logit_bias"):
        Sampler(Sampling(logit_bias={5: 1.0}), 5)


@pytest.mark.parametrize(
    ("options", "greedy"),
    [
        ({}, True),
        ({"top_p": 0.5, "seed": 3}, True),
        ({"temperature": 1.0}, False),
        ({"logit_bias": {1: 9.0}}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"logprobs": True}, False),
    ],
)
def test_only_a_draw_of_the_largest_unmodified_logit_is_greedy(options: dict[str, Any], greedy: bool):
    assert Sampler(Sampling(**{"temperature": 0.0, **options}), 5).greedy == greedy
