"""Every layout of the same weights is the same model, as it is and converted."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx import load
from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.errors import WeightsError
from gptoss_mlx.ops import QuantizedLinear
from gptoss_mlx.weights import load_model
from tests.convert.conftest import PROMPT, Layouts, logits
from tests.random_checkpoint import Tensors, write_safetensors
from tests.reference import ReferenceModel
from tests.tolerances import assert_logits_agree

AS_PUBLISHED = ("huggingface", "original", "mlx")
"""Layouts that hold every value exactly as OpenAI published it."""

QUANTISED = ("q8", "q4")


@pytest.mark.parametrize("layout", AS_PUBLISHED)
def test_unconverted_layouts_give_the_logits_of_the_float64_reference(layouts: Layouts, layout: str) -> None:
    expected = ReferenceModel(layouts.config, layouts.tensors).logits(np.array(PROMPT[0]))
    assert_logits_agree(logits(layouts.folder(layout)), expected)
    np.testing.assert_array_equal(logits(layouts.folder(layout)), logits(layouts.folder("huggingface")))


@pytest.mark.parametrize("layout", QUANTISED)
def test_mlx_community_gives_the_logits_of_the_float64_reference(layouts: Layouts, layout: str) -> None:
    folder = layouts.folder(layout)
    expected = ReferenceModel(layouts.config, dequantised(folder, layouts.tensors)).logits(np.array(PROMPT[0]))
    assert_logits_agree(logits(folder), expected)
    assert open_checkpoint(folder).layout == "mlx"


@pytest.mark.parametrize("layout", [*AS_PUBLISHED, *QUANTISED])
def test_a_converted_model_gives_the_same_logits_to_the_bit(layouts: Layouts, layout: str, tmp_path: Path) -> None:
    report = convert_model(layouts.folder(layout), tmp_path / "ours")
    assert open_checkpoint(tmp_path / "ours").layout == "gptoss"
    assert report.layout == ("mlx" if layout in QUANTISED else layout)
    np.testing.assert_array_equal(logits(tmp_path / "ours"), logits(layouts.folder(layout)))


def test_layouts_of_the_same_values_convert_to_the_same_files(layouts: Layouts, tmp_path: Path) -> None:
    folders = [convert_model(layouts.folder(layout), tmp_path / layout).folder for layout in AS_PUBLISHED]
    names = sorted(path.name for path in folders[0].glob("*.safetensors"))
    assert names == ["embedding.safetensors", "head.safetensors", "layer-00.safetensors", "layer-01.safetensors"]
    for name in (*names, "tokenizer.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, name


def test_converting_a_converted_model_gives_the_same_files(layouts: Layouts, tmp_path: Path) -> None:
    first = convert_model(layouts.folder("huggingface"), tmp_path / "first").folder
    second = convert_model(first, tmp_path / "second").folder
    for file in first.iterdir():
        if file.name != "gptoss.json":
            assert (second / file.name).read_bytes() == file.read_bytes(), file.name


def test_quantised_weights_stay_as_they_are_on_disk_and_in_memory(layouts: Layouts, tmp_path: Path) -> None:
    folder = convert_model(layouts.folder("q4"), tmp_path / "ours").folder
    for place in (layouts.folder("q4"), folder):
        model = load_model(place, dtype=mx.float32)
        attention, experts = model.layers[0].attention, model.layers[0].experts
        for projection in (model.embedding, model.lm_head, attention.qkv, attention.output, experts.router):
            assert isinstance(projection, QuantizedLinear)
            assert (projection.bits, projection.group_size) == (8 if projection is experts.router else 4, 64)


def test_a_model_in_original_finds_its_tokenizer_in_the_folder_around_it(layouts: Layouts) -> None:
    with load(layouts.folder("original")) as model:
        assert model.tokenizer.vocab_size == model.config.vocab_size
        assert model.logits([1, 2, 3]).shape == (3, model.config.vocab_size)


def test_projections_that_are_computed_as_one_must_be_quantised_alike(layouts: Layouts, tmp_path: Path) -> None:
    tensors = stored_tensors(layouts.folder("q8"))
    other = stored_tensors(layouts.folder("q4"))
    for part in ("weight", "scales", "biases"):
        name = f"model.layers.1.self_attn.v_proj.{part}"
        tensors[name] = other[name]
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "config.json").write_bytes((layouts.folder("q8") / "config.json").read_bytes())
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(WeightsError, match=r"v_proj is quantised to 4 bits in .*q_proj quantised to 8"):
        load_model(folder)


def test_another_kind_of_quantisation_is_refused_by_name(layouts: Layouts, tmp_path: Path) -> None:
    tensors = stored_tensors(layouts.folder("q8"))
    del tensors["lm_head.biases"]
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_bytes((layouts.folder("q8") / "config.json").read_bytes())
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(WeightsError, match=r"lm_head is quantised .* expected MLX's affine quantisation"):
        load_model(folder)


def stored_tensors(folder: Path) -> Tensors:
    """Every tensor of the folder's one file as it is stored; bfloat16 as uint16."""
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    return {
        name: np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array) for name, array in arrays.items()
    }


def dequantised(folder: Path, tensors: Tensors) -> Tensors:
    """`tensors` of a Hugging Face checkpoint with the dense weights that `folder`, an mlx-community one, stands for."""
    stored = stored_tensors(folder)
    out = dict(tensors)
    for name, packed in stored.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.biases" in stored:
            scales, offsets = (bfloat16_values(stored[f"{stem}.{part}"]) for part in ("scales", "biases"))
            out[name] = affine_values(packed, scales, offsets, width=tensors[name].shape[-1])
    return out


def affine_values(packed: np.ndarray, scales: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
    """float64 `[rows, width]`: scale * code + offset, the codes' bits running on from word to word."""
    bits = packed.shape[-1] * 32 // width
    stream = np.unpackbits(packed.view(np.uint8), axis=-1, bitorder="little").reshape(len(packed), width, bits)
    codes = (stream * (1 << np.arange(bits))).sum(axis=-1)
    group = width // scales.shape[-1]
    return np.repeat(scales, group, axis=-1) * codes + np.repeat(offsets, group, axis=-1)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
