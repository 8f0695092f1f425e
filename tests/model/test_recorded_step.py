"""A recorded decode step: the same tokens as call by call, whatever is recorded, and nothing copied or kept alive."""

import weakref
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache import RECENT_TOKENS, FullLayerCache
from gptoss_mlx.model import RECORDED_KEYS, Model
from gptoss_mlx.ops import (
    Linear,
    Norm,
    Ops,
    Position,
    Projection,
    Recording,
    ReferenceOps,
    use_ops,
)
from gptoss_mlx.weights import load_model
from tests.model.recorded_ops import RecordedOps
from tests.random_checkpoint import random_checkpoint

WINDOW = 8

RECORDINGS = [Recording(ring, full) for ring in (True, False) for full in (True, False)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("recorded")
    return random_checkpoint(folder, seed=5, sliding_window=WINDOW, num_hidden_layers=4)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return load_model(checkpoint, dtype=mx.float32)


def prompt(tokens: int) -> mx.array:
    return mx.array(np.random.default_rng(3).integers(0, 60, (1, tokens)).astype(np.int32))


def decode(model: Model, ops: Ops, tokens: int, steps: int) -> tuple[list[int], np.ndarray]:
    """The tokens after a prompt of so many, and the logits after the last of them."""
    with use_ops(ops):
        cache, found = model.make_cache(), []
        token = model.most_probable(prompt(tokens), cache)
        for _ in range(steps):
            found.append(cast(int, token.item()))
            token = model.most_probable(token, cache)
        return found, np.array(model(token, cache))


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
@pytest.mark.parametrize("tokens", [1, WINDOW - 1, WINDOW, RECORDED_KEYS - 6])
def test_whatever_is_recorded_the_tokens_stay_the_same(model: Model, recording: Recording, tokens: int) -> None:
    expected, logits = decode(model, ReferenceOps(), tokens, 12)
    found, recorded_logits = decode(model, RecordedOps(recording), tokens, 12)
    assert found == expected
    np.testing.assert_allclose(recorded_logits, logits, atol=1e-4)


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_so_they_do_when_recent_rows_have_gone_into_the_body(model: Model, recording: Recording) -> None:
    steps = 2 * RECENT_TOKENS + 10
    expected, logits = decode(model, ReferenceOps(), 20, steps)
    found, recorded_logits = decode(model, RecordedOps(recording), 20, steps)
    assert found == expected
    np.testing.assert_allclose(recorded_logits, logits, atol=1e-4)


def test_python_walks_through_the_model_once_for_many_tokens(model: Model) -> None:
    ops = RecordedOps(Recording(ring=True, full=True))
    with use_ops(ops):
        cache = model.make_cache()
        token = model.most_probable(prompt(20), cache)
        token = model.most_probable(token, cache)
        before = ops.projections
        for _ in range(RECENT_TOKENS + 10):
            token = model.most_probable(token, cache)
        mx.eval(token)
        assert ops.projections == before
        assert cache.offset == 31 + RECENT_TOKENS
        # Another body is another shape.
        mx.eval(model.most_probable(prompt(RECORDED_KEYS), cache), cache.arrays)
        mx.eval(model.most_probable(token, cache))
        assert ops.projections > before


@pytest.mark.parametrize("ops", [ReferenceOps(), *map(RecordedOps, RECORDINGS)], ids=lambda ops: type(ops).__name__)
def test_a_body_stays_where_it_lies_whether_steps_write_into_it_or_not(model: Model, ops: Ops) -> None:
    with use_ops(ops):
        cache = model.make_cache()
        token = model.most_probable(prompt(30), cache)
        mx.eval(token, cache.arrays)
        places = [addresses(cache.layers)]
        for _ in range(5):
            token = model.most_probable(token, cache)
            mx.eval(token, cache.arrays)
            places.append(addresses(cache.layers))
    assert places[1:] == places[:1] * 5


def addresses(layers: list) -> list[int]:
    """Where the bodies of the full layers lie."""
    return [
        np.asarray(memoryview(cast(Any, layer.arrays[0]))).__array_interface__["data"][0]
        for layer in layers
        if isinstance(layer, FullLayerCache)
    ]


class FailingOps(RecordedOps):
    """Fails when it comes to lm_head, which is the last to be recorded."""

    def norm_lm_head_argmax(self, x: mx.array, norm: Norm, lm_head: Projection) -> mx.array:
        raise MemoryError("no room")


def test_a_recording_that_fails_leaves_the_cache_as_it_was(model: Model) -> None:
    cache = model.make_cache()
    mx.eval(model(prompt(30), cache), cache.arrays)
    with use_ops(FailingOps(RECORDINGS[0])), pytest.raises(MemoryError):
        model.most_probable(mx.array([[7]]), cache)
    assert {layer.offset for layer in cache.layers} == {30}


def test_a_model_does_not_keep_itself_alive_by_what_it_recorded(checkpoint: Path) -> None:
    model = load_model(checkpoint, dtype=mx.float32)
    decode(model, RecordedOps(RECORDINGS[0]), 20, 3)
    layer, gone = weakref.ref(model.layers[0].experts.gate_up.blocks), weakref.ref(model)
    del model
    assert gone() is None
    assert layer() is None


def test_few_recordings_are_kept(model: Model) -> None:
    recorded: list[weakref.ref[Ops]] = []
    for _ in range(6):
        ops = RecordedOps(RECORDINGS[0])
        recorded.append(weakref.ref(ops))
        decode(model, ops, 20, 1)
        del ops
    assert sum(ops() is not None for ops in recorded) <= 2


def test_a_position_is_known_where_it_is_exact() -> None:
    assert Position.at(7).number == Position.at(7).array.item() == 7
    with pytest.raises(AssertionError):
        _ = Position(mx.array(7), 255, exact=False).number


def test_other_dtypes_of_the_token_are_recorded_as_well(model: Model) -> None:
    with use_ops(RecordedOps(RECORDINGS[0])):
        results = []
        for dtype in (mx.int32, mx.uint32, mx.int64):
            cache = model.make_cache()
            mx.eval(model(prompt(20), cache), cache.arrays)
            results.append(model.most_probable(mx.array([[7]], dtype=dtype), cache).item())
    assert len(set(results)) == 1


def test_a_linear_head_is_asked_for_its_largest_logit() -> None:
    head = Linear(mx.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.0]]))
    token = ReferenceOps().norm_lm_head_argmax(mx.array([[[1.0, 0.0], [-1.0, 0.0]]]), Norm(mx.ones(2), 1e-5), head)
    assert token.tolist() == [[1, 0]]
    assert token.dtype == mx.uint32
    x = mx.array([[[1.0, 0.0], [-1.0, 0.0]]])
    tokens, logits = ReferenceOps().norm_lm_head_best(x, Norm(mx.ones(2), 0.0), head)
    assert (tokens.tolist(), tokens.dtype, logits.dtype) == ([[1, 0]], mx.uint32, mx.float32)
    np.testing.assert_allclose(np.array(logits), [[2**0.5, 0.0]], atol=1e-6)
