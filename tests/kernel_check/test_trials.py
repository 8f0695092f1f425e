"""What kernels are tried on: each case of a class meets its kernel, no other, at the model's shapes."""

from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.config import PRESETS
from gptoss_mlx.kernel_check.fit import kernel_serves
from gptoss_mlx.kernel_check.shapes import VOCABULARY, random_model
from gptoss_mlx.kernel_check.timing import evaluate_and_wait
from gptoss_mlx.kernel_check.trials import SIZES, make_joint_cases, make_trial, row_parts, tied
from gptoss_mlx.model import Model
from gptoss_mlx.ops import ReferenceOps
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass
from gptoss_mlx.ops.kernels import KernelOps
from tests.kernel_check.device import names, small_model


class AskedOps(KernelOps):
    """Computes as the reference does, and counts how often a kernel would have run."""

    asked = 0

    def runs_kernel(self, operation: str, *arguments: Any) -> bool:
        self.asked += super().runs_kernel(operation, *arguments)
        return False


@pytest.fixture(scope="module", params=[None, 8, 4])
def model(request: pytest.FixtureRequest) -> Model:
    model = small_model(mx.bfloat16)
    return model if request.param is None else random_model(model.config, mx.bfloat16, dense_bits=request.param)


def test_every_class_has_sizes_inside_it():
    assert list(SIZES) == names()
    for kernel in KERNEL_CLASSES:
        above = [other.least for other in KERNEL_CLASSES if other.op == kernel.op and other.least > kernel.least]
        if kernel.op != "ring_attention":  # its sizes are positions, of which it serves all
            assert all(kernel.least <= size < min(above, default=10**9) for size in SIZES[str(kernel)])


@pytest.mark.parametrize("kernel", KERNEL_CLASSES, ids=str)
def test_each_case_runs_the_kernel_of_its_class_and_no_other(model: Model, kernel: KernelClass):
    trial = make_trial(model, kernel)
    assert kernel_serves(trial, model.layers[0])
    for case in trial.cases:
        only, others = AskedOps(frozenset({kernel})), AskedOps(frozenset(KERNEL_CLASSES) - {kernel})
        case.call(only, model.layers[0], case.inputs)
        case.call(others, model.layers[0], case.inputs)
        assert (only.asked > 0, others.asked) == (True, 0)


def test_all_decode_kernels_and_the_grouped_experts_meet_in_the_joint_cases(model: Model):
    met = set()
    for kernel in KERNEL_CLASSES:
        for case in make_joint_cases(model):
            ops = AskedOps(frozenset({kernel}))
            case.call(ops, model.layers[0], case.inputs)
            if ops.asked:
                met.add(kernel.op)
    assert met == {kernel.op for kernel in KERNEL_CLASSES} - {"norm_lm_head", "banded_attention", "causal_attention"}


@pytest.mark.parametrize("kernel", KERNEL_CLASSES, ids=str)
def test_the_next_call_s_inputs_are_the_same_values_and_wait_for_every_result(kernel: KernelClass):
    model = small_model()
    case = make_trial(model, kernel).timed
    results = case.call(ReferenceOps(), model.layers[0], case.inputs)
    following = case.next_inputs(case.inputs, results)
    assert [(x.shape, x.dtype) for x in following] == [(x.shape, x.dtype) for x in case.inputs]
    same = [mx.array_equal(x, y).item() for x, y in zip(following, case.inputs, strict=True)]
    # What such a layer keeps comes back with one more token in it.
    assert same == [True] * (len(same) - 1) + [kernel.op not in ("ring_attention", "full_attention")]


def test_a_result_that_is_not_finite_does_not_reach_the_next_input():
    x = mx.arange(6, dtype=mx.bfloat16).reshape(1, 1, 6)
    (following,) = tied((x,), (mx.full((2, 3), float("nan")), mx.array([float("inf")])))
    assert following.tolist() == x.tolist()
    assert following.dtype == mx.bfloat16


@pytest.mark.parametrize("bits", [None, 8])
def test_the_parts_of_an_lm_head_give_the_logits_of_the_whole(bits: int | None):
    model = random_model(small_model().config, mx.float32, dense_bits=bits)
    x = mx.random.normal((1, 2, 64))
    whole = ReferenceOps().norm_lm_head(x, model.norm, model.lm_head)
    parts = [ReferenceOps().norm_lm_head(x, model.norm, part) for part in row_parts(model.lm_head, 33)]
    assert [part.shape[-1] for part in parts] == [33, 33, 33, 1]
    assert mx.allclose(mx.concatenate(parts, axis=-1), whole, rtol=1e-5, atol=1e-5).item()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 8, 6, 4])
def test_the_random_20b_has_its_shape_and_kernels_serve_it(bits: int | None):
    model = random_model(PRESETS["20b"], mx.bfloat16, dense_bits=bits)
    attention, experts = model.layers[0].attention, model.layers[0].experts
    assert attention.heads == (64, 8, 64)
    assert experts.gate_up.blocks.shape == (32, 5760, 360)
    assert experts.down.scales.shape == (32, 2880, 90)
    assert model.lm_head.weight.shape[0] == VOCABULARY
    for kernel in KERNEL_CLASSES:
        if kernel.op in ("norm_qkv_rope", "linear_residual", "norm_router", "expert_gate_up", "norm_lm_head"):
            assert kernel_serves(make_trial(model, kernel), model.layers[0])


def test_evaluating_waits_for_the_arrays():
    array = mx.ones(3) + 1
    evaluate_and_wait([array])
    assert array.tolist() == [2, 2, 2]
