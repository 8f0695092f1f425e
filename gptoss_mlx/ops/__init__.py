"""The accelerated operations of one forward pass: one interface, and the implementations behind it.

Whoever runs the model asks `current_ops()` for the implementation: the reference in plain MLX, `CpuOps` where MLX has
no GPU, Metal kernels where they are right and faster, or what a test put there with `use_ops`.
"""

from gptoss_mlx.operands import (
    ExpertLinear,
    GrowingKV,
    Heads,
    Linear,
    Norm,
    Place,
    Position,
    Projection,
    QuantizedLinear,
    Rotation,
)
from gptoss_mlx.ops.cpu import CpuOps
from gptoss_mlx.ops.interface import SORT_FROM_PAIRS, Ops, Recording, Routing
from gptoss_mlx.ops.kernel_classes import KERNEL_CLASSES, KernelClass
from gptoss_mlx.ops.kernels import KernelOps
from gptoss_mlx.ops.reference import ReferenceOps
from gptoss_mlx.ops.selection import choose_kernels, current_ops, use_ops

__all__ = [
    "KERNEL_CLASSES",
    "SORT_FROM_PAIRS",
    "CpuOps",
    "ExpertLinear",
    "GrowingKV",
    "Heads",
    "KernelClass",
    "KernelOps",
    "Linear",
    "Norm",
    "Ops",
    "Place",
    "Position",
    "Projection",
    "QuantizedLinear",
    "Recording",
    "ReferenceOps",
    "Rotation",
    "Routing",
    "choose_kernels",
    "current_ops",
    "use_ops",
]
