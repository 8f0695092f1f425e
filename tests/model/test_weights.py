"""Loading: what arrives, what it costs, and every way in which a checkpoint can be wrong."""

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx import weights
from gptoss_mlx.config import PRESETS, ModelConfig
from gptoss_mlx.device import Device
from gptoss_mlx.errors import ConfigError, GptOssError, ModelNotFound, NotEnoughMemory, UsageError, WeightsError
from gptoss_mlx.layouts import make_recipes
from gptoss_mlx.safetensors_file import read_header, read_tensor_entries
from gptoss_mlx.weights import choose_dtype, load_model, loaded_bytes
from tests.model.damage import DAMAGE
from tests.random_checkpoint import float32_of, random_checkpoint, random_tensors, tiny_config, write_checkpoint

PROMPT = mx.array([[1, 5, 9, 2, 60]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint of three files; never written to."""
    return random_checkpoint(tmp_path_factory.mktemp("good"), seed=3, shards=3)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def logits(folder: Path) -> np.ndarray:
    return np.array(load_model(folder, dtype=mx.float32)(PROMPT)[0])


def test_one_file_several_files_and_other_float_dtypes_give_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    expected = logits(checkpoint)
    tensors = random_tensors(tiny_config(), seed=3)
    np.testing.assert_array_equal(logits(write_checkpoint(tmp_path / "one", tiny_config(), tensors)), expected)
    wide = {name: array if array.dtype == np.uint8 else float32_of(array) for name, array in tensors.items()}
    np.testing.assert_array_equal(logits(write_checkpoint(tmp_path / "f32", tiny_config(), wide)), expected)


def test_progress_rises_to_the_bytes_of_all_tensors(checkpoint: Path) -> None:
    calls: list[tuple[int, int]] = []
    load_model(checkpoint, progress=lambda done, total: calls.append((done, total)))
    total = ModelConfig.from_file(checkpoint / "config.json").weight_bytes
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert len(calls) == 6
    assert calls[-1] == (total, total)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_experts_stay_as_stored_and_nothing_is_held_twice(tmp_path: Path, dtype: mx.Dtype) -> None:
    changes = {"hidden_size": 256, "head_dim": 64, "num_local_experts": 4, "num_hidden_layers": 12, "vocab_size": 640}
    folder = random_checkpoint(tmp_path, shards=2, **changes)
    config = ModelConfig.from_file(folder / "config.json")
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_model(folder, dtype=dtype)
    held, peak = mx.get_active_memory() - before, mx.get_peak_memory() - before
    assert model.layers[0].experts.gate_up.blocks.nbytes == 4 * 192 * 128
    assert held == pytest.approx(loaded_bytes(make_recipes("gptoss", config, {})[0], dtype), rel=0.02)
    # While q, k and v are stacked there are two of them, of one decoder layer.
    assert peak - held < 1.5 * held / 12


def test_the_sizes_in_memory_are_those_that_the_choice_of_dtype_counts_on(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, hidden_size=256, vocab_size=4096, num_local_experts=16)
    config = ModelConfig.from_file(folder / "config.json")
    mx.clear_cache()
    before = mx.get_active_memory()
    model = load_model(folder, dtype=mx.float32)
    assert model.embedding.weight.dtype == mx.bfloat16
    assert mx.get_active_memory() - before == pytest.approx(
        loaded_bytes(make_recipes("gptoss", config, {})[0], mx.float32), rel=0.03
    )


@pytest.mark.parametrize(
    ("gpu", "memory_gib", "dtype"),
    [(False, 24, mx.float32), (False, 16, mx.bfloat16), (True, 24, mx.bfloat16), (True, 512, mx.bfloat16)],
)
def test_dtype_follows_the_machine(gpu: bool, memory_gib: int, dtype: mx.Dtype) -> None:
    device = Device("", "", metal=gpu, gpu=gpu, memory_bytes=memory_gib << 30, working_set_bytes=None, cpu_cores=2)
    assert choose_dtype(make_recipes("gptoss", PRESETS["20b"], {})[0], device) == dtype


def test_expected_tensors_of_20b_are_the_published_ones() -> None:
    recipes, _ = make_recipes("huggingface", PRESETS["20b"], {})
    tensors = {part.name: part for recipe in recipes.values() for part in recipe.parts}
    assert len(tensors) == 3 + 24 * 19
    assert tensors["model.layers.23.mlp.experts.gate_up_proj_blocks"].shape == (32, 5760, 90, 16)
    assert tensors["model.layers.0.mlp.experts.down_proj_scales"].shape == (32, 2880, 90)
    assert tensors["model.layers.7.self_attn.k_proj.weight"].shape == (512, 2880)
    items = {"U8": 1, "BF16": 2}
    assert sum(np.prod(t.shape) * items[t.dtypes[0]] for t in tensors.values()) == 13_761_264_768


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(copy: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(copy)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(copy)
    assert str(copy) in str(caught.value)


def test_headers_are_checked_before_any_tensor_is_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DAMAGE["truncated"][0](copy)
    monkeypatch.setattr(mx, "load", lambda *args, **kwargs: pytest.fail("a tensor was read"))
    with pytest.raises(WeightsError, match="cut off"):
        load_model(copy, progress=lambda done, total: pytest.fail("a tensor was read"))


def test_a_folder_without_weights_or_config_says_what_is_missing(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere is not a folder"):
        load_model(tmp_path / "nowhere")
    for file in copy.glob("model*"):
        file.unlink()
    with pytest.raises(ModelNotFound, match=r"copy holds no weights; expected model\.safetensors\.index\.json"):
        load_model(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        load_model(copy)


def test_an_integer_dtype_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="int32"):
        load_model(checkpoint, dtype=mx.int32)


def test_a_model_larger_than_the_memory_is_refused_with_the_sizes(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Device("", "", metal=False, gpu=False, memory_bytes=1000, working_set_bytes=None, cpu_cores=1)
    monkeypatch.setattr(weights, "this_device", lambda: small)
    with pytest.raises(NotEnoughMemory, match=r"take 0\.0 GiB and this machine has 0\.0 GiB"):
        load_model(checkpoint)


def test_a_file_that_changes_while_it_is_read_is_an_error_and_no_crash(copy: Path) -> None:
    def cut(done: int, total: int) -> None:
        for file in copy.glob("*.safetensors"):
            with file.open("r+b") as opened:
                opened.truncate(100)

    with pytest.raises(WeightsError, match=r"safetensors ends inside tensor model\.\w+"):
        load_model(copy, progress=cut)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_flipped_byte_in_a_header_is_an_error_or_harmless(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    source = checkpoint / "model-00000-of-00002.safetensors"
    content = bytearray(source.read_bytes())
    length = int.from_bytes(content[:8], "little")
    position = data.draw(st.integers(0, 7 + length))
    content[position] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    file.write_bytes(content)
    try:
        entries = read_header(file)
    except GptOssError:
        return
    # What still reads as a header describes the same bytes: a name, a dtype of the same size, or spaces were changed.
    assert sum(entry.nbytes for entry in entries) == sum(entry.nbytes for entry in read_header(source))


def test_entries_say_where_each_tensor_lies(checkpoint: Path) -> None:
    entries = read_tensor_entries(checkpoint)
    entry = entries["lm_head.weight"]
    assert (entry.dtype, entry.shape, entry.nbytes) == ("BF16", (64, 64), 8192)
    assert entry.file == checkpoint / "model-00002-of-00002.safetensors"
