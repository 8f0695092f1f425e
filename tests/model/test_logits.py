"""The model's logits against float64 numpy and against transformers, however the prompt is cut."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.errors import ContextOverflow
from gptoss_mlx.model import Model
from gptoss_mlx.ops import ExpertLinear, ReferenceOps, Routing, use_ops
from gptoss_mlx.weights import load_model
from tests.model.conftest import LoadedCase
from tests.random_checkpoint import random_checkpoint
from tests.reference import ReferenceModel
from tests.tolerances import assert_logits_agree, relative_errors


def read_in_chunks(model: Model, tokens: mx.array, chunks: list[int]) -> np.ndarray:
    """Logits `[tokens, vocab]` of `tokens` `[1, tokens]` read `chunks` at a time."""
    cache, parts = model.make_cache(), []
    for start, stop in itertools.pairwise(itertools.accumulate(chunks, initial=0)):
        parts.append(np.array(model(tokens[:, start:stop], cache)[0]))
    assert cache.offset == tokens.shape[1]
    return np.concatenate(parts)


def test_whole_prompt_agrees_with_float64(loaded: LoadedCase) -> None:
    assert_logits_agree(loaded.logits, loaded.reference)


def test_whole_prompt_agrees_with_transformers(loaded: LoadedCase) -> None:
    assert_logits_agree(loaded.logits[loaded.case.positions], loaded.golden)


def test_the_two_references_agree(loaded: LoadedCase) -> None:
    assert_logits_agree(loaded.golden, loaded.reference[loaded.case.positions])


@pytest.mark.parametrize(
    "chunks",
    [
        [1] * 300,
        [128, 128, 44],
        [127, 1, 1, 127, 1, 43],
        [129, 1, 1, 128, 41],
        [2, 253, 1, 1, 43],
        [299, 1],
        [256] + [1] * 44,
    ],
    ids=lambda chunks: "+".join(map(str, chunks[:6])),
)
def test_any_chunks_agree_past_two_windows(plain: LoadedCase, chunks: list[int]) -> None:
    assert_logits_agree(read_in_chunks(plain.model, plain.prompt, chunks), plain.reference)


def test_decode_token_by_token_agrees_in_every_model(loaded: LoadedCase) -> None:
    tokens = loaded.prompt[:, :270]
    assert_logits_agree(read_in_chunks(loaded.model, tokens, [1] * 270), loaded.reference[:270])


def test_chunked_prefill_then_decode_agrees_past_4096(long: LoadedCase) -> None:
    logits = read_in_chunks(long.model, long.prompt, [2048, 2000, 30, *[1] * 60, 200, *[1] * 62])
    assert_logits_agree(logits, long.reference)
    assert_logits_agree(logits[long.case.positions], long.golden)


def test_every_row_of_a_batch_is_read_on_its_own(plain: LoadedCase) -> None:
    tokens = mx.stack([plain.prompt[0, :150], plain.prompt[0, 150:]])
    cache = plain.model.make_cache()
    parts = [plain.model(tokens[:, start:stop], cache) for start, stop in ((0, 140), (140, 141), (141, 150))]
    for row, logits in enumerate(np.array(mx.concatenate(parts, axis=1))):
        alone = np.array(plain.model(tokens[row : row + 1])[0])
        assert relative_errors(logits, alone).max() < 1e-5


def test_last_only_gives_the_last_position(plain: LoadedCase) -> None:
    last = plain.model(plain.prompt, last_only=True)
    assert last.shape == (1, 1, 64)
    assert last.dtype == mx.float32
    assert relative_errors(np.array(last[0]), plain.reference[-1:]).max() < 1e-5


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_stays_near(
    plain: LoadedCase, tmp_path_factory: pytest.TempPathFactory, dtype: mx.Dtype
) -> None:
    model = load_model(plain.case.write_checkpoint(tmp_path_factory.mktemp("half")), dtype=dtype)
    cache = model.make_cache()
    logits = model(plain.prompt[:, :200], cache)
    mx.eval(cache.arrays)
    assert logits.dtype == mx.float32
    assert all(array.dtype == dtype for array in cache.arrays)
    # Rounding of the whole residual stream to 8 or 11 bits; a token whose experts tie may go another way.
    assert np.median(relative_errors(np.array(logits[0]), plain.reference[:200])) < (
        0.05 if dtype == mx.bfloat16 else 0.005
    )


def test_swiglu_limit_and_experts_per_token_come_from_the_config(tmp_path, plain: LoadedCase) -> None:
    changes = {"swiglu_limit": 0.5, "num_experts_per_tok": 2, "experts_per_token": 2, "sliding_window": 5}
    model = load_model(random_checkpoint(tmp_path, seed=1, **changes), dtype=mx.float32)
    expected = ReferenceModel({**plain.case.config(), **changes}, plain.tensors).logits(plain.case.prompt()[:40])
    assert_logits_agree(np.array(model(plain.prompt[:, :40])[0]), expected)


def test_a_context_that_is_too_long_is_refused(tmp_path) -> None:
    model = load_model(random_checkpoint(tmp_path, max_position_embeddings=10), dtype=mx.float32)
    cache = model.make_cache()
    mx.eval(model(mx.zeros((1, 9), dtype=mx.int32), cache))
    with pytest.raises(ContextOverflow, match="11 tokens"):
        model(mx.zeros((1, 2), dtype=mx.int32), cache)
    assert cache.offset == 9


class FailingOps(ReferenceOps):
    """Fails in the third layer's experts."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def expert_down(self, inner: mx.array, routing: Routing, down: ExpertLinear, residual: mx.array) -> mx.array:
        self._calls += 1
        if self._calls == 3:
            raise MemoryError("no room")
        return super().expert_down(inner, routing, down, residual)


@pytest.mark.parametrize("tokens", [1, 7])
def test_a_pass_that_fails_leaves_the_cache_as_it_was(plain: LoadedCase, tokens: int) -> None:
    cache = plain.model.make_cache()
    mx.eval(plain.model(plain.prompt[:, :140], cache))
    with use_ops(FailingOps()), pytest.raises(MemoryError):
        plain.model(mx.zeros((1, tokens), dtype=mx.int32), cache)
    assert {layer.offset for layer in cache.layers} == {140}
    logits = np.array(plain.model(plain.prompt[:, 140:150], cache)[0])
    assert relative_errors(logits, plain.reference[140:150]).max() < 1e-5
