"""The shipped checkpoint: small, in gpt-oss's layout, and the model that its card describes."""

import json
import struct
from typing import Any

import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.pocket.dimensions import Dimensions
from gptoss_mlx.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig.from_file(POCKET_FOLDER / "config.json")


def header() -> dict[str, dict[str, Any]]:
    data = (POCKET_FOLDER / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    return entries


def test_the_whole_folder_is_at_most_8_mb():
    assert sum(file.stat().st_size for file in POCKET_FOLDER.iterdir()) <= 8_000_000


def test_experts_are_mxfp4_and_the_rest_is_bfloat16():
    for name, entry in header().items():
        packed = name.endswith(("_blocks", "_scales"))
        assert entry["dtype"] == ("U8" if packed else "BF16"), name


def test_expert_tensors_have_the_shapes_of_gpt_oss():
    dims, entries = Dimensions(0), header()
    for layer in range(dims.num_layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        rows, blocks = 2 * dims.intermediate_size, dims.hidden_size // 32
        assert entries[prefix + "gate_up_proj_blocks"]["shape"] == [dims.num_experts, rows, blocks, 16]
        assert entries[prefix + "gate_up_proj_scales"]["shape"] == [dims.num_experts, rows, blocks]
        assert entries[prefix + "gate_up_proj_bias"]["shape"] == [dims.num_experts, rows]
        assert entries[prefix + "down_proj_blocks"]["shape"][:2] == [dims.num_experts, dims.hidden_size]


def test_the_config_is_that_of_gpt_oss_in_miniature(config):
    values = json.loads((POCKET_FOLDER / "config.json").read_text(encoding="utf-8"))
    dims = Dimensions(values["vocab_size"])
    assert values["model_type"] == "gpt_oss"
    assert values["layer_types"] == ["sliding_attention", "full_attention"] * (dims.num_layers // 2)
    assert values["rope_scaling"]["truncate"] is False
    assert (values["head_dim"], values["sliding_window"], values["num_experts_per_tok"]) == (64, 128, 4)
    assert values["num_local_experts"] >= 8
    assert all(values[key] % 32 == 0 for key in ("hidden_size", "intermediate_size"))
    assert 3_000_000 <= config.parameters <= 6_000_000


def test_generation_stops_at_the_stop_tokens_of_its_own_vocabulary():
    special = Tokenizer.from_file(POCKET_FOLDER).special
    values = json.loads((POCKET_FOLDER / "generation_config.json").read_text(encoding="utf-8"))
    assert set(values["eos_token_id"]) == special.stop_ids
