"""Every scale byte and every code of MXFP4, through conversion, loading and MLX, against float64."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.errors import WeightsError
from gptoss_mlx.weights import load_model
from tests.convert.conftest import Layouts
from tests.random_checkpoint import write_checkpoint
from tests.reference import mxfp4_values

NAME = "model.layers.1.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def stored(layouts: Layouts) -> dict[str, np.ndarray]:
    """The tensors with every pair of a scale byte below 255 and a code in gate_up of the last layer."""
    tensors = {name: array.copy() for name, array in layouts.tensors.items()}
    blocks, scales = tensors[f"{NAME}_blocks"], tensors[f"{NAME}_scales"]
    # Sixteen bytes whose low halves are the codes in order and whose high halves are the codes backwards.
    blocks[:] = np.arange(16, dtype=np.uint8) | np.arange(15, -1, -1, dtype=np.uint8) << 4
    scales.reshape(-1)[:255] = np.arange(255)
    return tensors


def test_all_scale_bytes_and_codes_are_decoded_right_after_conversion(
    layouts: Layouts, stored: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "source", layouts.config, stored)
    tokenizer = layouts.folder("huggingface") / "tokenizer.json"
    folder = convert_model(tmp_path / "source", tmp_path / "ours", tokenizer=tokenizer).folder
    linear = load_model(folder, dtype=mx.float32).layers[1].experts.gate_up
    assert set(range(255)) <= set(np.array(linear.scales).reshape(-1).tolist())
    expected = mxfp4_values(stored[f"{NAME}_blocks"], stored[f"{NAME}_scales"])
    found = np.array(mx.dequantize(linear.blocks, linear.scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32))
    # Products beyond float32's range are infinite there; those below its normal numbers may be flushed to zero.
    tiny = np.abs(expected) < np.finfo(np.float32).tiny
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found[~tiny], expected.astype(np.float32)[~tiny])
    assert (np.abs(found[tiny]) <= np.finfo(np.float32).tiny).all()


def test_codes_and_scales_come_through_a_conversion_bit_for_bit(
    layouts: Layouts, stored: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "source", layouts.config, stored)
    tokenizer = layouts.folder("huggingface") / "tokenizer.json"
    folder = convert_model(tmp_path / "source", tmp_path / "ours", tokenizer=tokenizer).folder
    arrays = mx.load(str(folder / "layer-01.safetensors"))
    assert isinstance(arrays, dict)
    for name in ("gate_up", "down"):
        theirs = NAME.replace("gate_up_proj", f"{name}_proj")
        blocks = np.array(arrays[f"layers.1.experts.{name}.blocks"])
        assert blocks.tobytes() == stored[f"{theirs}_blocks"].tobytes()
        assert np.array(arrays[f"layers.1.experts.{name}.scales"]).tobytes() == stored[f"{theirs}_scales"].tobytes()


def test_the_scale_byte_that_is_no_number_is_refused(
    layouts: Layouts, stored: dict[str, np.ndarray], tmp_path: Path
) -> None:
    tensors = {name: array.copy() for name, array in stored.items()}
    tensors[f"{NAME}_scales"][3, 70, 1] = 255
    write_checkpoint(tmp_path / "source", layouts.config, tensors)
    tokenizer = layouts.folder("huggingface") / "tokenizer.json"
    with pytest.raises(WeightsError, match=r"gate_up_proj_scales holds a scale byte of 255, which is NaN"):
        convert_model(tmp_path / "source", tmp_path / "ours", tokenizer=tokenizer)
    assert not (tmp_path / "ours").exists()
