"""The kernels that can be chosen or left out one by one, each for a class of sizes.

Owns: their names and the bounds of the classes. Does not own: which are chosen (`gptoss check`, `GPTOSS_KERNELS`), nor
how one is launched (`metal`).

A kernel that wins at one size may lose at another, so a choice is made for a kernel and a class of sizes: keys of the
attention of one token, tokens that are read at once for everything else.
"""

from typing import Final, NamedTuple


class KernelClass(NamedTuple):
    """One kernel, or several that only make sense together, at one class of sizes."""

    op: str
    """The kernel's name."""
    least: int
    """The smallest size of the class; the next class of the same kernel begins where this one ends."""

    def __str__(self) -> str:
        return f"{self.op}@{self.least}"


KERNEL_CLASSES: Final = (
    KernelClass("norm_qkv_rope", 1),
    KernelClass("ring_attention", 1),
    KernelClass("full_attention", 1),
    KernelClass("full_attention", 1024),
    KernelClass("linear_residual", 1),
    KernelClass("norm_router", 1),
    KernelClass("expert_gate_up", 1),
    KernelClass("expert_down", 1),
    KernelClass("norm_lm_head", 1),
    KernelClass("grouped_experts", 2),
    KernelClass("grouped_experts", 32),
    KernelClass("grouped_experts", 128),
    KernelClass("banded_attention", 2),
    KernelClass("banded_attention", 9),
    KernelClass("causal_attention", 2),
    KernelClass("causal_attention", 9),
)
"""Every class, those of one kernel from small to large. Sizes are keys for `full_attention`, else tokens."""


def kernel_class(op: str, size: int) -> KernelClass:
    """The class that `size` falls into."""
    return max(one for one in KERNEL_CLASSES if one.op == op and one.least <= size)
