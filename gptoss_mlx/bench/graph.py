"""What a decode step asks of a GPU: its graph, counted in dispatches, without computing anything.

A step is traced by `mx.export_function`, which hands over every node of the graph and knows custom kernels without a
GPU. Counted is what MLX's Metal back-end sends to the GPU for a node (mlx/backend/gpu and mlx/backend/metal):

- a view is none: it is another shape over the same memory (`VIEWS`). A `Reshape` is one where its input does not lie
  in one piece, for then it is a copy;
- a custom kernel is one, and one more for each input that does not lie in one piece: MLX copies it whole;
- `Concatenate` is one for each of its inputs, and a slice whose start is an array two, one of which computes the start;
- attention over 1024 keys and more is two: MLX's own splits there (on Max and Ultra chips), and so do ours, as two
  kernels;
- anything else is one. That holds of `SliceUpdate` as long as its buffer can be overwritten.

MLX's fast operations (RMSNorm, RoPE, attention, dequantising) and what is compiled into one kernel are one node on a
GPU and many on a processor; while a step is traced they are one here, too, so that the count is the same everywhere.

Owns: tracing and counting. Does not own: which step (`shapes`), how long building takes (`build_time`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import Any, Final, TypeAlias, cast

import mlx.core as mx

from gptoss_mlx.config import LayerType
from gptoss_mlx.metal.library import Maker
from gptoss_mlx.ops import KernelOps, Ops, use_ops

VIEWS: Final = frozenset(
    (
        "Broadcast",
        "BroadcastAxes",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
        "View",
    )
)
"""Nodes that send nothing to the GPU; `Flatten`, `Reshape` and `Unflatten` as long as their input is in one piece."""

RESHAPES: Final = frozenset(("Flatten", "Reshape", "Unflatten"))

STARTS: Final = frozenset(("DynamicSlice", "DynamicSliceUpdate"))
"""Nodes whose start is an array, which a kernel of its own turns into an offset."""

SPLIT_FROM_KEYS: Final = 1024
"""From this many keys on, MLX's attention of one token is two kernels."""

UNDER_WAY: Final = 10
"""Command buffers that may be under way before MLX waits for one (MAX_ACTIVE_TASKS in mlx/transforms.cpp)."""

MAKES_SDPA: Final = "scaled_dot_product_attention"

_KERNEL_NAME: Final = re.compile(r"custom_kernel_(.+?)__")

Lengths: TypeAlias = tuple[int, ...]
"""Of dimensions, or of the steps between two values of one."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph."""

    name: str
    """Of the primitive, or of the kernel."""
    dispatches: int
    depth: int
    """Dispatches on the longest way from an input of the step to here, its own included."""
    touched: tuple[tuple[str, int], ...] = ()
    """The memory that it reads and writes: a name for each piece, and how many values of it."""
    made_bytes: int = 0
    """Bytes of its results, unless they are views."""


@dataclass
class Graph:
    """A traced step."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def dispatches(self) -> int:
        """What the step sends to the GPU."""
        return sum(node.dispatches for node in self.nodes)

    @property
    def chain(self) -> int:
        """The longest chain of dispatches that wait for one another."""
        return max((node.depth for node in self.nodes), default=0)

    @property
    def by_name(self) -> dict[str, int]:
        """Dispatches of each kind of node, the most frequent first."""
        counts: Counter[str] = Counter()
        for node in self.nodes:
            counts[node.name] += node.dispatches
        return {name: count for name, count in counts.most_common() if count}

    def command_buffers(self, most_kernels: int, most_mb: int) -> list[list[Node]]:
        """The command buffers that MLX would put the step into, under limits like these.

        It sends one off once it holds more than `most_kernels`, or its kernels touch more than `most_mb` times 2^20
        values, each array counted once a buffer (CommandEncoder in mlx/backend/metal/device.cpp).
        """
        buffers: list[list[Node]] = [[]]
        kernels = values = 0
        seen: set[str] = set()
        for node in self.nodes:
            if not node.dispatches:
                continue
            buffers[-1].append(node)
            kernels += node.dispatches
            values += sum(count for name, count in dict(node.touched).items() if name not in seen)
            seen.update(name for name, _ in node.touched)
            if kernels > most_kernels or values >> 20 > most_mb:
                buffers.append([])
                kernels = values = 0
                seen.clear()
        return [buffer for buffer in buffers if buffer]

    def held_bytes(self, most_kernels: int, most_mb: int) -> int:
        """The most bytes of results that MLX can hold at once while a GPU falls behind, under limits like these.

        What a kernel reads and writes is held until its command buffer is done, and MLX fills another one while
        `UNDER_WAY` are not. Results that are written over their inputs are counted as if they were not.
        """
        made = [sum(node.made_bytes for node in buffer) for buffer in self.command_buffers(most_kernels, most_mb)]
        return max(sum(made[start : start + UNDER_WAY + 1]) for start in range(len(made)))


@dataclass(frozen=True, slots=True)
class Count:
    """What a decode step sends to the GPU, in all and layer by layer."""

    whole: Graph
    layers: Mapping[LayerType, tuple[int, int]]
    """For each kind of layer: dispatches, and by how much one more layer lengthens the chain."""


def trace(step: Callable[[mx.array], Sequence[mx.array]], ops: Ops | None = None, *, tokens: int = 1) -> Graph:
    """The graph of `step` of `[1, tokens]`, computed by `ops` (default: every kernel of ours)."""
    graph, tracer = Graph(), _Tracer()

    def take(event: Mapping[str, Any]) -> None:
        if event["type"] == "primitive":
            graph.nodes.append(tracer.node(event))

    with use_ops(ops or KernelOps(records=False)), single_nodes(_traced_node, compiled=True):
        # In the dtype in which a step's token is the next one's input.
        mx.export_function(take, lambda token: list(step(token)), mx.zeros((1, tokens), dtype=mx.uint32))
    return graph


def count(
    make_step: Callable[[Sequence[LayerType]], Callable[[mx.array], Sequence[mx.array]]], kinds: Sequence[LayerType]
) -> Count:
    """The count for the step that `make_step` makes for layers of these `kinds`."""
    pair: tuple[LayerType, LayerType] = ("sliding_attention", "full_attention")
    base = trace(make_step(pair))
    layers: dict[LayerType, tuple[int, int]] = {}
    for kind in pair:
        one_more = trace(make_step((*pair, kind)))
        layers[kind] = one_more.dispatches - base.dispatches, one_more.chain - base.chain
    return Count(trace(make_step(kinds)), layers)


NodeMaker: TypeAlias = Callable[[str, Sequence[mx.array], Lengths, mx.Dtype], mx.array]
"""Makes one node of this name, with these inputs, whose result has this shape and dtype."""


@contextmanager
def single_nodes(make: NodeMaker, *, compiled: bool) -> Iterator[None]:
    """Has `make` stand in for MLX's fast operations until the block ends, and for mlx-lm's activation if `compiled`.

    A trace takes compiled functions apart; otherwise they are one node by themselves.
    """

    def rms_norm(x: mx.array, weight: mx.array | None, eps: float, **_: Any) -> mx.array:
        return make("rms_norm", [x] if weight is None else [x, weight], x.shape, x.dtype)

    def rope(x: mx.array, dims: int, *, freqs: mx.array | None = None, **_: Any) -> mx.array:
        return make("rope", [x] if freqs is None else [x, freqs], x.shape, x.dtype)

    def attention(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
        more = [array for array in options.values() if isinstance(array, mx.array)]
        return make(MAKES_SDPA, [q, k, v, *more], q.shape, q.dtype)

    def dequantize(
        w: mx.array, scales: mx.array, biases: mx.array, group_size: int = 64, bits: int = 4, **_: Any
    ) -> mx.array:
        return make(
            "dequantize", [w, scales, biases], (*scales.shape[:-1], scales.shape[-1] * group_size), scales.dtype
        )

    def swiglu(gate: mx.array, x: mx.array, **_: Any) -> mx.array:
        return make("swiglu", [gate, x], x.shape, x.dtype)

    places: list[tuple[Any, str, Callable[..., mx.array]]] = [
        (mx.fast, "rms_norm", rms_norm),
        (mx.fast, "rope", rope),
        (mx.fast, "scaled_dot_product_attention", attention),
        (mx, "dequantize", dequantize),
    ]
    if compiled:
        try:
            from mlx_lm.models import activations
        except ImportError:
            pass
        else:
            places.append((activations, "swiglu_oai", swiglu))
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, replacement in places:
            setattr(module, name, replacement)
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)


def _traced_node(name: str, inputs: Sequence[mx.array], shape: Lengths, dtype: mx.Dtype) -> mx.array:
    names = [f"in{number}" for number in range(len(inputs))]
    kernel = cast(Maker, mx.fast.metal_kernel)(name=f"mlx_{name}", input_names=names, output_names=["out"], source="")
    (out,) = kernel(
        inputs=list(inputs),
        # Any template value ends the name, as it does in a kernel of ours.
        template=[("ONE", 1)],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
        output_shapes=[shape],
        output_dtypes=[dtype],
    )
    return out


class _Tracer:
    """Follows which arrays lie in one piece, and how many dispatches each waits for."""

    def __init__(self) -> None:
        self._strides: dict[str, Lengths] = {}
        """Of views; what is not here lies in one piece."""
        self._depths: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        """The array that a view looks at."""

    def node(self, event: Mapping[str, Any]) -> Node:
        """The node of a primitive, as `mx.export_function` describes it."""
        name, inputs, outputs = event["name"], event["inputs"], event["outputs"]
        if name == "CustomKernel":
            match = _KERNEL_NAME.match(event["arguments"][0])
            assert match is not None
            name, own = match[1].removeprefix("mlx_"), not match[1].startswith("mlx_")
            dispatches = 1 + sum(not self._in_one_piece(*array[:2]) for array in inputs if own)
            if name == MAKES_SDPA and inputs[1][1][2] >= SPLIT_FROM_KEYS:
                dispatches += 1
        elif name in VIEWS:
            dispatches = int(self._look_through(event))
        elif name == "AsType":
            dispatches = int(inputs[0][2] != outputs[0][2])
        elif name == "Concatenate":
            dispatches = len(inputs)
        else:
            dispatches = 2 if name in STARTS else 1
        depth = dispatches + max((self._depths.get(array[0], 0) for array in inputs), default=0)
        self._depths.update((array[0], depth) for array in outputs)
        if not dispatches:
            owner = self._owner(inputs[0][0])
            self._owners.update((array[0], owner) for array in outputs)
        touched = tuple((self._owner(array[0]), prod(array[1])) for array in (*inputs, *outputs))
        made_bytes = sum(prod(shape) * dtype.size for _, shape, dtype in outputs) if dispatches else 0
        return Node(name, dispatches, depth, touched, made_bytes)

    def _owner(self, name: str) -> str:
        return self._owners.get(name, name)

    def _look_through(self, event: Mapping[str, Any]) -> bool:
        """Notes how the results of a view lie in memory; whether it has to copy."""
        name, arguments = event["name"], event["arguments"]
        source, shape, _ = event["inputs"][0]
        strides = self._strides.get(source, _packed(shape))
        if name in RESHAPES:
            return not self._in_one_piece(source, shape)
        for target, result, _ in event["outputs"]:
            if name == "Transpose":
                self._strides[target] = tuple(strides[axis] for axis in arguments[0])
            elif name == "Slice":
                self._strides[target] = tuple(a * b for a, b in zip(strides, arguments[2], strict=True))
            elif name in ("Broadcast", "BroadcastAxes"):
                pairs = zip_longest(reversed(shape), reversed(strides), reversed(result))
                self._strides[target] = tuple(0 if have != want else step for have, step, want in pairs)[::-1]
            elif name in ("ExpandDims", "Squeeze"):
                # Dimensions of one have no say in how an array lies.
                rest = iter([step for step, length in zip(strides, shape, strict=True) if length != 1])
                self._strides[target] = tuple(0 if length == 1 else next(rest) for length in result)
            else:
                self._strides[target] = strides if len(strides) == len(result) else _packed(result)
        return False

    def _in_one_piece(self, name: str, shape: Lengths) -> bool:
        strides = self._strides.get(name)
        if strides is None:
            return True
        pairs = zip(shape, strides, _packed(shape), strict=True)
        return all(length == 1 or step == packed for length, step, packed in pairs)


def _packed(shape: Lengths) -> Lengths:
    """The strides of an array in one piece."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))
