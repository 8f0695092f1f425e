"""How much work MLX puts into one of Metal's command buffers: set before MLX is imported, for it reads that once.

MLX sends a command buffer off after 40 or 50 kernels, or once the arrays that they touch pass a limit that it calls MB
and counts in values (mlx/backend/metal/device.cpp). A stack of experts counts whole, though a token visits four of
them, so gpt-oss passes the limit with almost every product of the experts: 27 to 62 buffers a token for the 20b and 75
to 93 for the 120b, as `gptoss bench --graph` counts, each some 20 us of GPU time (mlx#4521, M3 Ultra). Fewer and larger
ones were measured by others at +5 to +13 % (mlx#4521, vllm-metal#637, mlxcel#353 on M1 Ultra, with limits of 1000
kernels and 2000 "MB") and at nothing on M5 Max (mlxcel#360), hence the chips below.

What a kernel reads and writes stays in memory until its command buffer is done, and MLX fills one more while ten are
under way. While decoding that is little. But of a prompt, a layer leaves 101 MB for every 512 tokens: with the limits
above, all of them at once, 2.4 GB for the 20b and 3.6 GB for the 120b. It is not values that tell a prompt from a
token, but kernels, 25 a layer against 6. So the limit of values is the one above, and that of kernels is such that a
buffer holds about one layer of a prompt and four of a token.

While decoding, a step is queued before the last one has ended. Where attention is a kernel of ours, that one writes
into nothing that the last one reads (`cache`). On MLX's own kernels alone, a step is 46 command buffers and more, and a
layer's last reader has ended when the next write into its body is queued. In between, if `gptoss check` keeps other
kernels and not that of full attention, seven or eight buffers (20b) are too few for it, and MLX copies the body once a
token: 24 KB for each token of the context. `GPTOSS_COMMAND_BUFFERS=off` is better there, at long context.

Owns: these limits, and the chip's name without MLX. `GPTOSS_COMMAND_BUFFERS=off` leaves MLX its own.
"""

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Final

SWITCH: Final = "GPTOSS_COMMAND_BUFFERS"
"""The environment variable that turns this off, by the value "off"."""

LIMITS: Final[Mapping[str, int]] = {"MLX_MAX_OPS_PER_BUFFER": 24, "MLX_MAX_MB_PER_BUFFER": 2000}
"""What is set: 6 or 7 command buffers a token for the 20b and 10 or 11 for the 120b, and at most 1.2 GB of a prompt's
results at once; on MLX's own kernels 46 to 49 and 69 to 73, and 1.9 GB."""

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
            environment[name] = _set_here[name] = str(value)


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
