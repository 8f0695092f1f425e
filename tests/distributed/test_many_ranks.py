"""Larger models in more parts, longer prompts, other dtypes; and what MLX's ring does when a rank is killed."""

import signal
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.weights import load_model
from tests.distributed.cases import MINIATURE, check_case, check_traffic, pipeline_plan, run_cases, tensor_plan
from tests.distributed.ranks import start_ranks
from tests.distributed.worker import run
from tests.random_checkpoint import random_checkpoint
from tests.tolerances import relative_errors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NARROW = {
    "hidden_size": 192,
    "intermediate_size": 192,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "num_hidden_layers": 8,
    "sliding_window": 128,
    "vocab_size": 2011,
}
"""The 20b's heads, experts and window, narrow and low."""


@pytest.mark.parametrize("mode", ["tensor", "pipeline"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_narrow_20b_says_the_same_in_any_parts(tmp_path: Path, ranks: int, mode: str) -> None:
    """With prompts past the window, evenly and unevenly."""
    folder = random_checkpoint(tmp_path / "narrow", seed=4, shards=3, **NARROW)
    rows = [2011 - 10 * (ranks - 1), *[10] * (ranks - 1)]
    even, uneven = {
        2: (([4, 4], [96, 96]), ([1, 7], [160, 32])),
        3: (([3, 3, 2], [64, 64, 64]), ([5, 2, 1], [32, 128, 32])),
        4: (([2, 2, 2, 2], [64, 64, 32, 32]), ([2, 1, 4, 1], [32, 64, 64, 32])),
    }[ranks]
    layers = [2] * (ranks - 1) + [8 - 2 * (ranks - 1)]
    cases: dict[str, dict[str, Any]] = {
        "even": {"plan": tensor_plan(*even, rows), "prompt": 150, "batch": True},
        "uneven": {"plan": tensor_plan(*uneven, rows[::-1]), "prompt": 550},
    }
    if mode == "pipeline":
        cases = {
            "layers": {"plan": pipeline_plan(layers), "prompt": 550, "batch": True},
            "recorded": {"plan": pipeline_plan(layers[::-1]), "prompt": 130, "recorded": [True, True]},
        }
    for case in cases.values():
        case |= {"folder": folder, "dtype": "float32", "traffic": True}
    assert run_cases(cases, tmp_path, ranks) == [["done"] * len(cases)] * ranks
    whole = load_model(folder, dtype=mx.float32)
    for name, case in cases.items():
        check_case(name, case, tmp_path, whole=whole)
        check_traffic(name, case, tmp_path)


@pytest.mark.parametrize("ranks", [2, 3])
def test_prompts_past_4096_tokens_are_the_same_in_parts(tmp_path: Path, ranks: int) -> None:
    """With the pocket model's window; the sums of a chunk are too large to be gathered by three."""
    changes = {**MINIATURE, "sliding_window": 128, "hidden_size": 96}
    folder = random_checkpoint(tmp_path / "long", seed=5, **changes)
    heads, inner, rows = {2: ([1, 2], [64, 96], [300, 1]), 3: ([1, 1, 1], [96, 32, 32], [100, 1, 200])}[ranks]
    layers = {2: [5, 2], 3: [2, 2, 3]}[ranks]
    cases: dict[str, dict[str, Any]] = {
        "tensor": {"plan": tensor_plan(heads, inner, rows), "prompt": 4500},
        "pipeline": {"plan": pipeline_plan(layers), "prompt": 4500},
    }
    for case in cases.values():
        case |= {"folder": folder, "dtype": "float32"}
    assert run_cases(cases, tmp_path, ranks) == [["done"] * len(cases)] * ranks
    for name, case in cases.items():
        check_case(name, case, tmp_path)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_dense_weights_are_divided_too(tmp_path: Path, bits: int) -> None:
    """In our own layout; past 4,096 tokens with the pocket model itself."""
    convert_model(POCKET_FOLDER, tmp_path / "pocket", dense_bits=bits)
    case = {
        "folder": tmp_path / "pocket",
        "plan": tensor_plan([1, 1], [160, 32], [3000, 21]),
        "prompt": 4200 if bits == 8 else 200,
        "dtype": "float32",
        "traffic": True,
    }
    assert run_cases({"case": case}, tmp_path, 2) == [["done"]] * 2
    check_case("case", case, tmp_path)
    check_traffic("case", case, tmp_path)


def test_our_kernels_compute_parts_of_layers_as_well(tmp_path: Path) -> None:
    """In the simulator, with heads and columns that are not halves."""
    changes = {"head_dim": 64, "hidden_size": 192, "intermediate_size": 192, "num_attention_heads": 6}
    folder = random_checkpoint(tmp_path / "model", seed=2, num_key_value_heads=3, vocab_size=301, **changes)
    plans = {"tensor": tensor_plan([2, 1], [128, 64], [290, 11]), "pipeline": pipeline_plan([2, 2])}
    cases: dict[str, dict[str, Any]] = {
        name: {"folder": folder, "plan": plan, "prompt": 9, "dtype": "float32", "kernels": True, "traffic": True}
        for name, plan in plans.items()
    }
    assert run_cases(cases, tmp_path, 2) == [["done"] * 2] * 2
    for name, case in cases.items():
        check_case(name, {**case, "kernels": False}, tmp_path)
        check_traffic(name, case, tmp_path)


def test_what_the_dtype_on_the_wire_costs(tmp_path: Path) -> None:
    """Held against float32, dividing a model costs less than bfloat16 does.

    Of a model in bfloat16 parts are rounded before they are sent, so that float32 on the wire gives the same bits.
    """
    plan = tensor_plan([1, 1], [96, 96], [1511, 1510])
    case = {"folder": POCKET_FOLDER, "plan": plan, "prompt": 300, "steps": 1}
    cases = {
        "bfloat16": {**case, "dtype": "bfloat16"},
        "bfloat16 as float32": {**case, "dtype": "bfloat16", "wire": "float32"},
        "float32 as bfloat16": {**case, "dtype": "float32", "wire": "bfloat16"},
    }
    assert run_cases(cases, tmp_path, 2) == [["done"] * 3] * 2
    exact = run(load_model(POCKET_FOLDER, dtype=mx.float32), case)["logits"][0]
    whole = np.median(relative_errors(run(load_model(POCKET_FOLDER, dtype=mx.bfloat16), case)["logits"][0], exact))
    logits = {name: np.load(tmp_path / f"{name}.0.npz")["logits"][0] for name in cases}
    found = {name: float(np.median(relative_errors(values, exact))) for name, values in logits.items()}
    print(f"median error of logits: whole in bfloat16 {whole:.5f}, divided {found}")
    np.testing.assert_array_equal(logits["bfloat16"], logits["bfloat16 as float32"])
    assert found["bfloat16"] < 1.2 * whole
    assert found["float32 as bfloat16"] < whole


def test_a_rank_whose_peer_was_killed_hears_of_it(tmp_path: Path) -> None:
    """What the package says about MLX's ring: an error at once, not silence."""
    processes = start_ranks(2, [sys.executable, "-m", "tests.distributed.lost_peer"], tmp_path)
    assert processes[1].wait(60) == -signal.SIGKILL
    assert processes[0].wait(60) == 7
    assert "connection to a peer was lost" in (tmp_path / "out0").read_text()
