"""The check on this machine's own GPU, where it has Metal: the first thing to look at when a Mac meets the kernels."""

import time

import mlx.core as mx
import pytest

from gptoss_mlx.kernel_check.run import CHECK_SECONDS, KernelCheck
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.ops import ReferenceOps
from gptoss_mlx.ops.kernels import KernelOps
from gptoss_mlx.weights import load_model

pytestmark = pytest.mark.skipif(not mx.metal.is_available(), reason="this machine has no Metal device")


def test_every_kernel_compiles_and_is_right_on_this_gpu():
    check = KernelCheck(load_model(POCKET_FOLDER), KernelOps, ReferenceOps(), seconds=240)
    verdicts = check.run(lambda kernel: None)
    assert {str(verdict.kernel): verdict.reason for verdict in verdicts if verdict.faulty} == {}


def test_a_check_keeps_its_time():
    check = KernelCheck(load_model(POCKET_FOLDER), KernelOps, ReferenceOps())
    start = time.perf_counter()
    check.run(lambda kernel: None)
    assert time.perf_counter() - start < 2 * CHECK_SECONDS
