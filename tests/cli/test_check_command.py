"""`gptoss check`: on a machine without Metal as a person runs it, with Metal on a simulated device."""

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.cli import check, info
from gptoss_mlx.cli.arguments import make_parser
from gptoss_mlx.errors import GptOssError, ModelNotFound, UsageError
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES
from tests.cli.test_commands import gptoss
from tests.kernel_check.device import Behaviour, SimulatedDevice, names, small_model

without_metal = pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    monkeypatch.delenv("GPTOSS_KERNELS", raising=False)
    # Random weights of a real shape take seconds and hundreds of megabytes.
    monkeypatch.setattr(check, "random_model", lambda config, dtype, **options: small_model(dtype))
    return tmp_path


def run(
    capsys: pytest.CaptureFixture[str], device: SimulatedDevice, *words: str
) -> tuple[int, list[str], dict[str, Any]]:
    """The exit code, the lines before the last, and the last as JSON."""
    arguments = make_parser().parse_args(["check", *words])
    arguments.words = ["check", *words]
    code = check.run_on(arguments, device.bench())
    *lines, last = capsys.readouterr().out.splitlines()
    return code, lines, json.loads(last)


@without_metal
def test_without_metal_one_sentence_says_what_runs_instead():
    done = gptoss("check")
    assert (done.returncode, done.stderr) == (0, "")
    sentence, small, large, empty, last = done.stdout.splitlines()
    # How much depends on the machine: on whether it has room for float32, and on its cores.
    assert re.match(r"20b: 1[4-7]\.\d GB of memory with 8,192 tokens of context, of the ", small)
    assert re.match(r"120b: 6[5-9]\.\d GB of memory", large)
    assert sentence.startswith("there are no kernels to check here: MLX has no Metal device on this machine")
    assert "numpy" in sentence
    assert empty == ""
    assert json.loads(last)["metal"] is False
    assert gptoss("check", "--shape", "20b").stdout.splitlines()[0] == sentence


def test_a_check_prints_a_table_and_one_json_line_and_is_kept(capsys: pytest.CaptureFixture[str], home: Path):
    device = SimulatedDevice({"expert_down@1": Behaviour(seconds=1.0)})
    code, lines, report = run(capsys, device)
    assert code == 0
    assert lines[0].split()[:3] == ["kernel", "at", "error"]
    assert [line.split()[0] for line in lines[1:17]] == names()
    assert "left out: it takes 1000.00 of the stock path's time" in next(
        line for line in lines if "expert_down" in line
    )
    assert "15 of 16 are used on Apple M9; MLX's own operations stand in for the others" in lines
    assert (report["kept"], report["faulty"]) == (15, 0)
    assert [kernel["kernel"] for kernel in report["kernels"]] == names()
    assert report["kernels"][0]["outcome"] == "kept"
    assert report["combination"]["chip"] == "Apple M9"
    assert report["combination"]["model"]["hidden_size"] == 192
    assert report["command"] == "gptoss check"
    assert [Path(report["file"])] == list((home / "kernels").iterdir())


def test_a_faulty_kernel_is_an_error_of_the_command(capsys: pytest.CaptureFixture[str]):
    device = SimulatedDevice({"ring_attention@1": Behaviour(fault="error: it does not compile")})
    code, lines, report = run(capsys, device, "--shape", "20b")
    assert code == 1
    assert any("ring_attention@1" in line and "it does not compile" in line for line in lines)
    assert report["faulty"] == 1


@pytest.mark.slow
def test_a_check_tries_again_what_an_earlier_one_left_out(capsys: pytest.CaptureFixture[str]):
    assert run(capsys, SimulatedDevice({"norm_router@1": Behaviour(seconds=1.0)}))[2]["kept"] == 15
    assert run(capsys, SimulatedDevice())[2]["kept"] == 16


@pytest.mark.parametrize("words", [("--no-save",), ("--shape", "20b"), ("--shape", "120b", "--dense-bits", "8")])
@pytest.mark.slow
def test_nothing_is_kept_of_a_shape_and_with_no_save(
    capsys: pytest.CaptureFixture[str], home: Path, words: tuple[str, ...]
):
    assert run(capsys, SimulatedDevice(), *words)[2]["file"] is None
    assert list(home.iterdir()) == []


def test_what_cannot_be_kept_is_said_on_standard_error(home: Path, capsys: pytest.CaptureFixture[str]):
    (home / "kernels").write_text("in the way")
    arguments = make_parser().parse_args(["check"])
    arguments.words = []
    assert check.run_on(arguments, SimulatedDevice().bench()) == 0
    assert "warning: what was found cannot be kept" in capsys.readouterr().err


def test_seconds_is_the_time_after_which_nothing_is_begun(capsys: pytest.CaptureFixture[str]):
    _, lines, report = run(capsys, SimulatedDevice(), "--seconds", "0.2")
    assert 0 < report["kept"] < len(KERNEL_CLASSES)
    assert lines[16].endswith("left out: it was not tried: the time for the check was up")


def test_a_setting_that_overrides_the_choice_is_mentioned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GPTOSS_KERNELS", "off")
    assert "not now, though: GPTOSS_KERNELS is off" in run(capsys, SimulatedDevice(), "--shape", "20b")[1]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["pocket", "--shape", "20b"], UsageError, "both given"),
        (["pocket", "--dense-bits", "8"], UsageError, "--dense-bits"),
        (["--seconds", "0"], UsageError, "--seconds is 0"),
        (["--seconds", "nan"], UsageError, "--seconds is nan"),
        (["nowhere"], ModelNotFound, "nowhere"),
    ],
)
@pytest.mark.parametrize("metal", [True, False])
def test_what_cannot_be_meant_is_told_on_every_machine(
    words: list[str], error: type[GptOssError], message: str, metal: bool
):
    arguments = make_parser().parse_args(["check", *words])
    with pytest.raises(error, match=message):
        check.run_on(arguments, SimulatedDevice().bench(metal=metal))


@pytest.mark.parametrize("command", [("check",), ("ask", "hello"), ("bench", "--runs", "1")])
def test_an_unknown_setting_is_one_clear_error_of_wrong_usage(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GPTOSS_KERNELS", "fast")
    done = gptoss(*command)
    assert done.returncode == (2 if command[0] != "bench" else 1)
    assert "GPTOSS_KERNELS is 'fast'; expected auto" in done.stderr


def test_info_says_what_is_known_of_the_kernels():
    assert info.kernels_line({}).startswith("not checked on this machine yet")
    assert info.kernels_line({"a@1": "kept", "b@1": "kept"}) == "2 of 2 are right and faster here"
    assert (
        info.kernels_line({"a@1": "kept", "b@1": "wrong"}) == "1 of 2 are right and faster here; left out: b@1 (wrong)"
    )


@without_metal
def test_info_is_silent_about_kernels_where_there_can_be_none():
    assert json.loads(gptoss("info", "--json").stdout)["kernels"] is None
    assert "kernels" not in gptoss("info").stdout
