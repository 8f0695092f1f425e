"""What a model takes of the memory: reckoned, held against what MLX holds, and what follows from it."""

import itertools
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx import GptOss, NotEnoughMemory, UsageError, load, memory_limits
from gptoss_mlx import model as model_module
from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.config import PRESETS
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.generate import all_logits
from gptoss_mlx.kernel_check.shapes import random_model
from gptoss_mlx.memory import (
    LEAST_CHUNK_TOKENS,
    LEAST_CONTEXT_TOKENS,
    PREFILL_CHUNK_TOKENS,
    PROCESS_BYTES,
    Needs,
    activation_bytes,
    cache_limit,
    kv_bytes,
    memory_limit,
    wired_limit,
)
from gptoss_mlx.memory_limits import set_limits
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.weights import load_model, needs_of
from tests.random_checkpoint import random_checkpoint
from tests.tolerances import relative_errors

GIB = 1 << 30


def mac(memory_gib: float, share: float = 0.75) -> Device:
    memory = int(memory_gib * GIB)
    return Device(
        "Apple", "g", metal=True, gpu=True, memory_bytes=memory, working_set_bytes=int(share * memory), cpu_cores=8
    )


def needs_20b() -> Needs:
    return Needs(PRESETS["20b"], 13_761_264_768, 2)


def peak_of_reading(model: Model, chunk: int, *, before: int = 0) -> tuple[int, int]:
    """The peak of MLX's and numpy's memory above weights and KV cache while `chunk` tokens are read after `before`.

    And the KV cache's bytes.
    """
    rng = np.random.default_rng(0)
    cache, weights = model.make_cache(), mx.get_active_memory()
    for start in range(0, before, 512):
        mx.eval(model.read(mx.array([rng.integers(0, 60, min(512, before - start)).tolist()]), cache), cache.arrays)
    mx.reset_peak_memory()
    tracemalloc.start()
    mx.eval(model.read(mx.array([rng.integers(0, 60, chunk).tolist()]), cache), cache.arrays)
    of_numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return mx.get_peak_memory() - weights - cache.nbytes + of_numpy, cache.nbytes


def assert_reckoned(model: Model, chunk: int, before: int = 0) -> None:
    """The reckoned activations are at least what was held, and at most three times that where it is much."""
    measured, held = peak_of_reading(model, chunk, before=before)
    item = model.dtype.size
    reckoned = activation_bytes(model.config, this_device(), item, chunk, before + chunk)
    assert measured <= reckoned <= 3 * measured + (16 << 20), (
        f"measured {measured / 2**20:.1f}, {reckoned / 2**20:.1f} MiB"
    )
    assert held <= kv_bytes(model.config, before + chunk, item) <= held + kv_bytes(model.config, 128, item)


no_gpu = pytest.mark.skipif(this_device().gpu, reason="the figures are a processor's")


@no_gpu
@pytest.mark.parametrize(("chunk", "before"), [(128, 0), (512, 0), (256, 1500)])
def test_activations_of_the_pocket_model_are_what_mlx_holds(chunk: int, before: int) -> None:
    assert_reckoned(load_model(POCKET_FOLDER), chunk, before)


@no_gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_activations_of_the_20b_shape_are_what_mlx_holds(dtype: mx.Dtype) -> None:
    model = random_model(PRESETS["20b"], dtype, layers=2)
    for chunk in (64, 512):
        assert_reckoned(model, chunk)


def test_weights_are_reckoned_as_they_lie_in_memory(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model", hidden_size=128)
    before = mx.get_active_memory()
    model = load_model(folder)
    held = mx.get_active_memory() - before
    # MLX rounds small arrays up, to 16 KiB on Metal.
    assert needs_of(open_checkpoint(folder), this_device()).weights_bytes == pytest.approx(held, rel=0.05)
    del model


@pytest.mark.parametrize(
    ("memory_gib", "wired_gib"), [(8, 0), (16, 8), (24, 15.6), (32, 20.8), (64, 41.6), (192, 124.8)]
)
def test_the_wired_limit_leaves_8_gib_or_35_percent(memory_gib: float, wired_gib: float) -> None:
    device = mac(memory_gib)
    assert wired_limit(device) == pytest.approx(wired_gib * GIB, rel=1e-6)
    assert device.memory_bytes - wired_limit(device) >= max(8 * GIB, 0.35 * device.memory_bytes - 1)
    assert wired_limit(mac(memory_gib, share=0.3)) <= memory_limit(mac(memory_gib, share=0.3))


class SetLimits:
    """Stands in for MLX's two calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, wired: int, cached: int) -> None:
        self.wired, self.cached = wired, cached
        monkeypatch.setattr(memory_limits.mx, "set_wired_limit", self._set_wired)
        monkeypatch.setattr(memory_limits.mx, "set_cache_limit", self._set_cached)

    def _set_wired(self, limit: int) -> int:
        before, self.wired = self.wired, limit
        return before

    def _set_cached(self, limit: int) -> int:
        before, self.cached = self.cached, limit
        return before


def test_limits_are_set_on_metal_and_lower_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    device = mac(32)
    fresh = SetLimits(monkeypatch, wired=0, cached=48 * GIB)
    set_limits(device)
    assert (fresh.wired, fresh.cached) == (wired_limit(device), cache_limit(device))
    set_limits(device)
    assert (fresh.wired, fresh.cached) == (wired_limit(device), GIB)
    careful = SetLimits(monkeypatch, wired=2 * GIB, cached=0)
    set_limits(device)
    assert (careful.wired, careful.cached) == (2 * GIB, 0)
    bold = SetLimits(monkeypatch, wired=30 * GIB, cached=GIB)
    set_limits(device)
    assert bold.wired == wired_limit(device)


def test_without_metal_nothing_is_wired(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = SetLimits(monkeypatch, wired=5, cached=7)
    set_limits(replace(mac(32), metal=False, gpu=False, working_set_bytes=None))
    assert (limits.wired, limits.cached) == (5, 7)
    small = SetLimits(monkeypatch, wired=0, cached=GIB)
    set_limits(mac(8))
    assert small.wired == 0


def test_the_context_is_what_fits_and_at_most_what_the_model_was_made_for() -> None:
    needs = needs_20b()
    assert needs.choose_context(mac(64), None, "20b") == 131_072
    device = mac(22)
    fitting = needs.choose_context(device, None, "20b")
    assert 4096 < fitting < 131_072
    assert fitting % 256 == 0
    assert needs.estimate(device, fitting).fits
    assert not needs.estimate(device, fitting + 256).fits
    assert needs.choose_context(device, 5000, "20b") == 5000


def test_a_context_that_does_not_fit_is_refused_with_one_that_does_and_force_takes_it() -> None:
    needs, device = needs_20b(), mac(22)
    fitting = needs.longest_context(device)
    with pytest.raises(NotEnoughMemory, match=rf"recommends 17.7 GB; a context of {fitting:,} tokens fits, and f"):
        needs.choose_context(device, 131_072, "20b")
    assert needs.choose_context(device, 131_072, "20b", force=True) == 131_072


def test_a_model_that_does_not_fit_is_refused_unless_forced() -> None:
    with pytest.raises(NotEnoughMemory, match=r"20b takes 15.5 GB of memory .* 12.9 GB; close what else"):
        needs_20b().choose_context(mac(16), None, "20b")
    assert needs_20b().choose_context(mac(16), None, "20b", force=True) == LEAST_CONTEXT_TOKENS


def test_loading_says_so_before_a_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(this_device(), memory_bytes=300 << 20, working_set_bytes=None)
    monkeypatch.setattr("gptoss_mlx.api.this_device", lambda: small)
    monkeypatch.setattr(mx, "load", lambda *args, **kwargs: pytest.fail("a tensor was read"))
    with pytest.raises(NotEnoughMemory, match=r"pocket takes .* this machine has 314.6 MB"):
        load("pocket")


def test_the_default_context_of_a_small_machine_is_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(this_device(), memory_bytes=500 << 20, working_set_bytes=None)
    monkeypatch.setattr("gptoss_mlx.api.this_device", lambda: small)
    with load("pocket") as model:
        assert 4096 < model.context_limit < 131_072
        report = model.memory()
        assert report.estimate.context == model.context_limit
        assert report.estimate.fits


def near_the_limit(model: Model, monkeypatch: pytest.MonkeyPatch, *, fitting: int) -> None:
    """Makes the machine so small that a chunk of `fitting` tokens at the beginning just fits."""
    device = this_device()
    room = activation_bytes(model.config, device, 4, fitting, fitting) + kv_bytes(model.config, fitting, 4)
    limit = mx.get_active_memory() + room + PROCESS_BYTES + (64 << 10)
    monkeypatch.setattr(
        model_module, "this_device", lambda: replace(device, memory_bytes=limit, working_set_bytes=None)
    )


@no_gpu
def test_the_prefill_chunk_shrinks_near_the_limit_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(POCKET_FOLDER)
    cache = model.make_cache()
    assert model.fitting_chunk(cache, PREFILL_CHUNK_TOKENS) == PREFILL_CHUNK_TOKENS
    prompt = np.random.default_rng(1).integers(0, 3000, 700).tolist()
    expected = np.array(all_logits(model, prompt))
    near_the_limit(model, monkeypatch, fitting=128)
    assert model.fitting_chunk(cache, PREFILL_CHUNK_TOKENS) == 128
    assert model.fitting_chunk(cache, 20) == 20
    assert relative_errors(np.array(all_logits(model, prompt)), expected).max() < 1e-4
    near_the_limit(model, monkeypatch, fitting=0)
    assert model.fitting_chunk(cache, PREFILL_CHUNK_TOKENS) == LEAST_CHUNK_TOKENS
    assert model.fitting_chunk(cache, 7) == 7


@no_gpu
def test_a_turn_reads_in_the_smaller_chunks(pocket: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptoss_mlx.events import PromptProgress

    question = "What is 17 plus 25? " * 30

    def progress() -> list[int]:
        events = pocket.stream(question, max_tokens=1).events()
        return [event.done for event in events if isinstance(event, PromptProgress)]

    roomy = progress()
    pocket.engine.call(lambda model, ticket: near_the_limit(model, monkeypatch, fitting=64))
    tight = progress()
    assert roomy[-1] == tight[-1]
    assert max(b - a for a, b in itertools.pairwise(tight)) <= 64 < roomy[1]


def test_what_waits_without_work_must_be_a_time() -> None:
    with pytest.raises(UsageError, match="idle_unload_seconds is 0"):
        load("pocket", idle_unload_seconds=0)


def test_the_report_has_what_mlx_holds(pocket: GptOss) -> None:
    report = pocket.memory()
    assert report.loaded
    assert report.active_bytes >= 5_000_000
    assert report.estimate.context == pocket.context_limit
    assert report.estimate.weights_bytes < report.estimate.needed_bytes <= report.estimate.limit_bytes


@pytest.mark.parametrize("cut", [lambda n: n // 2, lambda n: n - 1])
def test_needs_grow_with_the_context(cut: Callable[[int], int]) -> None:
    needs = needs_20b()
    longest = needs.estimate(mac(64), 131_072)
    shorter = needs.estimate(mac(64), cut(131_072))
    assert shorter.needed_bytes <= longest.needed_bytes
    assert longest.kv_bytes == 24_576 * (131_072 + 128) + 3_145_728
