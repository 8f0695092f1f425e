"""The pocket model with every operation on our kernels, in the simulator: the same tokens as without them."""

import pytest

from gptoss_mlx.batch import step_together
from gptoss_mlx.cache import RECENT_TOKENS
from gptoss_mlx.generate import Generation
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.ops import KernelOps, Ops, ReferenceOps, use_ops
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.weights import load_model
from tests.simulator import simulated

DECODED = 64
"""Tokens that are decoded."""

OF_A_TOKEN = {
    "norm_qkv_rope",
    "ring_attention",
    "full_attention",
    "linear_residual",
    "norm_router",
    "expert_gate_up",
    "expert_down",
    "norm_argmax",
    "merge_argmax",
}
"""What decoding launches."""

OF_A_PROMPT = {
    "tile_attention",
    "pick_experts",
    "route_pairs",
    "grouped_gate_up",
    "grouped_down",
    "combine_experts",
}
"""What reading several tokens at once launches."""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(POCKET_FOLDER)


def generate(model: Model, ops: Ops, prompt: list[int], *, chunk: int, decoded: int = DECODED) -> list[int]:
    """The next tokens after `prompt`, each the most probable."""
    with use_ops(ops):
        generation = Generation(
            model, model.make_cache(), Sampling(temperature=0), context_limit=4096, prefill_chunk=chunk
        )
        for _ in generation.prefill(prompt):
            pass
        return [generation.next_step().token for _ in range(decoded)]


def prompt_of(length: int) -> list[int]:
    """Token ids all over the pocket model's vocabulary."""
    return [(37 * n * n + 11 * n) % 3000 for n in range(length)]


def test_it_generates_the_reference_s_tokens(model: Model):
    prompt = prompt_of(9)
    with simulated() as simulator:
        tokens = generate(model, KernelOps(), prompt, chunk=512)
    assert tokens == generate(model, ReferenceOps(), prompt, chunk=512)
    assert {launch.kernel for launch in simulator.launches} == OF_A_TOKEN | OF_A_PROMPT


@pytest.mark.slow
def test_so_it_does_after_a_long_prompt_in_chunks_that_wrap_the_ring(model: Model):
    prompt = prompt_of(300)
    with simulated(seed=5) as simulator:
        tokens = generate(model, KernelOps(), prompt, chunk=170)
    assert tokens == generate(model, ReferenceOps(), prompt, chunk=170)
    assert {launch.kernel for launch in simulator.launches} == OF_A_TOKEN | OF_A_PROMPT


@pytest.mark.slow
def test_so_it_does_when_tokens_are_read_a_few_at_a_time(model: Model):
    prompt = prompt_of(20)
    with simulated(checks=False):
        tokens = generate(model, KernelOps(), prompt, chunk=5)
    assert tokens == generate(model, ReferenceOps(), prompt, chunk=512)


@pytest.mark.slow
def test_so_it_does_when_its_recent_rows_have_gone_into_the_body(model: Model):
    prompt, decoded = prompt_of(20), RECENT_TOKENS + 12
    with simulated(checks=False):
        tokens = generate(model, KernelOps(), prompt, chunk=512, decoded=decoded)
    assert tokens == generate(model, ReferenceOps(), prompt, chunk=512, decoded=decoded)


def test_so_do_several_answers_together(model: Model):
    prompts = [prompt_of(9), prompt_of(140), prompt_of(23)]
    with use_ops(ReferenceOps()):
        generations = [
            Generation(model, model.make_cache(), Sampling(temperature=0), context_limit=4096) for _ in prompts
        ]
        for generation, prompt in zip(generations, prompts, strict=True):
            for _ in generation.prefill(prompt):
                pass
    with simulated() as simulator, use_ops(KernelOps()):
        tokens = [[step.token for step in step_together(model, generations)] for _ in range(3)]
    alone = [generate(model, ReferenceOps(), prompt, chunk=512, decoded=3) for prompt in prompts]
    assert [list(column) for column in zip(*tokens, strict=True)] == alone
    # Attention is each answer's own; projections of several tokens are MLX's.
    of_several = {"pick_experts", "route_pairs", "grouped_gate_up", "grouped_down", "combine_experts"}
    assert {launch.kernel for launch in simulator.launches} == of_several | {"ring_attention", "full_attention"}
