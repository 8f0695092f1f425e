"""Several generations together say what each says alone, whoever comes and goes; common beginnings are read once."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.batch import LEAST_SHARED_TOKENS, read_in_turn, step_together
from gptoss_mlx.cache import KVCache
from gptoss_mlx.errors import Cancelled, ContextOverflow
from gptoss_mlx.generate import Generation
from gptoss_mlx.model import Model
from gptoss_mlx.ops import Heads, Ops, Projection, ReferenceOps, use_ops
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.weights import load_model
from tests.random_checkpoint import random_checkpoint
from tests.tolerances import relative_errors

GREEDY = Sampling(temperature=0)


class Apart(ReferenceOps):
    """Runs apart from the caller, and keeps recent rows apart."""

    def runs_apart(self, lm_head: Projection) -> bool:
        return True

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        return True


class AtOnce(ReferenceOps):
    """Is done when a call comes back, as far as generation knows."""

    def runs_apart(self, lm_head: Projection) -> bool:
        return False


OPS = [Apart(), AtOnce()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("batch")
    return load_model(random_checkpoint(folder, seed=5, sliding_window=16), dtype=mx.float32)


def tokens_of(seed: int, count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 64, count)]


def begun(model: Model, prompt: list[int], sampling: Sampling = GREEDY, *, limit: int = 4096) -> Generation:
    generation = Generation(model, model.make_cache(), sampling, context_limit=limit)
    for _ in generation.prefill(prompt):
        pass
    return generation


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
def test_logits_of_tokens_read_together_are_those_of_each_alone(model: Model, ops: Ops) -> None:
    lengths = (1, 5, 15, 16, 17, 130, 300)
    with use_ops(ops):
        together, alone = ([model.make_cache() for _ in lengths] for _ in range(2))
        for caches in (together, alone):
            for seed, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
                mx.eval(model.read(mx.array([tokens_of(seed, length)]), cache))
        for step in range(3):
            tokens = tokens_of(100 + step, len(lengths))
            found = np.array(model.read_together(mx.array(tokens), together))
            expected = [model(mx.array([[token]]), cache)[0, 0] for token, cache in zip(tokens, alone, strict=True)]
            assert relative_errors(found, np.array(mx.stack(expected))).max() < 1e-5
        tokens = tokens_of(7, len(lengths))
        best = model.read_together(mx.array(tokens), together, most_probable=True)
        for token, cache, chosen in zip(tokens, alone, np.array(best), strict=True):
            assert model.most_probable(mx.array([[token]]), cache).item() == chosen
    assert [cache.offset for cache in together] == [length + 4 for length in lengths]


def test_when_one_has_no_room_none_has_read(model: Model) -> None:
    caches = [model.make_cache(), model.make_cache()]
    mx.eval(*(model.read(mx.array([[1, 2, 3]]), cache) for cache in caches))
    config, model.config = (
        model.config,
        model.config.__class__(
            **{**{name: getattr(model.config, name) for name in model.config.__slots__}, "max_position_embeddings": 3}
        ),
    )
    try:
        with pytest.raises(ContextOverflow):
            model.read_together(mx.array([1, 2]), caches)
    finally:
        model.config = config
    assert [cache.offset for cache in caches] == [3, 3]


SAMPLINGS = [GREEDY, Sampling(seed=3), Sampling(temperature=0, logprobs=True), Sampling(seed=4, repetition_penalty=1.2)]


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: type(ops).__name__)
@given(
    members=st.lists(
        st.tuples(
            st.integers(1, 40),  # its prompt's length
            st.integers(0, 6),  # the step at which it comes
            st.integers(1, 9),  # how many tokens it says
            st.integers(0, 3),  # its sampling
            st.sampled_from([None, 1, 3]),  # after how many tokens others are forced
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=12, deadline=None)
def test_whoever_comes_and_goes_each_says_what_it_says_alone(
    model: Model, ops: Ops, members: list[tuple[int, int, int, int, int | None]]
) -> None:
    with use_ops(ops):
        expected: list[list[tuple[int, bool]]] = []
        for seed, (length, _, count, sampling, force_after) in enumerate(members):
            generation = begun(model, tokens_of(seed, length), SAMPLINGS[sampling])
            said: list[tuple[int, bool]] = []
            for number in range(count):
                step = generation.next_step()
                said.append((step.token, step.forced))
                if number + 1 == force_after:
                    generation.force([7, 8])
            expected.append(said)
        found: list[list[tuple[int, bool]]] = [[] for _ in members]
        running: dict[int, Generation] = {}
        for now in range(20):
            for seed, (length, comes, _, sampling, _) in enumerate(members):
                if comes == now:
                    running[seed] = begun(model, tokens_of(seed, length), SAMPLINGS[sampling])
            for seed, step in zip(list(running), step_together(model, list(running.values())), strict=True):
                found[seed].append((step.token, step.forced))
                if len(found[seed]) == members[seed][4]:
                    running[seed].force([7, 8])
                if len(found[seed]) == members[seed][2]:
                    del running[seed]
            if not running and now > 6:
                break
    assert found == expected


def test_a_generation_that_fills_its_context_reads_no_further(model: Model) -> None:
    for ops in OPS:
        with use_ops(ops):
            short, long = begun(model, [1, 2, 3], limit=5), begun(model, [4, 5], limit=50)
            for _ in range(2):
                step_together(model, [short, long])
            assert short.exhausted
            assert short.cache.offset <= 5
            assert not long.exhausted


class CountingOps(ReferenceOps):
    """Counts the tokens that are read."""

    def __init__(self) -> None:
        self.tokens = 0

    def embed(self, tokens: mx.array, table: Projection, dtype: mx.Dtype) -> mx.array:
        self.tokens += tokens.size
        return super().embed(tokens, table, dtype)


def begins_alike(prompts: list[list[int]]) -> int:
    """Distinct beginnings of all prompts, the last token of each left out: what has to be read at the least."""
    return len({tuple(prompt[: n + 1]) for prompt in prompts for n in range(len(prompt) - 1)})


@given(
    shapes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 50)), min_size=1, max_size=7),
    chunk=st.sampled_from([7, 40, 512]),
)
@settings(max_examples=15, deadline=None)
def test_common_beginnings_are_read_once_and_nothing_is_mixed_up(
    model: Model, shapes: list[tuple[int, int, int]], chunk: int
) -> None:
    stems = [tokens_of(stem, 100) for stem in range(3)]
    prompts = [[*stems[stem][:share], *tokens_of(50 + n, own)] for n, (stem, share, own) in enumerate(shapes)]
    with use_ops(CountingOps()) as ops:
        assert isinstance(ops, CountingOps)
        caches: dict[int, KVCache] = {}
        rest = 0
        for number, cache in read_in_turn(model, prompts, chunk=chunk):
            assert number not in caches
            assert cache.offset < len(prompts[number])
            rest += len(prompts[number]) - 1 - cache.offset
            # The way in which it is used: the rest is read, and tokens follow, before the next one is asked for.
            mx.eval(model(mx.array([prompts[number][cache.offset :]]), cache))
            caches[number] = cache
        assert sorted(caches) == list(range(len(prompts)))
        read = ops.tokens
    assert read <= begins_alike(prompts) + len(prompts) * (LEAST_SHARED_TOKENS + 1)
    for number, prompt in enumerate(prompts):
        cold = model.make_cache()
        mx.eval(model(mx.array([prompt]), cold))
        after = mx.array([[9]])
        assert relative_errors(np.array(model(after, caches[number])[0]), np.array(model(after, cold)[0])).max() < 1e-5


def test_the_same_prompt_many_times_is_read_once(model: Model) -> None:
    prompts = [tokens_of(1, 200)] * 20
    with use_ops(CountingOps()) as ops:
        assert isinstance(ops, CountingOps)
        offsets = [cache.offset for _, cache in read_in_turn(model, prompts, chunk=64)]
        assert ops.tokens == 199
    assert offsets == [199] * 20


def test_reading_what_is_common_stops_between_two_chunks(model: Model) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Cancelled, match="stopped after 80 of 199"):
        list(read_in_turn(model, [tokens_of(1, 200)] * 2, chunk=40, cancelled=cancelled))


def test_a_fork_goes_its_own_way(model: Model) -> None:
    first = model.make_cache()
    mx.eval(model(mx.array([tokens_of(1, 50)]), first))
    second, (place,) = first.fork([first.snapshot()])
    one = np.array(model(mx.array([tokens_of(2, 30)]), first)[0])
    two = np.array(model(mx.array([tokens_of(3, 30)]), second)[0])
    for seed, found in ((2, one), (3, two)):
        cold = np.array(model(mx.array([[*tokens_of(1, 50), *tokens_of(seed, 30)]]))[0, 50:])
        assert relative_errors(found, cold).max() < 1e-5
    assert not second.can_restore(first.snapshot())
    assert second.can_restore(place)
