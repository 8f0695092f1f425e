"""A machine with a Metal device that is not there: kernels that do as a test says, and a clock that they drive."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.device import Device
from gptoss_mlx.kernel_check.choice import Bench
from gptoss_mlx.kernel_check.run import KernelCheck
from gptoss_mlx.kernel_check.shapes import random_model
from gptoss_mlx.kernel_check.timing import Machine
from gptoss_mlx.kernel_check.trials import Trial
from gptoss_mlx.model import Model
from gptoss_mlx.ops import Heads, ReferenceOps
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass, kernel_class
from tests.random_checkpoint import tiny_config

STOCK_SECONDS = 1e-3
"""One operation of the stock path."""

OPERATIONS = (
    "norm_qkv_rope",
    "ring_attention",
    "full_attention",
    "growing_attention",
    "banded_attention",
    "linear_residual",
    "norm_router",
    "expert_gate_up",
    "expert_down",
    "norm_lm_head",
    "norm_lm_head_argmax",
)


@dataclass
class Behaviour:
    """What a simulated kernel does."""

    seconds: float = STOCK_SECONDS / 2
    change: Callable[[mx.array], mx.array] | None = None
    """From the right result (each of them) to the one that it gives."""
    fault: str | None = None
    """What its evaluation raises."""
    only_together: bool = False
    """It behaves only where other kernels are enabled, too; alone it is right."""
    calls: int = 0


@dataclass
class SimulatedDevice:
    """A machine on which each kernel behaves as `kernels` says; those not in it are right and twice as fast."""

    kernels: dict[str, Behaviour] = field(default_factory=dict)
    """By class, such as "full_attention@1"."""
    stock_fault: str | None = None
    """What every evaluation of the stock path raises."""
    now: float = 0.0
    pending: float = 0.0
    fault: str | None = None
    evaluations: int = 0

    def clock(self) -> float:
        return self.now

    def evaluate(self, arrays: Sequence[mx.array]) -> None:
        # Arrays whose values are asked for are computed then; those of a timing need not be.
        self.evaluations += 1
        self.now += self.pending
        self.pending = 0.0
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise RuntimeError(fault)

    def make_ops(self, enabled: frozenset[KernelClass]) -> "SimulatedOps":
        return SimulatedOps(self, enabled)

    @property
    def machine(self) -> Machine:
        return Machine(self.evaluate, self.clock)

    def bench(self, **changes: Any) -> Bench:
        facts: dict[str, Any] = {
            "name": "Apple M9",
            "architecture": "applegpu_g99",
            "metal": True,
            "gpu": True,
            "memory_bytes": 2**34,
            "working_set_bytes": 2**33,
            "cpu_cores": 8,
        }
        return Bench(Device(**(facts | changes)), self.make_ops, self.make_ops(frozenset()), serves_all, self.machine)

    def kernel_check(self, model: Model, **options: Any) -> KernelCheck:
        stock = self.make_ops(frozenset())
        return KernelCheck(model, self.make_ops, stock, **{"serves": serves_all, "machine": self.machine} | options)


def serves_all(trial: Trial, layer: DecoderLayer) -> bool:
    return True


class SimulatedOps(ReferenceOps):
    """The reference, changed and timed as the device says."""

    def __init__(self, device: SimulatedDevice, enabled: frozenset[KernelClass]) -> None:
        self.device = device
        self.enabled = enabled

    def keeps_recent(self, heads: Heads, dtype: mx.Dtype, most_keys: int) -> bool:
        return kernel_class("full_attention", most_keys) in self.enabled

    def run(self, name: str, arguments: tuple[Any, ...]) -> Any:
        results = getattr(ReferenceOps, name)(self, *arguments)
        kernel = class_of(name, arguments)
        if kernel not in self.enabled:
            self.device.pending += STOCK_SECONDS
            self.device.fault = self.device.fault or self.device.stock_fault
            return results
        behaviour = self.device.kernels.get(str(kernel), Behaviour())
        behaviour.calls += 1
        self.device.pending += behaviour.seconds
        if behaviour.only_together and len(self.enabled) == 1:
            return results
        self.device.fault = self.device.fault or behaviour.fault
        if behaviour.change is None:
            return results
        return tuple(map(behaviour.change, results)) if isinstance(results, tuple) else behaviour.change(results)


def _operation(name: str) -> Callable[..., Any]:
    return lambda ops, *arguments: ops.run(name, arguments)


for _name in OPERATIONS:
    setattr(SimulatedOps, _name, _operation(_name))


def class_of(name: str, arguments: tuple[Any, ...]) -> KernelClass | None:
    """The class of a call; None where no kernel serves it."""
    first = arguments[0]
    match name:
        case "full_attention" if first.shape[2] > 1:
            return kernel_class("causal_attention", first.shape[2])
        case "full_attention":
            return None
        case "growing_attention":
            return kernel_class("full_attention", arguments[3].most + 1)
        case "banded_attention":
            return kernel_class(name, first.shape[2])
        case "expert_gate_up" | "expert_down" if arguments[1].tokens > 1:
            return kernel_class("grouped_experts", arguments[1].tokens)
        case "norm_lm_head_argmax":
            return kernel_class("norm_lm_head", 1)
        case "expert_gate_up" | "expert_down" | "ring_attention":
            return kernel_class(name, 1)
        case _:
            return kernel_class(name, 1) if first.shape[1] == 1 else None


def small_model(dtype: mx.Dtype = mx.float32, **changes: Any) -> Model:
    """A model of one layer in which a trial takes milliseconds."""
    config = tiny_config(head_dim=64, num_attention_heads=4, vocab_size=100, num_hidden_layers=2, **changes)
    return random_model(ModelConfig.from_dict(config), dtype)


def names(kernels: Sequence[KernelClass] = KERNEL_CLASSES) -> list[str]:
    return [str(kernel) for kernel in kernels]
