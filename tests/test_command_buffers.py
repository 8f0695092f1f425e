"""The limits that MLX reads when it is imported: on which chips they are set, and what they leave alone."""

import subprocess
import sys

import pytest

from gptoss_mlx.command_buffers import LIMITS, SWITCH, apple_chip, set_limits

NAME, OTHER = "MLX_MAX_MB_PER_BUFFER", "MLX_MAX_OPS_PER_BUFFER"


@pytest.mark.parametrize("chip", ["Apple M1", "Apple M1 Ultra", "Apple M2 Pro", "Apple M3 Max", "Apple M4 Max"])
def test_chips_that_gain_get_larger_command_buffers(chip: str):
    environment: dict[str, str] = {}
    set_limits(environment, chip=chip)
    assert environment == {name: str(limit) for name, limit in LIMITS.items()}
    assert NAME in LIMITS


@pytest.mark.parametrize("chip", ["Apple M5", "Apple M5 Max", "Apple M10 Pro", "Apple A18", "AMD EPYC", ""])
def test_other_chips_keep_the_limits_of_mlx(chip: str):
    environment: dict[str, str] = {}
    set_limits(environment, chip=chip)
    assert environment == {}


def test_what_the_user_set_stays():
    environment = {NAME: "50"}
    set_limits(environment, chip="Apple M2 Max")
    assert environment == {NAME: "50", OTHER: str(LIMITS[OTHER])}
    switched_off = {SWITCH: "off"}
    set_limits(switched_off, chip="Apple M2 Max")
    assert switched_off == {SWITCH: "off"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


PRETEND = """
import os, sys, types
os.uname = lambda: types.SimpleNamespace(sysname="Darwin")
import ctypes
class System:
    def sysctlbyname(self, name, text, size, new, length):
        text.value = b"Apple M2 Max"
        return 0
ctypes.CDLL = lambda name: System()
"""
"""Makes a process believe that it runs on a Mac."""


def test_importing_the_package_is_enough_and_comes_before_mlx():
    code = "import gptoss_mlx; print(os.environ.get('MLX_MAX_MB_PER_BUFFER'), 'mlx.core' in sys.modules)"
    assert run(PRETEND + code).split() == [str(LIMITS[NAME]), "False"]


def test_a_process_that_has_mlx_already_is_left_alone():
    code = "sys.modules['mlx.core'] = types.ModuleType('mlx.core')\nimport gptoss_mlx\nprint(os.environ.get('"
    assert run(PRETEND + code + NAME + "'))").strip() == "None"


def test_another_engine_is_measured_with_the_limits_of_mlx():
    code = (
        "import gptoss_mlx, gptoss_mlx.command_buffers as limits\n"
        "environment = limits.environment_without_limits()\n"
        f"print({NAME!r} in os.environ, {NAME!r} in environment, environment[{SWITCH!r}])"
    )
    assert run(PRETEND + code).split() == ["True", "False", "off"]
    asked_for = f"os.environ[{NAME!r}] = '70'\n" + code
    assert run(PRETEND + asked_for).split() == ["True", "True", "off"]


def test_this_machine_has_a_chip_only_on_macos():
    assert bool(apple_chip()) == (sys.platform == "darwin")
