"""131,072 tokens, all that gpt-oss was made for: read, stopped in the middle, taken up, and answered. Slow."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.device import this_device
from gptoss_mlx.errors import Cancelled
from gptoss_mlx.generate import Generation
from gptoss_mlx.memory import activation_bytes, kv_bytes
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.weights import load_model
from tests.random_checkpoint import random_checkpoint

CONTEXT = 131_072
STOP_AT = 100


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_context_is_read_can_be_stopped_and_taken_up_and_answered(tmp_path: Path) -> None:
    folder = random_checkpoint(
        tmp_path / "long",
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=1,
        num_key_value_heads=1,
        num_local_experts=4,
    )
    model = load_model(folder, dtype=mx.float32)
    prompt = np.random.default_rng(0).integers(0, 60, CONTEXT - 8).tolist()
    cache, before = model.make_cache(), mx.get_active_memory()
    mx.reset_peak_memory()
    seen: list[tuple[int, int]] = []

    def begin() -> Generation:
        return Generation(model, cache, Sampling(temperature=0), context_limit=CONTEXT, prefill_chunk=1024)

    with pytest.raises(Cancelled, match=f"stopped after {STOP_AT * 1024} of {CONTEXT - 8}"):
        seen.extend(begin().prefill(prompt, cancelled=lambda: len(seen) > STOP_AT))
    assert cache.offset == STOP_AT * 1024
    generation = begin()
    seen.extend(generation.prefill(prompt))
    assert seen[-1] == (CONTEXT - 8, CONTEXT - 8)
    assert len(seen) == 128 + 2
    for _ in range(8):
        assert 0 <= generation.next_step().token < 64
    assert generation.exhausted
    reckoned = kv_bytes(model.config, CONTEXT, 4) + activation_bytes(model.config, this_device(), 4, 1024, CONTEXT)
    assert cache.nbytes <= kv_bytes(model.config, CONTEXT, 4)
    assert mx.get_peak_memory() - before <= reckoned
