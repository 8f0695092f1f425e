"""The file that keeps verdicts: what is written is read, and nothing else is believed."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.kernel_check import combination as combinations
from gptoss_mlx.kernel_check import store
from gptoss_mlx.kernel_check.choice import known_verdicts
from gptoss_mlx.kernel_check.combination import Combination, combination_of, make_combination
from gptoss_mlx.kernel_check.store import read_verdicts, write_verdicts
from gptoss_mlx.kernel_check.verdict import TOGETHER, Outcome, Verdict
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES
from gptoss_mlx.weights import load_model
from tests.kernel_check.device import SimulatedDevice, random_model, small_model

FOUND = (
    Verdict(KERNEL_CLASSES[0], Outcome.KEPT, "is right", 1, 0.002, 4e-5, 6e-5, 0.66),
    Verdict(KERNEL_CLASSES[1], Outcome.WRONG, "is wrong", 1000, 0.5),
    Verdict(KERNEL_CLASSES[2], Outcome.FAILED, "raises RuntimeError"),
    Verdict(KERNEL_CLASSES[5], Outcome.SLOWER, "takes 2.00", 1, 0.001, 2.0, 1.0, 2.0),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def combination() -> Combination:
    return make_combination(small_model(), SimulatedDevice().bench().device)


def test_what_is_written_is_read(combination: Combination):
    assert read_verdicts(combination) == store.Stored()
    write_verdicts(combination, FOUND)
    assert read_verdicts(combination) == store.Stored(FOUND)
    write_verdicts(combination, FOUND[:1])
    assert read_verdicts(combination).verdicts == FOUND[:1]
    assert [path.name for path in combination.file.parent.iterdir()] == [combination.file.name]
    assert combination.file.stat().st_size < 5000


def test_what_was_not_reached_and_what_is_not_finite_is_not_kept(combination: Combination):
    unreached = Verdict(KERNEL_CLASSES[3], Outcome.UNREACHED, "was not tried")
    write_verdicts(combination, [unreached, replace(FOUND[1], error=math.inf)])
    assert read_verdicts(combination).verdicts == (replace(FOUND[1], error=None),)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("system", "the operating system changed"),
        ("mlx", "MLX changed"),
        ("sources", "the kernels' sources changed"),
    ],
)
def test_a_changed_combination_is_checked_anew(combination: Combination, part: str, words: str):
    write_verdicts(combination, FOUND)
    changed = read_verdicts(replace(combination, **{part: "another"}))
    assert changed.verdicts == ()
    assert changed.why_not is not None
    assert words in changed.why_not


def test_another_chip_and_another_shape_have_files_of_their_own(combination: Combination):
    write_verdicts(combination, FOUND)
    model = small_model()
    others = [
        replace(combination, chip="Apple M10"),
        make_combination(small_model(mx.bfloat16), SimulatedDevice().bench().device),
        make_combination(small_model(num_local_experts=16), SimulatedDevice().bench().device),
        make_combination(random_model(model.config, mx.float32, dense_bits=8), SimulatedDevice().bench().device),
    ]
    assert len({other.file for other in (combination, *others)}) == 5
    assert all(read_verdicts(other) == store.Stored() for other in others)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"text"',
        "\x00" * 100,
        "[" * 100_000,
        '{"format": "something else", "version": 1}',
        '{"format": "gptoss-mlx kernel check"}',
        '{"format": "gptoss-mlx kernel check", "version": 1, "combination": []}',
        '{"format": "gptoss-mlx kernel check", "version": 1, "combination": {}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_or_foreign_file_is_not_believed_and_one_sentence_says_so(
    combination: Combination, text: str | bytes
):
    combination.file.parent.mkdir(parents=True)
    combination.file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_verdicts(combination)
    assert found.verdicts == ()
    assert found.why_not is not None
    assert str(combination.file) in found.why_not
    assert "\n" not in found.why_not
    write_verdicts(combination, FOUND)
    assert read_verdicts(combination).verdicts == FOUND


@pytest.mark.parametrize(
    "changes",
    [
        {"verdicts": None},
        {"verdicts": {"norm_qkv_rope@1": 3}},
        {"verdicts": {"norm_qkv_rope@1": {"outcome": "kept"}}},
        {"verdicts": {"norm_qkv_rope@1": {"outcome": "perfect", "reason": "", "size": 1}}},
        {"verdicts": {"norm_qkv_rope@1": {"outcome": "kept", "reason": "", "size": "one"}}},
        {"verdicts": {"norm_qkv_rope@1": {"outcome": "kept", "reason": "", "size": 1, "ratio": "half"}}},
        {"combination": {"chip": "Apple M9"}},
        {"trying": "norm_qkv_rope@1"},
        {"trying": {"kernel": "norm_qkv_rope@1"}},
        {"trying": {"kernel": "norm_qkv_rope@1", "process": "mine"}},
        {"trying": {"kernel": "norm_qkv_rope@1", "process": -1}},
    ],
)
def test_a_file_with_one_wrong_part_is_not_believed(combination: Combination, changes: dict[str, Any]):
    write_verdicts(combination, FOUND)
    values = json.loads(combination.file.read_text())
    combination.file.write_text(json.dumps(values | changes))
    found = read_verdicts(combination)
    assert found.verdicts == ()
    assert found.why_not is not None
    assert "damaged" in found.why_not


def test_a_file_from_the_future_is_not_believed(combination: Combination):
    write_verdicts(combination, FOUND)
    values = json.loads(combination.file.read_text())
    combination.file.write_text(json.dumps({**values, "version": 2}))
    assert read_verdicts(combination).why_not == (
        f"{combination.file} is of version 2, not 1; the kernels are checked anew"
    )


def test_kernels_that_this_version_does_not_know_are_ignored(combination: Combination):
    write_verdicts(combination, FOUND)
    values = json.loads(combination.file.read_text())
    values["verdicts"]["warp_drive@1"] = {"outcome": "kept", "reason": "", "size": 1}
    combination.file.write_text(json.dumps(values))
    assert read_verdicts(combination).verdicts == FOUND


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that tries a kernel is one that has ended by now."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    monkeypatch.setattr(store.os, "getpid", lambda: child.pid)


def test_a_kernel_that_is_being_tried_by_a_process_that_runs_is_just_not_known(combination: Combination):
    write_verdicts(combination, FOUND[:1], trying=KERNEL_CLASSES[1])
    assert read_verdicts(combination) == store.Stored(FOUND[:1])


@pytest.mark.usefixtures("nobody")
def test_a_kernel_that_ended_the_process_is_found_by_the_note_that_it_was_being_tried(combination: Combination):
    write_verdicts(combination, FOUND[:1], trying=KERNEL_CLASSES[1])
    found = read_verdicts(combination)
    assert found.verdicts[0] == FOUND[0]
    assert found.verdicts[1].outcome is Outcome.DIED
    assert found.died == {KERNEL_CLASSES[1]}
    assert found.verdicts[1].faulty


@pytest.mark.usefixtures("nobody")
def test_kernels_that_ended_the_process_together_are_all_left_out(combination: Combination):
    write_verdicts(combination, FOUND, trying=TOGETHER)
    found = read_verdicts(combination)
    assert [verdict.outcome for verdict in found.verdicts] == [
        Outcome.DIED, Outcome.WRONG, Outcome.FAILED, Outcome.SLOWER
    ]  # fmt: skip
    assert found.died == {KERNEL_CLASSES[0]}


def test_a_place_that_cannot_be_written_is_an_os_error_and_leaves_nothing_behind(
    combination: Combination, home: Path, monkeypatch: pytest.MonkeyPatch
):
    home.mkdir()
    (home / "kernels").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="exists"):
        write_verdicts(combination, FOUND)
    assert read_verdicts(combination).verdicts == ()
    (home / "kernels").unlink()
    write_verdicts(combination, FOUND)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_verdicts(combination, FOUND[:1])
    assert [path.name for path in combination.file.parent.iterdir()] == [combination.file.name]
    assert read_verdicts(combination).verdicts == FOUND


@pytest.mark.parametrize("bits", [None, 8])
def test_a_model_in_a_folder_and_the_same_model_loaded_are_one_combination(
    conversions: Callable[[int | None], str], bits: int | None
):
    device = SimulatedDevice().bench().device
    model = load_model(conversions(bits), dtype=mx.bfloat16)
    combination = make_combination(model, device)
    assert combination_of(open_checkpoint(conversions(bits)), device) == combination
    assert known_verdicts(open_checkpoint(conversions(bits)), device) == ()
    write_verdicts(combination, FOUND)
    assert known_verdicts(open_checkpoint(conversions(bits)), device) == FOUND
    without = SimulatedDevice().bench(metal=False).device
    assert known_verdicts(open_checkpoint(conversions(bits)), without) == ()


def test_the_digest_covers_every_kernel_and_its_launcher(monkeypatch: pytest.MonkeyPatch):
    digest = combinations.sources_digest.__wrapped__
    before = digest()
    assert before == digest()
    monkeypatch.setattr(combinations, "SOURCE_PACKAGES", combinations.SOURCE_PACKAGES[:1])
    assert digest() != before
