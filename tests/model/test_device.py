"""The facts about this machine."""

import os

import mlx.core as mx

from gptoss_mlx.device import this_device


def test_this_device_tells_the_truth() -> None:
    device = this_device()
    assert device.name
    assert device.architecture
    assert device.metal == mx.metal.is_available()
    assert device.gpu or not device.metal
    assert device.memory_bytes >= 2**30
    assert 1 <= device.cpu_cores <= (os.cpu_count() or 1)
    assert (device.working_set_bytes is not None) == device.metal
