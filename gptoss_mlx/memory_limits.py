"""MLX's own limits of memory, set once a process; what MLX holds; and how it says that there is no more.

The limits are set when a model is loaded. They only ever lower what was set before:

- wired memory (`mx.set_wired_limit`, with Metal only): what is kept resident, at most the machine's memory less a
  reserve of 8 GiB or 35 %. MLX wires nothing by itself; wiring all that Metal recommends has frozen Macs.
- freed memory that MLX keeps (`mx.set_cache_limit`): a sixteenth of the memory, at most 1 GiB. MLX's own limit is
  one and a half times the memory that Metal recommends.

Owns: those calls. Does not own: the numbers (`memory`), who is told when memory is short (`engine`).
"""

import traceback
from dataclasses import dataclass
from typing import Final

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import Device, this_device
from gptoss_mlx.errors import NotEnoughMemory
from gptoss_mlx.memory import (
    PROCESS_BYTES,
    MemoryEstimate,
    activation_bytes,
    cache_limit,
    gigabytes,
    memory_limit,
    wired_limit,
)

_SAID_BY_MLX: Final = (
    # No memory for an array, of MLX on a processor and on Metal.
    "[malloc] Unable to allocate",
    # More than Metal puts into one buffer.
    "[metal::malloc] Attempting to allocate",
    # More buffers than Metal has.
    "[metal::malloc] Resource limit",
    # CUDA.
    "cudaErrorMemoryAllocation",
    "out of memory",
    # A command buffer that found no memory when it ran.
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
    "Insufficient Memory",
    # What the C++ library throws.
    "std::bad_alloc",
)
"""Parts of the messages of RuntimeErrors that mean that there was no memory."""


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What a model takes and what MLX holds now, in bytes."""

    loaded: bool
    """Whether the weights are in memory: not before the model was loaded, nor while it is unloaded."""
    estimate: MemoryEstimate
    """What the model takes with its whole context; computed."""
    active_bytes: int
    """What MLX's arrays hold now, those of other models of this process included."""
    cache_bytes: int
    """What MLX keeps of freed memory."""
    peak_bytes: int
    """The most that MLX's arrays held since the last turn began."""


def measure_memory(estimate: MemoryEstimate, *, loaded: bool) -> MemoryReport:
    """The report at this moment. May be called on any thread."""
    return MemoryReport(loaded, estimate, mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())


def set_limits(device: Device) -> None:
    """Sets MLX's limits for `device`; lower ones stay as they are."""
    if (cached := cache_limit(device)) > 0 and (before := mx.set_cache_limit(cached)) < cached:
        mx.set_cache_limit(before)
    if device.metal and (wired := wired_limit(device)) > 0:
        before = mx.set_wired_limit(wired)
        # 0 is MLX's default and means that nobody set it.
        if 0 < before < wired:
            mx.set_wired_limit(before)


def has_room(config: ModelConfig, value_bytes: int, more_kv_bytes: int, chunk: int, context: int) -> bool:
    """Whether KV caches of a model of this shape may grow by so much while a `chunk` of a prompt of `context` tokens is
    read, beside all that MLX holds now."""
    device = this_device()
    activations = activation_bytes(config, device, value_bytes, chunk, context)
    return mx.get_active_memory() + more_kv_bytes + activations + PROCESS_BYTES <= memory_limit(device)


def is_shortage(error: BaseException) -> bool:
    """Whether `error` is how MLX, numpy or Python says that there is no memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _SAID_BY_MLX)


def as_shortage(error: BaseException, what: str) -> NotEnoughMemory:
    """The error for callers; `what` says what there was no memory for. `error` becomes its cause.

    The frames that `error` went through let go of the arrays that they hold.
    """
    _let_go(error)
    found = NotEnoughMemory(
        f"there was not enough memory {what} (MLX held {gigabytes(mx.get_active_memory())}: {error}): close what else "
        "needs memory, shorten the conversation, or load the model with a smaller context; the conversation is as it "
        "was, and the model can be used"
    )
    found.__cause__ = error
    return found


def _let_go(error: BaseException) -> None:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if current.__traceback__ is not None:
            traceback.clear_frames(current.__traceback__)
        current = current.__cause__ or current.__context__
