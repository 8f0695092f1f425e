"""Whether a model fits this machine, before a byte of it is downloaded: disk and memory, with what would help."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert.plan import DENSE_BITS, PlannedFile
from gptoss_mlx.device import Device
from gptoss_mlx.errors import NotEnoughDisk, NotEnoughMemory, UsageError
from gptoss_mlx.memory import Needs, gigabytes
from gptoss_mlx.weights import tensor_needs


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
    """As they lie in memory once the model is loaded."""
    kv_bytes: int
    rest_bytes: int
    """Activations of a prefill chunk, what MLX keeps of freed memory, and the process."""
    memory_bytes: int
    """What the machine has; on a Mac, what Metal recommends to use of it."""
    on_gpu: bool
    """Whether `memory_bytes` is Metal's figure."""
    longest_context: int
    """Tokens of conversation that fit beside the model, at most what it was made for; 0: none."""
    advice: tuple[str, ...]
    """Sentences about what would fit, or fit better."""
    kept_bytes: int = 0
    """What the hub's cache gets of it, to stay."""
    cache_free_bytes: int | None = None
    """What the cache's disk has free, where that is another disk; on the same one it is part of the need."""

    @property
    def memory_needed_bytes(self) -> int:
        """Weights, KV cache and the rest."""
        return self.weights_bytes + self.kv_bytes + self.rest_bytes

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
            ("  KV cache", self.kv_bytes, f"for {self.context:,} tokens; {self.longest_context:,} fit"),
            ("  the rest", self.rest_bytes, "activations, buffers"),
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
    files_of: Callable[[int | None], Sequence[PlannedFile]],
    download_bytes: int,
    disk_needed_bytes: int,
    disk_free_bytes: int,
    context: int,
) -> Fit:
    """What `name` takes; `files_of(dense_bits)` gives the files of a conversion, or raises `UsageError`."""

    def needs_of(bits: int | None) -> Needs:
        tensors = [tensor for file in files_of(bits) for tensor in file.tensors]
        values = [(tensor.name, tensor.dtype, math.prod(tensor.shape)) for tensor in tensors]
        return tensor_needs(config, values, device)

    needs = needs_of(dense_bits)
    estimate = needs.estimate(device, context)
    return Fit(
        name=name,
        download_bytes=download_bytes,
        result_bytes=sum(file.nbytes for file in files_of(dense_bits)),
        disk_needed_bytes=disk_needed_bytes,
        disk_free_bytes=disk_free_bytes,
        context=context,
        weights_bytes=estimate.weights_bytes,
        kv_bytes=estimate.kv_bytes,
        rest_bytes=estimate.activation_bytes + estimate.buffer_bytes,
        memory_bytes=estimate.limit_bytes,
        on_gpu=estimate.on_metal,
        longest_context=needs.longest_context(device),
        advice=() if estimate.fits else tuple(_memory_advice(needs, device, dense_bits, needs_of, context)),
    )


def _memory_advice(
    needs: Needs, device: Device, dense_bits: int | None, needs_of: Callable[[int | None], Needs], context: int
) -> list[str]:
    """What would make it fit: a shorter context, smaller dense weights, or another model."""
    advice = []
    if (tokens := needs.longest_context(device) // 1024 * 1024) > 0:
        advice.append(f"a context of {tokens:,} tokens fits: --context {tokens}")
    smaller = [bits for bits in DENSE_BITS if dense_bits is None or bits < dense_bits]
    # Weights that the source has quantised already cannot be made smaller.
    with suppress(UsageError):
        estimates = {bits: needs_of(bits).estimate(device, context) for bits in smaller}
        if fitting := [bits for bits in smaller if estimates[bits].fits]:
            needed = estimates[fitting[0]].needed_bytes
            advice.append(f"--dense-bits {fitting[0]} takes {gigabytes(needed)}, which fits")
        elif smaller:
            advice.append(f"even --dense-bits {smaller[-1]} takes {gigabytes(estimates[smaller[-1]].needed_bytes)}")
    if needs.config.num_local_experts > 32:
        advice.append("gpt-oss-20b takes less than a quarter of it: gptoss pull 20b")
    return advice
