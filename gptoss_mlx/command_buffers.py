"""How much work MLX puts into one of Metal's command buffers: set before MLX is imported, for it reads that once.

MLX sends a command buffer off after 40 or 50 kernels, or once the arrays that they touch pass a limit that it calls MB
and counts in values (mlx/backend/metal/device.cpp). A stack of experts counts whole, though a token visits four of
them, so gpt-oss passes the limit with almost every product of the experts: 27 to 50 buffers a token for the 20b and 75
for the 120b, as `gptoss bench --graph` counts, each some 20 us of GPU time (mlx#4521, M3 Ultra). Fewer and larger ones
were measured by others at +5 to +13 % (mlx#4521, vllm-metal#637, mlxcel#353 on M1 Ultra) and at nothing on M5 Max
(mlxcel#360), hence the chips below.

Not so few as one might like: while decoding, a step is queued before the last one has ended, and MLX writes into a
full layer's buffer in place only when no kernel under way reads it; else it copies the buffer whole. What keeps the
host from running ahead so far is that MLX waits while more than ten command buffers are under way (mlx/transforms.cpp,
MAX_ACTIVE_TASKS): with clearly more than ten a step, a layer's last reader has ended when its next write is queued.

Owns: these limits, and the chip's name without MLX. `GPTOSS_COMMAND_BUFFERS=off` leaves MLX its own.
"""

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Final

SWITCH: Final = "GPTOSS_COMMAND_BUFFERS"
"""The environment variable that turns this off, by the value "off"."""

LIMITS: Final[Mapping[str, str]] = {"MLX_MAX_MB_PER_BUFFER": "190"}
"""What is set: 14 to 38 command buffers a token for the 20b and 38 to 57 for the 120b, by the precision of its
projections and the length of its context. MLX's limit of kernels stays: a buffer holds about a dozen of ours."""

GENERATIONS: Final = range(1, 5)
"""The generations of Apple's M chips that gain by it."""

_set_here: dict[str, str] = {}
"""What this process did not find, but set."""


def set_limits(environment: MutableMapping[str, str] = os.environ, *, chip: str | None = None) -> None:
    """Sets the limits in `environment`, on a `chip` (default: this machine's) that gains by them.

    Leaves alone what is set already, and a process in which MLX is there already.
    """
    if environment.get(SWITCH) == "off" or (environment is os.environ and "mlx.core" in sys.modules):
        return
    generation = re.match(r"Apple M(\d+)\b", apple_chip() if chip is None else chip)
    if generation is None or int(generation[1]) not in GENERATIONS:
        return
    for name, value in LIMITS.items():
        if name not in environment:
            environment[name] = _set_here[name] = value


def environment_without_limits() -> dict[str, str]:
    """This process's environment as it was, for one that is to run with MLX's own limits, this package or not."""
    kept = {name: value for name, value in os.environ.items() if _set_here.get(name) != value}
    return {**kept, SWITCH: "off"}


def apple_chip() -> str:
    """The chip's name, such as "Apple M3 Max"; empty where there is no macOS to ask. Takes well under a millisecond."""
    # Not `sys.platform`, by which a type checker would leave out one half of this.
    if os.uname().sysname != "Darwin":
        return ""
    import ctypes

    system = ctypes.CDLL(None)
    name, size = b"machdep.cpu.brand_string", ctypes.c_size_t(256)
    text = ctypes.create_string_buffer(size.value)
    if system.sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return ""
    return text.value.decode(errors="replace")
