"""The signature that MLX writes for `mx.fast.metal_kernel`, and the checks that it makes.

As of MLX 0.32: mlx/backend/common/metal_kernel.cpp writes the signature, mlx/backend/metal/custom_kernel.cpp launches.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np

from tests.simulator.compiler import HERE
from tests.simulator.faults import CompileError
from tests.simulator.kernel import MOST_THREADS
from tests.simulator.lines import with_markers

FEWEST_DEVICE_ELEMENTS: Final = 8
"""An input of fewer is `constant`."""

TYPES: Final[Mapping[mx.Dtype, tuple[str, type[np.generic]]]] = {
    mx.bool_: ("bool", np.bool_),
    mx.uint8: ("uint8_t", np.uint8),
    mx.uint16: ("uint16_t", np.uint16),
    mx.uint32: ("uint32_t", np.uint32),
    mx.uint64: ("uint64_t", np.uint64),
    mx.int8: ("int8_t", np.int8),
    mx.int16: ("int16_t", np.int16),
    mx.int32: ("int32_t", np.int32),
    mx.int64: ("int64_t", np.int64),
    mx.float16: ("float16_t", np.float16),
    mx.bfloat16: ("bfloat16_t", np.uint16),
    mx.float32: ("float", np.float32),
}
"""MLX's types: what they are called in a kernel, and the numpy type of the same bytes."""

ATTRIBUTES: Final[Mapping[str, str]] = {
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}
"""Attributes that a kernel gets when its source contains their names, and their types."""

INCLUDES: Final = (HERE / "overlay", Path(mx.__file__).parent / "include")
"""MLX's headers, three of them overlaid."""

PRELUDE: Final = '#include "mlx/backend/metal/kernels/utils.h"\n'
"""What MLX puts before a kernel: types, and names that a kernel must not give to anything else."""

Value = int | bool | mx.Dtype


@dataclass(frozen=True, slots=True)
class Input:
    """An input array as a kernel gets it: its elements in memory, and what MLX says of them."""

    elements: np.ndarray
    dtype: mx.Dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_input(array: mx.array, contiguous: bool) -> Input:
    """`array` as numpy; where `contiguous` is False, with the strides and the memory that it has."""
    if array.dtype not in TYPES:
        raise TypeError(f"{array.dtype} is no type that a kernel of this project takes")
    viewed = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    elements = np.asarray(viewed)
    if contiguous or elements.flags.c_contiguous:
        elements = np.ascontiguousarray(elements).reshape(array.shape)
        return Input(elements, array.dtype, array.shape, tuple(s // elements.itemsize for s in elements.strides))
    strides = tuple(s // elements.itemsize for s in elements.strides)
    if min(strides) < 0:
        raise ValueError("the simulator takes no arrays with negative strides")
    span = sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True)) + 1
    memory = ctypes.string_at(elements.ctypes.data, span * elements.itemsize)
    return Input(np.frombuffer(memory, elements.dtype), array.dtype, array.shape, strides)


def check_text(name: str, *texts: str) -> None:
    """Metal's compiler takes ASCII only where MLX hands it over."""
    for text in texts:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.isascii():
                raise CompileError(f"{name}: line {number} is not ASCII: {line.strip()}")


def check_template(template: Sequence[tuple[str, Value]]) -> None:
    """MLX takes ints, bools and dtypes as template values."""
    for key, value in template:
        if not isinstance(value, (bool, int, mx.Dtype)):
            raise TypeError(f"template value {key} is {value!r}; MLX takes ints, bools and dtypes")
        if isinstance(value, mx.Dtype) and value not in TYPES:
            raise TypeError(f"template value {key} is {value}, which no kernel of this project uses")


def clipped(grid: tuple[int, int, int], threadgroup: tuple[int, int, int]) -> tuple[int, int, int]:
    """A threadgroup of no more threads than the grid, as MLX dispatches."""
    if int(np.prod(threadgroup)) > MOST_THREADS:
        raise ValueError(f"threadgroup {threadgroup} has more than {MOST_THREADS} threads")
    x, y, z = (min(a, b) for a, b in zip(threadgroup, grid, strict=True))
    return x, y, z


def shape_arguments(name: str, given: Input, source: str) -> dict[str, np.ndarray]:
    """The arrays that MLX adds after an input when the source contains their names."""
    if not given.shape:
        return {}
    arguments: dict[str, np.ndarray] = {}
    if f"{name}_shape" in source:
        arguments[f"{name}_shape"] = np.array(given.shape, np.int32)
    if f"{name}_strides" in source:
        arguments[f"{name}_strides"] = np.array(given.strides, np.int64)
    if f"{name}_ndim" in source:
        arguments[f"{name}_ndim"] = np.array(len(given.shape), np.int32)
    return arguments


def to_mlx(elements: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """`elements`, as the numpy type of `TYPES`, as an array of `dtype`."""
    array = mx.array(cast(Any, elements))
    return array.view(mx.bfloat16) if dtype == mx.bfloat16 else array


_SHAPE_TYPES: Final = {
    "shape": "const constant int*",
    "strides": "const constant int64_t*",
    "ndim": "const constant int&",
}


def signature(
    inputs: Mapping[str, Input], outputs: Mapping[str, mx.Dtype], source: str, *, atomic_outputs: bool
) -> list[str]:
    """The arguments of the kernel function."""
    arguments: list[str] = []

    def add(kind: str, name: str) -> None:
        arguments.append(f"{kind} {name} [[buffer({len(arguments)})]]")

    for name, given in inputs.items():
        size = int(np.prod(given.shape))
        space = "constant" if size < FEWEST_DEVICE_ELEMENTS else "device"
        add(f"const {space} {TYPES[given.dtype][0]}{'*' if given.shape else '&'}", name)
        for extra in shape_arguments(name, given, source):
            add(_SHAPE_TYPES[extra.rsplit("_", 1)[1]], extra)
    for name, dtype in outputs.items():
        kind = TYPES[dtype][0]
        add(f"device {f'atomic<{kind}>' if atomic_outputs else kind}*", name)
    arguments += [f"{kind} {name} [[{name}]]" for name, kind in ATTRIBUTES.items() if name in source]
    return arguments


def function_source(
    name: str, header: str, source: str, template: Sequence[tuple[str, Value]], arguments: Sequence[str]
) -> tuple[str, str, str]:
    """The whole text, the kernel function's name, and the instance of it."""
    function = f"custom_kernel_{name}"
    kinds = {k: "bool" if isinstance(v, bool) else "int" if isinstance(v, int) else "typename" for k, v in template}
    parameters = ", ".join(f"{kind} {key}" for key, kind in kinds.items())
    values = ", ".join(str(v).lower() if isinstance(v, (bool, int)) else TYPES[v][0] for _, v in template)
    lines = [
        PRELUDE,
        with_markers(header, name),
        f'# 1 "{name} signature"',
        f"template <{parameters}>" if template else "",
        f"[[kernel]] void {function}(",
        ",\n".join(f"  {argument}" for argument in arguments) + ") {",
        f'# 1 "{name} body"',
        source,
        "}",
        "",
    ]
    return "\n".join(lines), function, f"{function}<{values}>" if template else function
