"""From a `.metal` file to something callable: sources, and the one place where kernels are made.

Owns: reading a kernel's source from the package, its includes, and what makes a kernel of it: `mx.fast.metal_kernel`,
or what a test puts in its place (`made_by`). Does not own: shapes and grids (each launcher), or which kernel runs when
(`ops`).

A kernel's template functions are MLX's `header`; its `body`, a few lines that the launcher holds, declares threadgroup
memory and calls one of them. MLX writes the signature between the two from the arrays of the call. What follows from
that, and every kernel keeps to:

- an input of fewer than 8 elements arrives as `constant`, any other as `device`, one without dimensions as a
  reference: a function takes what can be small by a template parameter (`typename Sinks`), never as `device const T*`;
- template values are ints, bools and dtypes, each new set of them one more compilation: what changes from token to
  token (a position, a length) comes as an array without dimensions;
- inputs are contiguous (`ensure_row_contiguous` would copy others whole), outputs new and not set to anything.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Final, TypeAlias, cast

import mlx.core as mx

Template: TypeAlias = Mapping[str, int | bool | mx.Dtype]
"""A kernel's template values by name."""

Size: TypeAlias = tuple[int, int, int]
"""Threads in x, y and z."""

Maker: TypeAlias = Callable[..., Callable[..., list[mx.array]]]
"""What `mx.fast.metal_kernel` is: takes a kernel's names and source, gives what launches it."""

MOST_THREADGROUP_BYTES: Final = 32_768
"""Threadgroup memory that every Apple GPU has."""

_INCLUDE: Final = re.compile(r'^#include "(?P<name>\w+\.h)"$', re.MULTILINE)
_COMMENT: Final = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)

_maker = cast(Maker, mx.fast.metal_kernel)


class Kernel:
    """One kernel of this package: its source and the names of its arrays."""

    def __init__(self, stem: str, *, inputs: Sequence[str], outputs: Sequence[str], body: str) -> None:
        """`stem` is the name of the `.metal` file; `body` calls one of its functions."""
        self.stem = stem
        """The file's name without `.metal`."""
        self.inputs = tuple(inputs)
        """Names of the input arrays, in the order of a call."""
        self.outputs = tuple(outputs)
        """Names of the output arrays."""
        self.body = body
        """What stands between the braces of the kernel function."""
        self._made: tuple[Maker, Callable[..., list[mx.array]]] | None = None

    def __call__(
        self,
        *arrays: mx.array,
        template: Template,
        grid: Size,
        threadgroup: Size,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[mx.Dtype],
    ) -> list[mx.array]:
        """The outputs, of `shapes` and `dtypes`, for the input `arrays`.

        `grid` counts threads, not threadgroups, as MLX does.
        """
        if self._made is None or self._made[0] is not _maker:
            made = _maker(
                name=self.stem,
                input_names=self.inputs,
                output_names=self.outputs,
                source=self.body,
                header=read_source(self.stem),
            )
            self._made = _maker, made
        return self._made[1](
            inputs=list(arrays),
            template=list(template.items()),
            grid=grid,
            threadgroup=threadgroup,
            output_shapes=list(shapes),
            output_dtypes=list(dtypes),
        )


@contextmanager
def made_by(maker: Maker) -> Iterator[None]:
    """Has `maker` make every kernel that is called until the block ends, in place of `mx.fast.metal_kernel`."""
    global _maker
    previous, _maker = _maker, maker
    try:
        yield
    finally:
        _maker = previous


def made_by_mlx() -> bool:
    """Whether MLX itself makes the kernels: then a call is a node of its graph, computed later; else it may be done."""
    return _maker is mx.fast.metal_kernel


@cache
def read_source(stem: str) -> str:
    """The source of `<stem>.metal` as MLX takes it: its headers in place of their includes, without comments.

    Comments go because MLX hashes the text at every call; their lines stay, so that a compiler's message names a line
    of the file where nothing was included before it.
    """
    included: set[str] = set()

    def inline(text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            name = match["name"]
            if name in included:
                return ""
            included.add(name)
            return inline(_read(name))

        return _INCLUDE.sub(replace, text)

    source = inline(_read(f"{stem}.metal"))
    source = _COMMENT.sub(lambda match: "\n" * match[0].count("\n"), source)
    return "\n".join(line.rstrip() for line in source.split("\n"))


def _read(name: str) -> str:
    return (resources.files("gptoss_mlx.metal") / name).read_text("ascii")


@cache
def constant(value: float) -> mx.array:
    """`value` as a float32 array without dimensions, which a kernel takes as `constant float&`; made once."""
    return mx.array(value, dtype=mx.float32)
