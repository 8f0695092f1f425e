"""The check of all kernels, on a simulated device."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.kernel_check.run import CHECK_SECONDS
from gptoss_mlx.kernel_check.shapes import random_model
from gptoss_mlx.kernel_check.verdict import TOGETHER, Outcome, Verdict
from gptoss_mlx.model import Model
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass
from tests.kernel_check.device import STOCK_SECONDS, Behaviour, SimulatedDevice, names, small_model


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


def check(model: Model, device: SimulatedDevice, *, only: Sequence[str] = (), **options: Any) -> dict[str, Verdict]:
    """A check's verdicts by name; `only`: of these kernels, the others known to be right and fast."""
    if only:
        options["known"] = [Verdict(kernel, Outcome.KEPT, "") for kernel in KERNEL_CLASSES if str(kernel) not in only]
    run = device.kernel_check(model, **options)
    return {str(verdict.kernel): verdict for verdict in run.run(lambda kernel: None)}


def check_one(model: Model, name: str, behaviour: Behaviour) -> Verdict:
    """The verdict on the kernel `name` that behaves so; all others are kept."""
    verdicts = check(model, SimulatedDevice({name: behaviour}), only=[name])
    assert set(left_out(verdicts)) <= {name}
    return verdicts[name]


def left_out(verdicts: dict[str, Verdict]) -> dict[str, Outcome]:
    return {name: verdict.outcome for name, verdict in verdicts.items() if not verdict.kept}


def one_wrong(array: mx.array) -> mx.array:
    """One value of the array is its negative and a little more."""
    flat = array.reshape(-1)
    place = flat.size * 2 // 3
    value = -flat[place : place + 1] - mx.array(1.0, dtype=array.dtype)
    return mx.concatenate([flat[:place], value, flat[place + 1 :]]).reshape(array.shape)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(mx.bfloat16, None), (mx.float16, None), (mx.float32, 4), (mx.bfloat16, 8)]
)
def test_kernels_that_are_right_and_fast_are_kept(dtype: mx.Dtype, bits: int | None):
    device = SimulatedDevice()
    verdicts = check(random_model(small_model().config, dtype, dense_bits=bits), device)
    assert list(verdicts) == names()
    assert left_out(verdicts) == {}
    assert device.now < CHECK_SECONDS
    for verdict in verdicts.values():
        assert verdict.ratio == pytest.approx(0.5)
        assert verdict.stock_seconds == pytest.approx(STOCK_SECONDS * (2 if "grouped" in verdict.kernel.op else 1))
        assert verdict.error is not None
        assert verdict.error < 0.02


def test_each_kernel_is_announced_before_it_is_tried_and_all_of_them_at_the_end(model: Model):
    device, begun = SimulatedDevice(), []
    run = device.kernel_check(model)
    run.run(lambda kernel: begun.append((kernel, len(run.verdicts))))
    assert begun == [*zip(KERNEL_CLASSES, itertools.count(), strict=False), (TOGETHER, len(KERNEL_CLASSES))]


@pytest.mark.parametrize("liar", names())
def test_a_kernel_that_lies_is_left_out(model: Model, liar: str):
    lie = Behaviour(change=lambda array: array * 1.25 + 0.01)
    if liar.startswith("norm_lm_head"):
        # The logits of a token are not what a kernel that gives tokens may change.
        lie.change = lambda array: array * 1.25 if array.dtype == mx.float32 else array
    assert check_one(model, liar, lie).outcome is Outcome.WRONG


def test_a_kernel_may_be_right_at_one_size_and_wrong_at_another(model: Model):
    device = SimulatedDevice({"full_attention@1024": Behaviour(change=lambda array: array * 0)})
    verdicts = check(model, device, only=["full_attention@1", "full_attention@1024", "norm_router@1"])
    assert left_out(verdicts) == {"full_attention@1024": Outcome.WRONG}
    assert "size 1024" in verdicts["full_attention@1024"].reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_accepted(model: Model, value: float):
    def spoil(array: mx.array) -> mx.array:
        return mx.concatenate([array[..., :-1], mx.full((*array.shape[:-1], 1), value, dtype=array.dtype)], axis=-1)

    verdict = check_one(model, "linear_residual@1", Behaviour(change=spoil))
    assert verdict.outcome is Outcome.WRONG
    assert "not finite" in verdict.reason


@pytest.mark.parametrize("kernel", [name for name in names() if name != "norm_lm_head@1"])
def test_one_wrong_value_among_all_is_found(model: Model, kernel: str):
    assert check_one(model, kernel, Behaviour(change=one_wrong)).outcome is Outcome.WRONG


def test_one_wrong_logit_and_one_wrong_token_are_found(model: Model):
    logit = Behaviour(change=lambda array: one_wrong(array) if array.dtype == mx.float32 else array)
    assert check_one(model, "norm_lm_head@1", logit).outcome is Outcome.WRONG
    for token in (lambda array: (array + 1) % 100, lambda array: array + 2**31):
        change = Behaviour(change=lambda array, token=token: array if array.dtype == mx.float32 else token(array))
        assert check_one(model, "norm_lm_head@1", change).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda array: array[..., :-1], "shape"),
        (lambda array: array.astype(mx.float16), "gives float16 where float32 is expected"),
    ],
)
def test_a_result_of_another_form_is_wrong(model: Model, change: Callable[[mx.array], mx.array], words: str):
    verdict = check_one(model, "expert_down@1", Behaviour(change=change))
    assert verdict.outcome is Outcome.WRONG
    assert words in verdict.reason


def test_a_kernel_that_does_not_compile_is_left_out_with_the_compiler_s_words(model: Model):
    message = "[metal::Device] Unable to build metal library from source\nprogram_source:12:3: error: no such name 'x'"
    verdict = check_one(model, "ring_attention@1", Behaviour(fault=message))
    assert verdict.outcome is Outcome.FAILED
    assert "error: no such name 'x'" in verdict.reason
    assert "\n" not in verdict.reason


@pytest.mark.parametrize("share", [0.99, 1.0, 1.5, 3.0, 100.0])
def test_a_kernel_that_is_not_faster_is_left_out(model: Model, share: float):
    verdict = check_one(model, "norm_qkv_rope@1", Behaviour(seconds=share * STOCK_SECONDS))
    assert verdict.outcome is Outcome.SLOWER
    assert verdict.ratio == pytest.approx(share)


def test_a_kernel_that_gives_other_results_for_the_same_inputs_is_left_out(model: Model):
    behaviour = Behaviour()
    # Within tolerance each time, and never the same: a race.
    behaviour.change = lambda array: array * (1 + behaviour.calls % 7 * 2**-9)
    verdict = check_one(small_model(mx.bfloat16), "norm_router@1", behaviour)
    assert verdict.outcome is Outcome.WRONG
    assert "other results" in verdict.reason


def test_a_kernel_that_goes_wrong_while_it_is_timed_is_left_out(model: Model):
    behaviour = Behaviour()
    behaviour.change = lambda array: array if behaviour.calls < 20 else array * 2
    assert check_one(model, "linear_residual@1", behaviour).outcome is Outcome.WRONG


def test_kernels_that_are_wrong_only_together_are_all_left_out(model: Model):
    lie = Behaviour(change=lambda array: array * 2, only_together=True)
    slow = Behaviour(seconds=2 * STOCK_SECONDS)
    verdicts = check(model, SimulatedDevice({"ring_attention@1": lie, "norm_lm_head@1": slow}), only=["norm_lm_head@1"])
    assert {name for name, outcome in left_out(verdicts).items() if outcome is Outcome.WRONG} == set(names()) - {
        "norm_lm_head@1"
    }
    assert "together" in verdicts["expert_down@1"].reason
    raises = Behaviour(fault="out of registers", only_together=True)
    verdicts = check(model, SimulatedDevice({"grouped_experts@32": raises}), only=["norm_router@1"])
    assert set(left_out(verdicts)) == set(names())
    assert "out of registers" in verdicts["expert_down@1"].reason


def test_a_kernel_that_hangs_costs_the_time_of_those_after_it_and_is_not_tried_again(model: Model):
    device = SimulatedDevice({"full_attention@1": Behaviour(seconds=20.0)})
    verdicts = check(model, device)
    hanging = names().index("full_attention@1")
    assert all(verdicts[name].kept for name in names()[:hanging])
    assert verdicts["full_attention@1"].outcome is Outcome.SLOWER
    assert "20.0 s" in verdicts["full_attention@1"].reason
    assert {verdicts[name].outcome for name in names()[hanging + 1 :]} == {Outcome.UNREACHED}
    # The next check takes up where this one had no time.
    later = check(model, device, known=verdicts.values())
    assert left_out(later) == {"full_attention@1": Outcome.SLOWER}


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1, 0.5])
def test_no_kernel_is_begun_after_the_time_is_up(model: Model, seconds: float):
    device = SimulatedDevice()
    begun: list[float] = []
    run = device.kernel_check(model, seconds=seconds)
    verdicts = run.run(lambda kernel: begun.append(device.now) if kernel != TOGETHER else None)
    assert all(time <= seconds for time in begun)
    assert [str(verdict.kernel) for verdict in verdicts] == names()
    late = [verdict for verdict in verdicts if verdict.outcome is Outcome.UNREACHED]
    assert late
    assert all(verdict.kept for verdict in verdicts if verdict not in late)


def test_where_the_stock_path_itself_fails_nothing_is_kept(model: Model):
    verdicts = check(model, SimulatedDevice(stock_fault="out of memory"))
    assert set(left_out(verdicts)) == set(names())
    assert "stock path raises RuntimeError: out of memory" in verdicts["expert_down@1"].reason


def test_a_kernel_that_does_not_serve_the_model_is_not_tried(model: Model):
    device = SimulatedDevice()
    run = device.kernel_check(model, serves=lambda trial, layer: trial.kernel.op != "norm_router")
    verdicts = {str(verdict.kernel): verdict for verdict in run.run(lambda kernel: None)}
    assert left_out(verdicts) == {"norm_router@1": Outcome.UNFIT}


def test_what_was_found_before_an_interruption_is_there(model: Model):
    def interrupt(kernel: KernelClass) -> None:
        if str(kernel) == "linear_residual@1":
            raise KeyboardInterrupt

    device = SimulatedDevice()
    run = device.kernel_check(model)
    with pytest.raises(KeyboardInterrupt):
        run.run(interrupt)
    assert [str(verdict.kernel) for verdict in run.verdicts] == names()[: names().index("linear_residual@1")]
