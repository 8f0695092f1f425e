"""Whether a model fits this machine, before a byte of it is downloaded: disk and memory, with what would help."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert.plan import DENSE_BITS
from gptoss_mlx.device import Device
from gptoss_mlx.errors import NotEnoughDisk, NotEnoughMemory, UsageError

HEADROOM_BYTES: Final = 3 << 29
"""What a run takes besides weights and KV cache: activations of a prefill chunk, MLX's buffers, Python. 1.5 GiB."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model takes and what there is. GB are 10^9 bytes."""

    name: str
    download_bytes: int
    """What has to come from the hub yet."""
    result_bytes: int
    """The finished model on disk."""
    disk_needed_bytes: int
    """What the disk must have free now, at the fullest moment; what is there already is counted."""
    disk_free_bytes: int
    context: int
    """Tokens of conversation that the figures of memory are for."""
    weights_bytes: int
    kv_bytes: int
    memory_bytes: int
    """What the machine has; on a Mac, what Metal recommends to use of it."""
    on_gpu: bool
    """Whether `memory_bytes` is Metal's figure."""
    advice: tuple[str, ...]
    """Sentences about what would fit, or fit better."""
    kept_bytes: int = 0
    """What the hub's cache gets of it, to stay."""
    cache_free_bytes: int | None = None
    """What the cache's disk has free, where that is another disk; on the same one it is part of the need."""

    @property
    def memory_needed_bytes(self) -> int:
        """Weights, KV cache and the rest."""
        return self.weights_bytes + self.kv_bytes + HEADROOM_BYTES

    @property
    def disk_ok(self) -> bool:
        """Whether download and conversion fit the disk."""
        return self.disk_needed_bytes <= self.disk_free_bytes and self.cache_ok

    @property
    def cache_ok(self) -> bool:
        """Whether the cache's disk has room, where that is another one."""
        return self.cache_free_bytes is None or self.kept_bytes <= self.cache_free_bytes

    @property
    def memory_ok(self) -> bool:
        """Whether the model can run here."""
        return self.memory_needed_bytes <= self.memory_bytes

    def lines(self) -> list[str]:
        """A table for people, and the advice."""
        limit = "Metal recommends" if self.on_gpu else "this machine has"
        rows = [
            ("download", self.download_bytes, "from the hub"),
            ("result", self.result_bytes, "on disk, ready to run"),
            ("disk", self.disk_needed_bytes, f"more while it is made; {gigabytes(self.disk_free_bytes)} free"),
            ("memory", self.memory_needed_bytes, f"to run; {limit} {gigabytes(self.memory_bytes)}"),
            ("  weights", self.weights_bytes, ""),
            ("  KV cache", self.kv_bytes, f"for {self.context:,} tokens"),
            ("  the rest", HEADROOM_BYTES, "activations, buffers"),
        ]
        if self.kept_bytes:
            free = "" if self.cache_free_bytes is None else f"; {gigabytes(self.cache_free_bytes)} free there"
            rows.insert(3, ("hub's cache", self.kept_bytes, f"kept there{free}"))
        disk_ok = self.disk_needed_bytes <= self.disk_free_bytes
        marks = {"disk": disk_ok, "memory": self.memory_ok, "hub's cache": self.cache_ok}
        table = [
            f"{label:<12}{gigabytes(value):>9}  {words}{'' if marks.get(label, True) else ': DOES NOT FIT'}".rstrip()
            for label, value, words in rows
        ]
        return [*table, *self.advice]

    def check(self) -> None:
        """Raises `NotEnoughDisk` or `NotEnoughMemory`, with numbers and advice."""
        advice = "; ".join((*self.advice, "--force tries nevertheless"))
        if not self.cache_ok:
            raise NotEnoughDisk(
                f"{self.name}: the hub's cache would get {gigabytes(self.kept_bytes)} and its disk has "
                f"{gigabytes(self.cache_free_bytes or 0)} free; free some, set HF_HUB_CACHE to a folder on another "
                f"disk, or leave out --keep-download; {advice}"
            )
        if not self.disk_ok:
            short = self.disk_needed_bytes - self.disk_free_bytes
            raise NotEnoughDisk(
                f"{self.name} takes {gigabytes(self.disk_needed_bytes)} more of the disk and "
                f"{gigabytes(self.disk_free_bytes)} are free: free {gigabytes(short)}, or set GPTOSS_HOME to a folder "
                f"on another disk; {advice}"
            )
        if not self.memory_ok:
            raise NotEnoughMemory(
                f"{self.name} takes {gigabytes(self.memory_needed_bytes)} of memory with {self.context:,} tokens of "
                f"context and {'Metal recommends' if self.on_gpu else 'this machine has'} "
                f"{gigabytes(self.memory_bytes)}; {advice}"
            )


def make_fit(
    name: str,
    config: ModelConfig,
    device: Device,
    *,
    dense_bits: int | None,
    weights_of: Callable[[int | None], int],
    download_bytes: int,
    disk_needed_bytes: int,
    disk_free_bytes: int,
    context: int,
) -> Fit:
    """What `name` takes; `weights_of(dense_bits)` gives the size of a conversion, or raises `UsageError`."""
    memory = device.memory_bytes if device.working_set_bytes is None else device.working_set_bytes
    weights = weights_of(dense_bits)
    kv_bytes = config.kv_bytes_per_token() * context + config.kv_window_bytes()
    advice: list[str] = []
    if weights + kv_bytes + HEADROOM_BYTES > memory:
        advice = list(_memory_advice(config, weights, dense_bits, weights_of, context, memory))
    return Fit(
        name=name,
        download_bytes=download_bytes,
        result_bytes=weights,
        disk_needed_bytes=disk_needed_bytes,
        disk_free_bytes=disk_free_bytes,
        context=context,
        weights_bytes=weights,
        kv_bytes=kv_bytes,
        memory_bytes=memory,
        on_gpu=device.working_set_bytes is not None,
        advice=tuple(advice),
    )


def _memory_advice(
    config: ModelConfig,
    weights: int,
    dense_bits: int | None,
    weights_of: Callable[[int | None], int],
    context: int,
    memory: int,
) -> list[str]:
    """What would make it fit: a shorter context, smaller dense weights, or another model."""
    advice = []
    for_context = memory - HEADROOM_BYTES - weights - config.kv_window_bytes()
    if (tokens := for_context // config.kv_bytes_per_token() // 1024 * 1024) > 0:
        advice.append(f"a context of {tokens:,} tokens fits: --context {tokens}")
    kv_bytes = config.kv_bytes_per_token() * context + config.kv_window_bytes()
    smaller = [bits for bits in DENSE_BITS if dense_bits is None or bits < dense_bits]
    # Weights that the source has quantised already cannot be made smaller.
    with suppress(UsageError):
        needed = {bits: weights_of(bits) + kv_bytes + HEADROOM_BYTES for bits in smaller}
        if fitting := [bits for bits in smaller if needed[bits] <= memory]:
            advice.append(f"--dense-bits {fitting[0]} takes {gigabytes(needed[fitting[0]])}, which fits")
        elif smaller:
            advice.append(f"even --dense-bits {smaller[-1]} takes {gigabytes(needed[smaller[-1]])}")
    if config.num_local_experts > 32:
        advice.append("gpt-oss-20b takes less than a quarter of it: gptoss pull 20b")
    return advice


def gigabytes(number: int) -> str:
    """Bytes for people who compare them with a disk or a download: in 10^9, or 10^6 when there are few."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
