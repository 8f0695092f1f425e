"""A damaged source is refused with one sentence, and nothing of it becomes a model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.errors import ConfigError, GptOssError, WeightsError
from gptoss_mlx.safetensors_file import read_tensor_entries
from tests.convert.conftest import Layouts
from tests.layout_writers import original_config
from tests.model.damage import DAMAGE
from tests.random_checkpoint import random_checkpoint

IN_HEADERS = [kind for kind in DAMAGE if "NaN" not in kind and "infinite" not in kind]
"""Damage that shows before any value is read."""


@pytest.mark.parametrize("kind", IN_HEADERS)
def test_damage_to_files_and_headers_is_named_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    source = random_checkpoint(tmp_path / "copy", seed=3, shards=3)
    damage, message = DAMAGE[kind]
    damage(source)
    with pytest.raises(WeightsError, match=message) as caught:
        convert_model(source, tmp_path / "ours")
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    ("name", "item", "bits", "found"),
    [
        ("model.layers.1.mlp.experts.down_proj_scales", 5, b"\xff", "a scale byte of 255, which is NaN"),
        ("model.layers.0.self_attn.v_proj.weight", 70, b"\xc0\x7f", "NaN or infinity"),
        ("model.layers.1.self_attn.sinks", 7, b"\x80\xff", "NaN or infinity"),
        ("lm_head.weight", 64 * 3021 - 1, b"\x80\x7f", "NaN or infinity"),
        ("model.layers.1.mlp.experts.gate_up_proj_bias", 0, b"\xff\xff", "NaN or infinity"),
    ],
)
@pytest.mark.parametrize("dense_bits", [None, 4])
def test_values_that_are_not_finite_are_found_on_the_way(
    source: Path, tmp_path: Path, name: str, item: int, bits: bytes, found: str, dense_bits: int | None
) -> None:
    poke(source, name, item * len(bits), bits)
    with pytest.raises(WeightsError, match=rf"tensor {name} holds {found}"):
        convert_model(source, tmp_path / "ours", dense_bits=dense_bits)
    assert not (tmp_path / "ours").exists()


def test_the_same_holds_for_the_other_layouts(layouts: Layouts, tmp_path: Path) -> None:
    for layout, name in (
        ("original", "block.1.attn.qkv.weight"),
        ("mlx", "model.layers.0.mlp.experts.up_proj.bias"),
        ("q8", "model.layers.0.self_attn.k_proj.biases"),
    ):
        source = Path(shutil.copytree(layouts.folder(layout), tmp_path / layout))
        tokenizer = layouts.folder("huggingface") / "tokenizer.json"
        poke(source, name, 6, b"\xc0\x7f")
        with pytest.raises(WeightsError, match=rf"tensor {name} holds NaN or infinity"):
            convert_model(source, tmp_path / "ours", tokenizer=tokenizer)
    scales = "model.layers.1.mlp.experts.gate_proj.scales"
    source = Path(shutil.copytree(layouts.folder("mlx"), tmp_path / "scales"))
    poke(source, scales, 3, b"\xff")
    with pytest.raises(WeightsError, match=rf"tensor {scales} holds a scale byte of 255"):
        convert_model(source, tmp_path / "ours")


def test_a_folder_of_pickles_is_refused(source: Path, tmp_path: Path) -> None:
    for file in source.glob("model*"):
        file.unlink()
    (source / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle, which can run any code"):
        convert_model(source, tmp_path / "ours")


def test_a_pickle_under_a_safetensors_name_is_refused(source: Path, tmp_path: Path) -> None:
    for start in (b"PK\x03\x04\x00\x00\x08\x08", b"\x80\x04\x95\x00\x00\x00\x00\x01"):
        (source / "model-00001-of-00002.safetensors").write_bytes(start + bytes(500))
        with pytest.raises(WeightsError, match=r"00001-of-00002\.safetensors is a pickle under a wrong name"):
            convert_model(source, tmp_path / "ours")


def test_a_tensor_in_two_files_is_refused(layouts: Layouts, tmp_path: Path) -> None:
    source = Path(shutil.copytree(layouts.folder("original"), tmp_path / "original"))
    shutil.copy(source / "model--00002-of-00002.safetensors", source / "model-again.safetensors")
    with pytest.raises(WeightsError, match=r"model-again\.safetensors: tensor \S+ is also in model--00002-of-00002"):
        open_checkpoint(source)


def test_a_missing_file_of_a_layout_without_an_index_shows_by_its_tensors(layouts: Layouts, tmp_path: Path) -> None:
    source = Path(shutil.copytree(layouts.folder("original"), tmp_path / "original"))
    (source / "model--00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"original lacks tensor \S+ and \d+ more; expected 33 tensors"):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": None}, r"num_experts is missing; expected it in OpenAI's original config\.json"),
        ({"initial_context_length": "4096"}, r"initial_context_length is '4096'; expected a number"),
        ({"rope_scaling_factor": 0}, r"rope_scaling_factor is 0; expected a number of at least 1"),
        ({"attention_dropouts": 3}, r"attention_dropouts is 3; expected no such key"),
    ],
)
def test_an_original_config_is_checked_key_by_key(
    layouts: Layouts, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    source = Path(shutil.copytree(layouts.folder("original"), tmp_path / "original"))
    values = {key: value for key, value in {**original_config(layouts.config), **change}.items() if value is not None}
    (source / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mode", "nvfp4", r"quantization\.mode is 'nvfp4'; expected the mode 'mxfp4' or 'affine'"),
        ("lm_head", {"mode": "mxfp8"}, r"quantization\.lm_head is .* expected the mode"),
    ],
)
def test_an_mlx_folder_of_another_mode_is_refused(
    layouts: Layouts, tmp_path: Path, key: str, value: object, message: str
) -> None:
    source = Path(shutil.copytree(layouts.folder("mlx"), tmp_path / "mlx"))
    values = json.loads((source / "config.json").read_text())
    for name in ("quantization", "quantization_config"):
        values[name][key] = value
    (source / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(source)
    values["quantization"]["bits"] = 8
    (source / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"quantization_config is .* expected the same values as quantization"):
        open_checkpoint(source)


def test_a_converted_model_that_was_damaged_is_refused_and_not_listed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptoss_mlx.models import list_models

    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    folder = convert_model(source).folder
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(whole[folder / "gptoss.json"])
    for file, data, message in (
        ("layer-01.safetensors", whole[folder / "layer-01.safetensors"][:-1], r"the file is cut off; convert .* again"),
        ("layer-01.safetensors", None, r"layer-01\.safetensors is missing; expected it by gptoss\.json"),
        ("gptoss.json", b"{", r"gptoss\.json is not JSON"),
        ("gptoss.json", b"[]", r"gptoss\.json is no manifest of gptoss-mlx"),
        ("gptoss.json", b'{"format": "gptoss-mlx", "version": 1}', r"gptoss\.json is damaged \('source'\)"),
        (
            "gptoss.json",
            json.dumps({**manifest, "version": 2}).encode(),
            r"version 2 of the format; expected 1: update",
        ),
        ("gptoss.json", json.dumps({**manifest, "weights": ["../x.safetensors"]}).encode(), r"names the file '\.\./x"),
        ("gptoss.json", json.dumps({**manifest, "weights": ["x.safetensors"]}).encode(), r"lists no size .* x\.safe"),
    ):
        path = folder / file
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(WeightsError, match=message):
            open_checkpoint(folder)
        models, faults = list_models()
        assert [model.name for model in models] == ["pocket"]
        assert len(faults) == 1
        assert faults[0].startswith("gpt-oss-tiny: ")
        path.write_bytes(whole[path])
    open_checkpoint(folder)


def test_no_damage_at_all_is_no_error(source: Path) -> None:
    assert isinstance(open_checkpoint(source).stored_bytes, int)
    assert issubclass(WeightsError, GptOssError)


def poke(folder: Path, name: str, position: int, data: bytes) -> None:
    """Writes `data` over the bytes of a stored tensor from `position` on."""
    entry = read_tensor_entries(folder)[name]
    assert position + len(data) <= entry.nbytes
    with entry.file.open("r+b") as file:
        file.seek(entry.offset + position)
        file.write(np.frombuffer(data, dtype=np.uint8).tobytes())
