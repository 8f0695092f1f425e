"""What ranks read: in every layout the parts of our tensors that a plan gives them, in pieces of any size."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.checkpoint import Checkpoint, open_checkpoint
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.device import this_device
from gptoss_mlx.distributed.cuts import make_cuts
from gptoss_mlx.distributed.load import read_bytes, shard_bytes, shard_needs
from gptoss_mlx.distributed.plan import Plan
from gptoss_mlx.distributed.shard_source import ShardSource
from gptoss_mlx.errors import UsageError
from gptoss_mlx.file_pages import can_replace_pages
from gptoss_mlx.layouts import OURS
from gptoss_mlx.model_parts import EMBEDDING, PartReader
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tensor_file import TensorReader
from gptoss_mlx.tensor_source import TensorSource
from gptoss_mlx.weights import COMPUTE_DTYPES
from tests.distributed.cases import MINIATURE, pipeline_plan, tensor_plan
from tests.layout_writers import write_mlx, write_original
from tests.random_checkpoint import random_checkpoint, random_tensors, tiny_config

CHANGES = {**MINIATURE, "vocab_size": 3021}
"""With the pocket model's tokens, whose tokenizer converted folders get."""

PLAN = Plan.from_json(tensor_plan([2, 1], [32, 128], [100, 2921]))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("layouts")
    config = tiny_config(**CHANGES)
    tensors = random_tensors(config, 7)
    folders = {
        "huggingface": random_checkpoint(folder / "huggingface", seed=7, **CHANGES),
        "original": write_original(folder / "original", config, tensors),
        "mlx": write_mlx(folder / "mlx", config, tensors, shards=2),
        "gptoss": folder / "ours",
    }
    (folders["huggingface"] / "tokenizer.json").write_bytes((POCKET_FOLDER / "tokenizer.json").read_bytes())
    convert_model(folders["huggingface"], folders["gptoss"])
    return {name: open_checkpoint(path) for name, path in folders.items()}


LAYOUTS = ("huggingface", "original", "mlx", "gptoss")


def arrays_of(source: TensorSource, pieces: int) -> dict[str, np.ndarray]:
    """Every tensor of `source`, read so many pieces at a time."""
    found = {}
    for name, tensor in source.tensors.items():
        data = np.empty(tensor.nbytes, dtype=np.uint8)
        step = max(tensor.nbytes // tensor.unit // pieces, 1) * tensor.unit
        for start in range(0, tensor.nbytes, step):
            source.read(name, start, data[start : start + step])
        found[name] = data.reshape(*tensor.shape, ITEM_BYTES[tensor.dtype])
    source.close()
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pieces", [1, 7])
def test_parts_of_all_ranks_are_the_whole(checkpoints: dict[str, Checkpoint], layout: str, pieces: int) -> None:
    checkpoint = checkpoints[layout]
    whole = arrays_of(TensorSource(checkpoint), 1)
    cuts = [make_cuts(checkpoint, PLAN, rank) for rank in range(2)]
    parts = [arrays_of(ShardSource(checkpoint, cut), pieces) for cut in cuts]
    for name, array in whole.items():
        cut = cuts[0][name]
        if cut is None:
            assert all(np.array_equal(part.get(name, array), array) for part in parts)
            continue
        found = np.zeros_like(array)
        for cut, part in zip((each[name] for each in cuts), parts, strict=True):
            assert cut is not None
            places = np.concatenate([np.arange(*span) for span in cut.spans])
            np.moveaxis(found, cut.axis, 0)[places] += np.moveaxis(part[name], cut.axis, 0)
        np.testing.assert_array_equal(found, array, err_msg=name)
    # What is added once, rank 0 has.
    assert set(whole) == set(parts[0])
    missing = {name.split(".", 2)[2] for name in set(whole) - set(parts[1])}
    assert missing == {OURS.down.bias[0], f"{OURS.output}.bias"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_columns_are_read_with_what_lies_between(checkpoints: dict[str, Checkpoint], layout: str) -> None:
    checkpoint = checkpoints[layout]
    for rank in range(2):
        source = ShardSource(checkpoint, make_cuts(checkpoint, PLAN, rank))
        held = sum(tensor.nbytes for tensor in source.tensors.values())
        arrays_of(source, 1)
        assert source.read_bytes == read_bytes(checkpoint, PLAN, rank)
        columns = ("down.blocks", "down.scales", "output.weight", "gate_up.bias")
        whole = TensorSource(checkpoint).tensors
        between = [whole[name].nbytes - part.nbytes for name, part in source.tensors.items() if name.endswith(columns)]
        assert source.read_bytes == held + sum(between)
        assert held < checkpoint.stored_bytes


def test_layers_are_read_whole_and_no_others(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint, plan = checkpoints["huggingface"], Plan.from_json(pipeline_plan([3, 4]))
    names = [set(make_cuts(checkpoint, plan, rank)) for rank in range(2)]
    assert names[0] & names[1] == {OURS.norm}
    assert names[0] | names[1] == set(checkpoint.recipes)
    assert f"{OURS.embedding}.weight" in names[0]
    assert f"{OURS.lm_head}.weight" in names[1]
    dtype = COMPUTE_DTYPES[1]
    assert sum(shard_bytes(checkpoint, plan, rank, dtype) for rank in range(2)) == (
        checkpoint.config.weight_bytes + 2 * checkpoint.config.hidden_size
    )
    device = this_device()
    first, second = (shard_needs(checkpoint, plan, rank, device, dtype=dtype) for rank in range(2))
    assert (first.weights_bytes, first.value_bytes) == (shard_bytes(checkpoint, plan, 0, dtype), 2)
    # Layers 1, 3 and 5 of 7 are full ones.
    assert second.estimate(device, 1024).kv_bytes > 1.5 * first.estimate(device, 1024).kv_bytes


def test_groups_of_quantised_columns_are_not_cut(tmp_path: Path) -> None:
    changes = {**CHANGES, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 128}
    folder = random_checkpoint(tmp_path / "model", **changes)
    (folder / "tokenizer.json").write_bytes((POCKET_FOLDER / "tokenizer.json").read_bytes())
    convert_model(folder, tmp_path / "quantised", dense_bits=8)
    # Two query heads of 16 a key/value head, and all 128 columns in groups of 64.
    with pytest.raises(UsageError, match=r"groups of \d+ columns and the plan cuts it at 0 and 32"):
        make_cuts(open_checkpoint(tmp_path / "quantised"), Plan.from_json(tensor_plan([1, 3], [32, 128], [1, 3020])), 0)


@pytest.mark.slow
def test_pages_of_a_large_part_are_the_file_s_own(tmp_path: Path) -> None:
    """Rows of the embedding lie in one piece, wherever they begin; in a converted model they need not be copied."""
    changes = {"vocab_size": 300_011, "num_hidden_layers": 2, "hidden_size": 128}
    folder = random_checkpoint(tmp_path / "model", **changes)
    (folder / "tokenizer.json").write_bytes((POCKET_FOLDER / "tokenizer.json").read_bytes())
    convert_model(folder, tmp_path / "ours")
    checkpoint = open_checkpoint(tmp_path / "ours")
    plan = Plan.from_json(tensor_plan([1, 1], [32, 64], [140_003, 160_008]))
    source = ShardSource(checkpoint, make_cuts(checkpoint, plan, 1))
    reader = TensorReader(source, float32=True, as_stored=frozenset({EMBEDDING}), on_gpu=False)
    part = PartReader(checkpoint, reader, mx.float32, None).embedding()
    whole = np.empty(source.tensors[EMBEDDING].nbytes, dtype=np.uint8)
    source.read(EMBEDDING, 0, whole)
    np.testing.assert_array_equal(np.array(part.weight.view(mx.uint8)).reshape(-1), whole)
    assert set(reader.mapped) == ({EMBEDDING} if can_replace_pages() else set())
    reader.close()
