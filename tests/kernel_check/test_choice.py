"""What is chosen when a model is loaded: checked once, read afterwards, and never in the way of the model."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from gptoss_mlx import GptOss, load
from gptoss_mlx.errors import Cancelled, UsageError
from gptoss_mlx.kernel_check import choice
from gptoss_mlx.kernel_check.choice import check_kernels, choose_for, load_ready_model
from gptoss_mlx.kernel_check.combination import Combination, make_combination
from gptoss_mlx.kernel_check.store import read_verdicts, write_verdicts
from gptoss_mlx.kernel_check.verdict import TOGETHER, Outcome, Verdict
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass
from gptoss_mlx.ops.selection import choose_kernels, chosen_kernels
from gptoss_mlx.settings import KernelSetting
from tests.kernel_check.device import Behaviour, SimulatedDevice, names, small_model

ROOT = Path(__file__).parent.parent.parent
ALL = frozenset(KERNEL_CLASSES)
LIE = Behaviour(change=lambda array: array * 2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    choose_kernels(frozenset())
    choice._chosen.clear()
    yield tmp_path
    choose_kernels(frozenset())


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


def known(model: Model, device: SimulatedDevice, *, but: str) -> None:
    """Writes down that all kernels were found right and fast, but one that is not known of."""
    verdicts = [Verdict(kernel, Outcome.KEPT, "") for kernel in KERNEL_CLASSES if str(kernel) != but]
    write_verdicts(make_combination(model, device.bench().device), verdicts)


def all_but(*left_out: str) -> frozenset[KernelClass]:
    return frozenset(kernel for kernel in KERNEL_CLASSES if str(kernel) not in left_out)


def test_the_first_load_checks_and_warns_and_later_ones_only_read(model: Model, caplog: pytest.LogCaptureFixture):
    slow = Behaviour(seconds=1.0)
    device = SimulatedDevice({"ring_attention@1": LIE, "norm_router@1": slow})
    seen: list[tuple[int, int]] = []
    choose_for(model, KernelSetting.AUTO, device.bench(), lambda done, total: seen.append((done, total)))
    assert chosen_kernels() == all_but("ring_attention@1", "norm_router@1")
    assert seen == [(done, 17) for done in range(18)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "the kernel ring_attention@1 is left out: it is off by" in caplog.text
    assert "the kernel norm_router@1 is left out: it takes 1000.00 of the stock path's time" in caplog.text
    caplog.clear()
    choose_kernels(frozenset())
    later = SimulatedDevice()
    choose_for(model, KernelSetting.AUTO, later.bench(), lambda done, total: pytest.fail("checked again"))
    assert chosen_kernels() == all_but("ring_attention@1", "norm_router@1")
    assert (later.evaluations, caplog.text) == (0, "")


def test_off_and_on_ask_nobody(model: Model):
    device = SimulatedDevice({"ring_attention@1": LIE})
    choose_for(model, KernelSetting.ON, device.bench())
    assert chosen_kernels() == ALL
    choose_for(model, KernelSetting.OFF, device.bench())
    assert chosen_kernels() == frozenset()
    assert device.evaluations == 0


@pytest.mark.parametrize("setting", KernelSetting)
def test_without_metal_nothing_is_done(model: Model, home: Path, setting: KernelSetting):
    device = SimulatedDevice()
    choose_for(model, setting, device.bench(metal=False))
    assert (chosen_kernels(), device.evaluations, list(home.iterdir())) == (frozenset(), 0, [])


def test_an_unknown_setting_is_told_before_any_weight_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPTOSS_KERNELS", "yes")
    with pytest.raises(UsageError, match="GPTOSS_KERNELS is 'yes'; expected auto"):
        load_ready_model(POCKET_FOLDER, progress=lambda done, total: pytest.fail("read"))


def test_a_model_that_is_loaded_has_its_kernels_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPTOSS_KERNELS", "on")
    monkeypatch.setattr(choice, "this_bench", SimulatedDevice().bench)
    model = load_ready_model(POCKET_FOLDER)
    assert chosen_kernels() == ALL
    assert model.config.hidden_size == 192


def test_loading_through_the_api_reports_the_check_and_close_stops_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("GPTOSS_KERNELS", "auto")
    monkeypatch.setattr(choice, "this_bench", SimulatedDevice({"norm_router@1": LIE}).bench)
    seen: list[tuple[int, int]] = []
    begun = threading.Event()

    def slowly(done: int, total: int) -> None:
        begun.set()
        time.sleep(0.2)
        seen.append((done, total))

    model = GptOss("pocket", checking=slowly, wait=False)
    assert begun.wait(60)
    model.close()
    assert len(seen) < 17
    assert chosen_kernels() == frozenset()
    with load("pocket", checking=lambda done, total: seen.append((done, total))) as model:
        assert chosen_kernels() == all_but("norm_router@1")
        assert model.ask("Hello!", temperature=0.0, max_tokens=3).stats.generated_tokens == 3
    assert seen[-1] == (17, 17)
    assert "norm_router@1 is left out" in caplog.text


def test_several_models_share_what_is_right_for_each(model: Model):
    other = small_model()
    choose_for(model, KernelSetting.ON, SimulatedDevice().bench())
    known(other, SimulatedDevice(), but="expert_down@1")
    choose_for(other, KernelSetting.AUTO, SimulatedDevice({"expert_down@1": LIE}).bench())
    assert chosen_kernels() == all_but("expert_down@1")
    del other
    choose_for(model, KernelSetting.ON, SimulatedDevice().bench())
    assert chosen_kernels() == ALL


def test_a_changed_combination_is_checked_anew_and_says_what_changed(
    model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    device = SimulatedDevice(dict.fromkeys(names()[3:], LIE))
    known(model, device, but="")
    monkeypatch.setattr("gptoss_mlx.kernel_check.combination.system_name", lambda: "macOS 99.1")
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() < ALL
    assert "the operating system changed since the last check" in caplog.records[0].message


def test_a_damaged_file_costs_one_sentence_and_a_check(model: Model, caplog: pytest.LogCaptureFixture):
    device = SimulatedDevice()
    file = make_combination(model, device.bench().device).file
    file.parent.mkdir(parents=True)
    file.write_text('{"format": "gptoss')
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() == ALL
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text
    assert json.loads(file.read_text())["trying"] is None


def test_a_file_that_cannot_be_written_does_not_stop_the_model(
    model: Model, home: Path, caplog: pytest.LogCaptureFixture
):
    (home / "kernels").write_text("in the way")
    device = SimulatedDevice()
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() == ALL
    assert caplog.records[-1].message.startswith("what was found cannot be kept (")
    assert caplog.records[-1].message.endswith("): the next load checks again")


def test_a_disk_that_is_full_halfway_leaves_no_kernel_under_suspicion(
    model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    written: list[KernelClass | None] = []

    def write(combination: Combination, verdicts: Iterable[Verdict], trying: KernelClass | None = None) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(trying)
        write_verdicts(combination, verdicts, trying)

    monkeypatch.setattr(choice, "write_verdicts", write)
    device = SimulatedDevice()
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() == ALL
    assert [record.message.split(" (")[0] for record in caplog.records] == ["what was found cannot be kept"]
    assert read_verdicts(make_combination(model, device.bench().device)).verdicts == ()


def test_an_interrupted_check_loses_nothing_and_leaves_the_stock_path(model: Model):
    device = SimulatedDevice()
    known(model, device, but="")
    file = make_combination(model, device.bench().device).file
    values = json.loads(file.read_text())
    for name in names()[5:9]:
        del values["verdicts"][name]
    file.write_text(json.dumps(values))

    def stop(done: int, total: int) -> None:
        if done == 14:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        choose_for(model, KernelSetting.AUTO, device.bench(), stop)
    assert chosen_kernels() == frozenset()
    # Two of the four that were missing were found; nobody thinks that a third one ended the process.
    stored = read_verdicts(make_combination(model, device.bench().device))
    assert [str(verdict.kernel) for verdict in stored.verdicts] == [*names()[:7], *names()[9:]]
    assert all(verdict.kept for verdict in stored.verdicts)


def test_ctrl_c_in_a_new_check_leaves_what_an_earlier_one_found(model: Model):
    device = SimulatedDevice({"norm_qkv_rope@1": LIE})
    known(model, device, but="")
    combination = make_combination(model, device.bench().device)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_kernels(
            model,
            combination,
            device.bench(),
            earlier=read_verdicts(combination).verdicts,
            again=True,
            checking=stop,
        )
    stored = read_verdicts(combination).verdicts
    assert len(stored) == len(KERNEL_CLASSES)
    assert [str(verdict.kernel) for verdict in stored if not verdict.kept] == ["norm_qkv_rope@1"]


def test_a_kernel_that_ended_the_process_is_left_out_and_the_check_goes_on(
    model: Model, caplog: pytest.LogCaptureFixture
):
    device = SimulatedDevice()
    combination = make_combination(model, device.bench().device)
    kept = [Verdict(kernel, Outcome.KEPT, "") for kernel in KERNEL_CLASSES[:-2]]
    write_verdicts(combination, kept, trying=KERNEL_CLASSES[-2])
    values = json.loads(combination.file.read_text())
    values["trying"]["process"] = 2**40
    combination.file.write_text(json.dumps(values))
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() == all_but(names()[-2])
    assert [record.message for record in caplog.records] == [
        f"the kernel {names()[-2]} is left out: it was being tried when the program ended; "
        "`gptoss check` tries it once more"
    ]
    caplog.clear()
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() == all_but(names()[-2])
    assert caplog.text == ""


def test_after_a_kernel_killed_its_process_the_next_load_does_without_it(home: Path):
    script = (
        "import os\n"
        "from gptoss_mlx.kernel_check.choice import choose_for\n"
        "from gptoss_mlx.settings import KernelSetting\n"
        "from tests.kernel_check.device import Behaviour, SimulatedDevice, small_model\n"
        "killer = Behaviour(change=lambda array: os._exit(70))\n"
        "choose_for(small_model(), KernelSetting.AUTO, SimulatedDevice({'linear_residual@1': killer}).bench())\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 70
    model = small_model()
    choose_for(model, KernelSetting.AUTO, SimulatedDevice().bench())
    assert chosen_kernels() == all_but("linear_residual@1")


def test_while_a_kernel_is_tried_the_file_says_so(model: Model):
    device = SimulatedDevice()
    known(model, device, but="norm_router@1")
    file = make_combination(model, device.bench().device).file
    tried: list[str | None] = []
    watched = device.evaluate

    def evaluate(arrays: object) -> None:
        tried.append(json.loads(file.read_text())["trying"]["kernel"])
        watched(arrays)  # type: ignore[arg-type]

    device.evaluate = evaluate  # type: ignore[method-assign]
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert list(dict.fromkeys(tried)) == ["norm_router@1", str(TOGETHER)]
    assert json.loads(file.read_text())["trying"] is None


def test_kernels_without_time_are_named_once_and_tried_at_the_next_load(model: Model, caplog: pytest.LogCaptureFixture):
    device = SimulatedDevice({"full_attention@1024": Behaviour(seconds=30.0)})
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() == frozenset(KERNEL_CLASSES[:3])
    late = ", ".join(names()[4:])
    assert caplog.records[-1].message == f"no time was left to check {late}: left out until the next load checks them"
    choose_for(model, KernelSetting.AUTO, device.bench())
    assert chosen_kernels() == all_but("full_attention@1024")
