"""Ranks as real processes: what they compute together is what one process computes, and each has its share only."""

from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.models import POCKET_FOLDER
from tests.distributed.cases import MINIATURE, check_case, check_traffic, pipeline_plan, run_cases, tensor_plan
from tests.layout_writers import write_mlx, write_original
from tests.random_checkpoint import random_checkpoint, random_tensors, tiny_config

COUNTED = ["tensor", "pipeline", "half recorded"]

COMPUTED = [
    "tensor",
    "layouts",
    "other layouts",
    "pipeline",
    "recorded tensor",
    "half recorded",
    "recorded pipeline",
    "after errors",
]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]], list[list[str]]]:
    folder = tmp_path_factory.mktemp("two")
    miniature = random_checkpoint(folder / "miniature", seed=7, **MINIATURE)
    config = tiny_config(**MINIATURE)
    original = write_original(folder / "original", config, random_tensors(config, 7))
    mlx = write_mlx(folder / "mlx", config, random_tensors(config, 7), shards=2)
    (folder / "nothing").mkdir()
    uneven, halves = tensor_plan([2, 1], [32, 128], [1, 300]), pipeline_plan([3, 4])
    cases: dict[str, dict[str, Any]] = {
        "tensor": {"folder": POCKET_FOLDER, "plan": tensor_plan([1, 1], [64, 128], [1000, 2021]), "prompt": 150},
        "layouts": {"folder": [miniature, original], "plan": uneven, "prompt": 40, "batch": True, "steps": 6},
        "other layouts": {"folder": [mlx, miniature], "plan": uneven, "prompt": 5, "steps": 1},
        "pipeline": {"folder": miniature, "plan": halves, "prompt": 40, "batch": True, "steps": 6},
        "recorded tensor": {"folder": miniature, "plan": uneven, "prompt": 20, "recorded": [True, True], "steps": 8},
        "half recorded": {"folder": miniature, "plan": uneven, "prompt": 5, "recorded": [True, False], "steps": 2},
        "recorded pipeline": {"folder": miniature, "plan": halves, "prompt": 20, "recorded": [True, True], "steps": 4},
        "no folder": {"folder": [miniature, folder / "nothing"], "plan": uneven},
        "another model": {"folder": [miniature, random_checkpoint(folder / "b", **MINIATURE)], "plan": uneven},
        "another shape": {"folder": POCKET_FOLDER, "plan": uneven},
        "after errors": {"folder": miniature, "plan": uneven, "prompt": 5, "steps": 2},
    }
    for name, case in cases.items():
        case |= {"dtype": "float32", "traffic": name in COUNTED}
    return folder, cases, run_cases(cases, folder, 2)


@pytest.mark.parametrize("name", COMPUTED)
def test_two_ranks_say_what_one_process_says(two_ranks: Any, name: str) -> None:
    folder, cases, _ = two_ranks
    check_case(name, cases[name], folder)


@pytest.mark.parametrize("name", COUNTED)
def test_a_token_costs_the_bytes_that_are_reckoned(two_ranks: Any, name: str) -> None:
    folder, cases, _ = two_ranks
    check_traffic(name, cases[name], folder)


def test_what_one_rank_cannot_load_all_hear_of(two_ranks: Any) -> None:
    _, cases, outcomes = two_ranks
    said = [dict(zip(cases, rank, strict=True)) for rank in outcomes]
    assert {name for rank in said for name, outcome in rank.items() if outcome == "done"} == set(COMPUTED)
    assert said[0]["no folder"].startswith("PeerFailed: rank 1 could not load")
    assert said[1]["no folder"].startswith("ConfigError: ")
    assert all("rank 1 has another model than rank 0" in rank["another model"] for rank in said)
    assert all("the plan divides 3 kv_heads and the model has 2" in rank["another shape"] for rank in said)


def test_three_ranks_in_a_pipeline_say_what_one_process_says(tmp_path: Path) -> None:
    miniature = random_checkpoint(tmp_path / "miniature", seed=9, **MINIATURE)
    case = {"folder": miniature, "plan": pipeline_plan([2, 3, 2]), "prompt": 40, "steps": 4, "dtype": "float32"}
    assert run_cases({"pipeline": case}, tmp_path, 3) == [["done"]] * 3
    check_case("pipeline", case, tmp_path)
