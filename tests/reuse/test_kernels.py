"""Reuse with every operation on our kernels, in the simulator: the same tokens as the reference from nothing."""

import mlx.core as mx
import pytest

from gptoss_mlx.generate import Generation
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.kv_record import record, restore
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.ops import KernelOps, Ops, ReferenceOps, use_ops
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.weights import load_model
from tests.simulator import simulated


def answer(model: Model, pool: KVPool, ops: Ops, prompt: list[int], decoded: int) -> tuple[list[int], int]:
    """The most probable tokens after `prompt`, and how many of its tokens came from `pool`."""
    with use_ops(ops):
        held = pool.take(model.make_cache, prompt, start=len(prompt), end_ids={7})
        cached = held.cached_tokens
        generation = Generation(model, held.cache, Sampling(temperature=0), context_limit=4096)
        for _ in generation.prefill(prompt):
            held.collect()
        tokens = []
        for _ in range(decoded):
            tokens.append(generation.next_step().token)
            held.heard(tokens[-1], generation.length)
        pool.give_back(held, generation.tokens_read)
    return tokens, cached


@pytest.mark.slow
def test_turns_other_answers_branches_and_restarts_say_what_the_reference_says_from_nothing():
    model, ops = load_model(POCKET_FOLDER, dtype=mx.bfloat16), KernelOps()
    first = [*((37 * n * n + 11 * n) % 3000 for n in range(150)), 7, 5, 6]
    pool, nothing = KVPool(1 << 40), KVPool(0)
    with simulated(checks=False):
        said, _ = answer(model, pool, ops, first, 6)
        second = [*first, 9, *said[3:], 7, 11, 12, 7, 5, 6]
        expectations = [(first, 152), (second, 153), ([*second[:-4], 13, 14, 7, 5, 6], 158)]
        found = [answer(model, pool, ops, prompt, 6) for prompt, _ in expectations]
        (held,) = pool._held
        restarted = KVPool(1 << 40)
        with use_ops(ops):
            kept = record(held, len(held.tokens), "pocket")
            restarted.add(restore(kept, "pocket", model.config, model.dtype))
        again = answer(model, restarted, ops, second, 6)
    assert [cached for _, cached in found] == [cached for _, cached in expectations]
    assert again[1] >= 153
    for prompt, (tokens, _) in zip(
        [first, first, second, expectations[2][0], second], [(said, 0), *found, again], strict=True
    ):
        assert tokens == answer(model, nothing, ReferenceOps(), prompt, 6)[0]
