"""How large a KV cache is: it grows in steps, and writing copies nothing."""

import mlx.core as mx
import pytest

from gptoss_mlx.cache import GROWTH_TOKENS, FullLayerCache, KVCache, SlidingLayerCache
from gptoss_mlx.config import PRESETS, ModelConfig
from tests.random_checkpoint import tiny_config


@pytest.mark.parametrize(("tokens", "capacity"), [(1, 256), (255, 256), (256, 256), (257, 512), (600, 768)])
def test_full_layers_grow_in_steps_and_rings_never(tokens: int, capacity: int) -> None:
    full, sliding = FullLayerCache(), SlidingLayerCache(128)
    rows = mx.ones((2, 6, tokens, 4))
    assert full.append(rows).shape == (2, 6, capacity, 4)
    assert sliding.extend(rows).shape == (2, 6, tokens, 4)
    assert sliding.arrays[0].shape == (2, 6, 128, 4)
    assert capacity % GROWTH_TOKENS == 0


def test_the_size_of_a_cache_is_what_the_config_says() -> None:
    config = ModelConfig.from_dict(tiny_config())
    cache = KVCache(config)
    for layer in cache.layers:
        rows = mx.zeros((1, 4, 512, 16), dtype=mx.bfloat16)
        mx.eval(layer.append(rows) if isinstance(layer, FullLayerCache) else layer.extend(rows))
    assert cache.nbytes == 512 * config.kv_bytes_per_token() + config.kv_window_bytes()
    assert PRESETS["20b"].kv_bytes_per_token() == 24_576
    assert PRESETS["20b"].kv_window_bytes() == 3_145_728


def test_writing_one_token_never_copies_the_buffer() -> None:
    cache = FullLayerCache()
    mx.eval(cache.append(mx.zeros((1, 4, 1 << 16, 16))), cache.append(mx.zeros((1, 4, 1, 16))))
    rows = mx.ones((1, 4, 1, 16))
    mx.eval(rows)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(3):
        mx.eval(cache.append(rows))
    assert mx.get_peak_memory() - before < cache.arrays[0].nbytes / 100
