"""Generation on a random model: the order of work changes nothing, forced tokens and limits hold, logits agree."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.errors import Cancelled, ContextOverflow, UsageError
from gptoss_mlx.generate import Generation, Step, all_logits, token_logprobs
from gptoss_mlx.model import Model
from gptoss_mlx.ops import Norm, Projection, ReferenceOps, use_ops
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.weights import load_model
from tests.random_checkpoint import random_checkpoint
from tests.scripted import ScriptedModel, as_model

PROMPT = [int(token) for token in np.random.default_rng(3).integers(0, 60, 150)]
GREEDY = Sampling(temperature=0, logprobs=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("random")
    random_checkpoint(folder, seed=5)
    return load_model(folder, dtype=mx.float32)


class ApartOps(ReferenceOps):
    """Runs apart from the caller, or says that it does not."""

    def __init__(self, apart: bool) -> None:
        self._apart = apart

    def runs_apart(self, lm_head: Projection) -> bool:
        return self._apart


@pytest.fixture(autouse=True, params=[True, False], ids=["apart", "at once"])
def apart(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Every test holds in both orders of work."""
    with use_ops(ApartOps(request.param)):
        yield request.param


def start(
    model: Model, prompt: list[int], sampling: Sampling = GREEDY, *, chunk: int = 512, limit: int = 4096
) -> Generation:
    generation = Generation(model, model.make_cache(), sampling, context_limit=limit, prefill_chunk=chunk)
    for _ in generation.prefill(prompt):
        pass
    return generation


def steps(generation: Generation, count: int) -> list[Step]:
    return [generation.next_step() for _ in range(count)]


def test_decoding_takes_the_most_probable_token_of_a_cold_forward_pass_each_time(model: Model):
    generation = start(model, PROMPT)
    context = list(PROMPT)
    for step in steps(generation, 12):
        logits = np.array(all_logits(model, context)[-1])
        assert step.token == int(logits.argmax())
        assert step.logprob is not None
        assert step.logprob == pytest.approx(float(logits.max() - np.logaddexp.reduce(logits)), abs=1e-4)
        context.append(step.token)


def test_without_logprobs_the_most_probable_token_comes_without_logits(model: Model):
    expected = [step.token for step in steps(start(model, PROMPT), 12)]
    generation = start(model, PROMPT, Sampling(temperature=0))
    found = steps(generation, 12)
    assert [step.token for step in found] == expected
    assert all(step.logprob is None for step in found)


class HeadlessOps(ReferenceOps):
    """Counts how often it is asked what comes next."""

    def __init__(self) -> None:
        self.predictions = 0

    def norm_lm_head(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        self.predictions += 1
        return super().norm_lm_head(x, norm, lm_head)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0), Sampling(seed=1)], ids=str)
def test_nothing_is_predicted_in_the_middle_of_a_prompt(model: Model, sampling: Sampling):
    with use_ops(HeadlessOps()) as ops:
        start(model, PROMPT, sampling, chunk=40)
        assert isinstance(ops, HeadlessOps)
        assert ops.predictions == 1


@pytest.mark.parametrize("chunk", [1, 7, 127, 128, 129, 149, 150])
def test_the_prefill_chunk_changes_no_token(model: Model, chunk: int):
    expected = [step.token for step in steps(start(model, PROMPT), 8)]
    assert [step.token for step in steps(start(model, PROMPT, chunk=chunk), 8)] == expected


def test_prefill_tells_how_far_it_is(model: Model):
    generation = Generation(model, model.make_cache(), GREEDY, context_limit=4096, prefill_chunk=64)
    assert list(generation.prefill(PROMPT)) == [(0, 150), (64, 150), (128, 150), (150, 150)]
    assert generation.length == 150


def test_a_prompt_that_is_partly_in_the_cache_is_read_from_there_on(model: Model):
    expected = [step.token for step in steps(start(model, PROMPT), 8)]
    cache = model.make_cache()
    mx.eval(model(mx.array([PROMPT[:100]]), cache))
    generation = Generation(model, cache, GREEDY, context_limit=4096)
    assert list(generation.prefill(PROMPT)) == [(100, 150), (150, 150)]
    assert [step.token for step in steps(generation, 8)] == expected


def test_forced_tokens_take_the_place_of_drawn_ones_and_the_model_goes_on_from_there(model: Model):
    generation = start(model, PROMPT)
    first = steps(generation, 2)
    generation.force([5, 6, 7])
    forced = steps(generation, 3)
    assert [(step.token, step.forced) for step in forced] == [(5, True), (6, True), (7, True)]
    after = generation.next_step()
    context = [*PROMPT, *(step.token for step in first), 5, 6, 7]
    assert after.token == int(np.array(all_logits(model, context)[-1]).argmax())


def test_the_context_limit_is_never_passed(model: Model):
    generation = start(model, PROMPT[:10], limit=14)
    steps(generation, 4)
    assert generation.exhausted
    with pytest.raises(ContextOverflow):
        generation.force([1])
    with pytest.raises(ContextOverflow, match="10 tokens and the context length is 10"):
        start(model, PROMPT[:10], limit=10)


def test_prefill_can_be_cancelled_between_two_chunks(model: Model):
    generation = Generation(model, model.make_cache(), GREEDY, context_limit=4096, prefill_chunk=10)
    seen: list[int] = []
    progress = (done for done, _ in generation.prefill(PROMPT, cancelled=lambda: len(seen) > 3))
    with pytest.raises(Cancelled, match="30 of 150"):
        seen.extend(progress)
    assert seen == [0, 10, 20, 30]


@pytest.mark.parametrize("chunk", [10, 64])
def test_a_cancelled_prefill_is_taken_up_where_it_stopped(model: Model, chunk: int):
    expected = [step.token for step in steps(start(model, PROMPT), 8)]
    cache = model.make_cache()
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    stopped = Generation(model, cache, GREEDY, context_limit=4096, prefill_chunk=chunk)
    with pytest.raises(Cancelled, match=f"stopped after {2 * chunk} of 150"):
        list(stopped.prefill(PROMPT, cancelled=cancelled))
    assert {layer.offset for layer in cache.layers} == {2 * chunk}
    again = Generation(model, cache, GREEDY, context_limit=4096, prefill_chunk=chunk)
    assert next(iter(again.prefill(PROMPT))) == (2 * chunk, 150)
    again = Generation(model, cache, GREEDY, context_limit=4096, prefill_chunk=chunk)
    for _ in again.prefill(PROMPT):
        pass
    assert [step.token for step in steps(again, 8)] == expected


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "no tokens"), ([1, 64], "64 is outside"), ([-1], "-1 is outside")]
)
def test_a_prompt_that_the_model_cannot_read_is_refused(model: Model, prompt: list[int], message: str):
    with pytest.raises(UsageError, match=message):
        start(model, prompt)


def test_logits_and_logprobs_do_not_depend_on_the_chunk(model: Model):
    logits = np.array(all_logits(model, PROMPT))
    assert logits.shape == (150, 64)
    np.testing.assert_allclose(np.array(all_logits(model, PROMPT, prefill_chunk=33)), logits, atol=1e-4)
    expected = [row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, PROMPT[1:], strict=False)]
    for chunk in (512, 33, 1):
        np.testing.assert_allclose(np.array(token_logprobs(model, PROMPT, prefill_chunk=chunk)), expected, atol=1e-4)
    assert token_logprobs(model, [3]).shape == (0,)


def test_a_seed_makes_a_run_reproducible(model: Model):
    runs = [[step.token for step in steps(start(model, PROMPT, Sampling(seed=seed)), 20)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def scripted(apart: bool) -> tuple[ScriptedModel, Generation]:
    """A model that says 5 6 7 8 9 after the prompt 1 2 3, with the prompt read."""
    model = ScriptedModel(10, [[5, 6, 7, 8, 9]], runs_apart=apart)
    return model, start(as_model(model), [1, 2, 3])


def test_a_token_is_read_before_it_is_handed_out_only_where_the_model_runs_apart(apart: bool):
    model, generation = scripted(apart)
    assert model.calls == [[1, 2, 3]]
    assert generation.next_step().token == 5
    assert model.calls[1:] == ([[5]] if apart else [])
    assert [step.token for step in steps(generation, 2)] == [6, 7]
    assert model.calls[1:] == ([[5], [6], [7]] if apart else [[5], [6]])


def test_forced_tokens_are_read_after_those_handed_out_before(apart: bool):
    model, generation = scripted(apart)
    steps(generation, 2)
    generation.force([3, 4])
    generation.force([2])
    assert [(step.token, step.forced) for step in steps(generation, 3)] == [(3, True), (4, True), (2, True)]
    generation.next_step()
    read = [token for call in model.calls for token in call]
    assert read[:8] == [1, 2, 3, 5, 6, 3, 4, 2]
    assert generation.length == 9


def test_a_draw_that_nobody_took_is_no_part_of_the_context(apart: bool):
    model, generation = scripted(apart)
    generation.force([4])
    assert generation.next_step() == Step(4, None, forced=True)
    generation.next_step()
    assert [token for call in model.calls for token in call][:4] == [1, 2, 3, 4]


def test_a_repetition_penalty_counts_each_token_once_it_was_handed_out(model: Model):
    sampling = Sampling(temperature=0, repetition_penalty=1e6)
    generation = start(model, [1, 2], sampling)
    generation.force([3])
    tokens = [1, 2, *(step.token for step in steps(generation, 20))]
    assert len(set(tokens)) == len(tokens) == 22
