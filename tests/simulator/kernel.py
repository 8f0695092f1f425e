"""One compiled kernel: from Metal source to a function that runs over a grid.

Owns: the build, the binding of arguments, and what a fault's record says in words. Does not own: whose signature it is;
`metal_kernel` writes MLX's, `mlx_kernels` takes MLX's own.
"""

import ctypes
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from tests.simulator import native
from tests.simulator.compiler import preprocess, shared_object
from tests.simulator.counts import BufferCounts, Launch, Size
from tests.simulator.elf import Image
from tests.simulator.faults import CompileError, Fault
from tests.simulator.rewrite import Parameter, rewrite

MOST_THREADGROUP_BYTES: Final = 32_768
MOST_THREADS: Final = 1_024

POSITIONS: Final[Mapping[str, str]] = {
    "thread_position_in_grid": "thread_in_grid",
    "thread_position_in_threadgroup": "thread_in_threadgroup",
    "threadgroup_position_in_grid": "threadgroup_in_grid",
    "threads_per_threadgroup": "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup": "dispatched_threads_per_threadgroup",
    "threadgroups_per_grid": "threadgroups_per_grid",
    "threads_per_grid": "threads_per_grid",
    "grid_size": "threads_per_grid",
    "thread_index_in_threadgroup": "thread_index",
    "thread_index_in_simdgroup": "lane",
    "simdgroup_index_in_threadgroup": "simdgroup",
    "simdgroups_per_threadgroup": "simdgroups",
    "dispatch_simdgroups_per_threadgroup": "dispatched_simdgroups",
}
"""Metal's attributes of arguments, and the field of `Position` that each is."""

COMPUTED_POSITIONS: Final[Mapping[str, str]] = {
    "threads_per_simdgroup": "32u",
    "thread_execution_width": "32u",
    "thread_index_in_quadgroup": "position->lane % 4",
    "quadgroup_index_in_threadgroup": "position->thread_index / 4",
    "quadgroups_per_threadgroup": "(position->simdgroups * 8)",
    "dispatch_quadgroups_per_threadgroup": "(position->dispatched_simdgroups * 8)",
    "grid_origin": "0u",
}

_SHARED_FLAGS: Final = (
    "-fno-strict-aliasing",
    "-fno-threadsafe-statics",
    "-ffp-contract=off",
    *("-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"),
    *("-mllvm", "-trap-unreachable"),
    # A variable that was never set is a NaN, not what happened to lie there.
    "-ftrivial-auto-var-init=pattern",
    "-fno-vectorize",
    "-fno-slp-vectorize",
    # A load of a vector stays one, though a single element is used.
    *("-mllvm", "-disable-vector-combine"),
    *("-Wno-everything", "-Wimplicit-float-conversion", "-Werror=vla"),
)
_ANNOUNCED: Final = (
    "-fsanitize=thread",
    *("-mllvm", "-tsan-instrument-func-entry-exit=0"),
    *("-mllvm", "-tsan-instrument-atomics=0"),
    *("-mllvm", "-tsan-compound-read-before-write=1"),
    *("-mllvm", "-tsan-handle-cxx-exceptions=0"),
)
FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "checked": (
        "-O1",
        *_ANNOUNCED,
        # Without "alignment", which would keep clang from merging loads; the runtime sees addresses.
        "-fsanitize=array-bounds,integer-divide-by-zero,shift-exponent",
        "-fsanitize-recover=all",
        "-fstack-clash-protection",
        # Stores of two branches stay two, each with its own line.
        *("-mllvm", "-simplifycfg-sink-common=false", "-mllvm", "-enable-tail-merge=false"),
    ),
    # All is inlined: a load in a function that several places call would count as one instruction.
    "counted": ("-O1", *_ANNOUNCED, "-mllvm", "-inline-threshold=100000"),
    "fast": ("-O2",),
}
"""How a kernel is built: with every check, with loads and stores as they are (the other checks keep clang from merging
some), or with neither."""


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel in Metal's language."""

    text: str
    name: str
    """The kernel function."""
    instance: str = ""
    """The function with its template arguments, if it has any: `rms<float>`."""
    includes: tuple[Path, ...] = ()
    defines: tuple[str, ...] = ()
    function_constants: tuple[tuple[int, int | bool], ...] = ()
    strict_address_spaces: bool = True
    """False erases address spaces: for code that copies structs between them."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An array to launch with."""

    array: np.ndarray
    is_output: bool = False
    is_initialised: bool = True
    """False for an output that the kernel has to fill."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run."""

    seed: int = 0
    checks: bool = True
    counting: bool = False
    divergence_allowed: bool = False
    partial_outputs_allowed: bool = False

    @property
    def build(self) -> str:
        return "counted" if self.counting else "checked" if self.checks else "fast"


class CompiledKernel:
    """A kernel that was built, ready to run."""

    def __init__(self, source: Source, build: str) -> None:
        expanded = preprocess(source.text, includes=source.includes, defines=source.defines)
        rewritten = rewrite(expanded, dict(source.function_constants))
        if source.name not in rewritten.kernels:
            raise CompileError(f"there is no kernel function `{source.name}`")
        self.name = source.name
        self._bind(rewritten.kernels[source.name])
        text = "\n".join(("#include <metal.h>", rewritten.text, self._entry(source.instance or source.name)))
        flags = [*_SHARED_FLAGS, *FLAGS[build]]
        if source.strict_address_spaces:
            flags.append("-DSTRICT_ADDRESS_SPACES")
        native.library()
        path, warnings = shared_object(text, source.name, flags)
        _refuse_implicit_bfloat(warnings)
        self.image = Image(path)
        self._library = ctypes.CDLL(str(path))
        entry = ctypes.cast(self._library.sim_entry, ctypes.c_void_p).value
        assert entry is not None
        self.entry = entry
        self.base = entry - self.image.symbols["sim_entry"]
        variables = self.image.threadgroup_variables
        self.threadgroup_bytes = sum(variable.size for variable in variables)
        self._variable_ranges = (native.Range * len(variables))(
            *((self.base + v.address, self.base + v.address + v.size) for v in variables)
        )

    def _bind(self, parameters: Sequence[Parameter]) -> None:
        self.buffers: dict[str, int] = {}
        """The index of every buffer argument by its name."""
        self.access: dict[str, int] = {}
        self.optional: set[str] = set()
        """Buffers that depend on a function constant, or that a launch may leave unbound."""
        self.dynamic: dict[str, int] = {}
        """The index of every dynamic threadgroup argument."""
        self._expressions: list[str] = []
        for i, parameter in enumerate(parameters):
            kind = f"typename argument_type<Kernel, {i}>::type"
            known = next((a for a in parameter.attributes if a in POSITIONS or a in COMPUTED_POSITIONS), None)
            indexed = {
                match[1]: int(match[2])
                for a in parameter.attributes
                if (match := re.fullmatch(r"(buffer|threadgroup)\s*\(\s*(\d+)\s*\)", a))
            }
            if known is not None and known in POSITIONS:
                self._expressions.append(f"position_argument<{kind}>(first(position->{POSITIONS[known]}))")
            elif known is not None:
                self._expressions.append(f"({kind})({COMPUTED_POSITIONS[known]})")
            elif "threadgroup" in indexed:
                self.dynamic[parameter.name] = indexed["threadgroup"]
                self._expressions.append(f"pointer_argument<{kind}>::of(dynamic[{indexed['threadgroup']}])")
            else:
                index = indexed.get("buffer", max(self.buffers.values(), default=-1) + 1)
                self.buffers[parameter.name] = index
                self.access[parameter.name] = _access(parameter.declaration)
                if any(a.startswith("function_constant") for a in parameter.attributes):
                    self.optional.add(parameter.name)
                self._expressions.append(f"pointer_argument<{kind}>::of(buffers[{index}])")
        if max(self.buffers.values(), default=0) >= native.MOST_BUFFERS:
            raise CompileError(f"{len(self.buffers)} buffers; Metal has {native.MOST_BUFFERS}")

    def _entry(self, instance: str) -> str:
        arguments = ",\n    ".join(self._expressions)
        return (
            '# 1 "entry"\n'
            'extern "C" __attribute__((no_sanitize("thread"), visibility("default")))\n'
            "void sim_entry(const Position* position, void** buffers, void** dynamic) {\n"
            f"  using Kernel = decltype(&{instance});\n"
            f"  {instance}(\n    {arguments});\n"
            "}\n"
        )

    def launch(
        self,
        arguments: Mapping[str, Argument],
        *,
        grid: Size,
        threadgroup: Size,
        options: Options,
        name: str,
        template: Mapping[str, int | bool | mx.Dtype],
        dynamic_bytes: Mapping[str, int] | None = None,
    ) -> Launch:
        """Runs over `grid` threads and gives what it did; outputs are written into their arrays. Raises `Fault`."""
        dynamic_bytes = dynamic_bytes or {}
        threadgroup_bytes = self.threadgroup_bytes + sum(dynamic_bytes.values())
        _check_sizes(name, grid, threadgroup, threadgroup_bytes)
        unbound = self.buffers.keys() - arguments.keys() - self.optional
        if unbound or arguments.keys() - self.buffers.keys():
            raise TypeError(f"{name} takes {sorted(self.buffers)}, not {sorted(arguments)}")
        buffers = (native.Buffer * native.MOST_BUFFERS)()
        kept = [_fill(buffers[self.buffers[n]], self.access[n], a, options) for n, a in arguments.items()]
        record = self._record(options, dynamic_bytes)
        record.buffers = ctypes.cast(buffers, ctypes.POINTER(native.Buffer))
        record.grid[:] = grid
        record.threadgroup[:] = threadgroup
        fault = native.FaultRecord()
        with native.LOCK:
            started = time.perf_counter()
            if not native.library().sim_run(ctypes.byref(record), ctypes.byref(fault)):
                raise MemoryError(f"not enough memory to simulate {name}")
            seconds = time.perf_counter() - started
        del kept
        if fault.kind is not None:
            raise self._fault(fault, name, dynamic_bytes)
        return Launch(
            kernel=name,
            template=dict(template),
            grid=grid,
            threadgroup=threadgroup,
            buffers={n: _counts(buffers[i], options) for n, i in self.buffers.items()} if record.checked else {},
            threads=record.threads,
            threadgroups=record.threadgroups,
            threadgroup_bytes=threadgroup_bytes,
            threadgroup_loaded_bytes=record.threadgroup_loaded_bytes,
            threadgroup_stored_bytes=record.threadgroup_stored_bytes,
            barriers=record.threadgroup_barriers,
            simdgroup_barriers=record.simdgroup_barriers,
            simd_ops=record.simd_operations,
            matrix_ops=record.matrix_operations,
            divergent_ops=record.divergent_operations,
            barrier_places=frozenset(
                (site.file.decode(), site.line) for site in record.barrier_sites[: record.barrier_site_count]
            ),
            seconds=seconds,
        )

    def _record(self, options: Options, dynamic_bytes: Mapping[str, int]) -> native.Launch:
        """What the runtime has to know of this kernel and of how to run it."""
        record = native.Launch()
        record.entry = self.entry
        record.image = native.Range(self.base, self.base + self.image.memory_size)
        begin, end = self.image.threadgroup_range
        record.threadgroup_memory = native.Range(self.base + begin, self.base + end)
        record.threadgroup_variables = ctypes.cast(self._variable_ranges, ctypes.POINTER(native.Range))
        record.threadgroup_variable_count = len(self._variable_ranges)
        record.dynamic_count = max(self.dynamic.values(), default=-1) + 1
        for argument, index in self.dynamic.items():
            record.dynamic_bytes[index] = dynamic_bytes[argument]
        record.seed = options.seed
        record.checked = options.build != "fast"
        record.counting = options.counting
        record.divergence_allowed = options.divergence_allowed
        return record

    def _fault(self, record: native.FaultRecord, name: str, dynamic_bytes: Mapping[str, int]) -> Fault:
        kind = record.kind.decode()
        words = []
        if record.has_access:
            words.append(f"{record.access_bytes} bytes at {self._memory(record.address, dynamic_bytes)}")
        words.append(f"in {name}")
        if record.has_thread:
            words.append(f"by thread {tuple(record.thread)} of threadgroup {tuple(record.threadgroup)}")
        place = None
        if record.site.line:
            place = (record.site.file.decode(), record.site.line)
        elif record.instruction:
            # A return address: the call is before it.
            place = self.image.place(record.instruction - self.base - 1)
        if place is not None:
            words.append(f"at {place[0]}:{place[1]}")
        detail = record.detail.decode()
        return Fault(kind, " ".join(words) + (f" ({detail})" if detail else ""))

    def _memory(self, address: int, dynamic_bytes: Mapping[str, int]) -> str:
        """Which memory an address belongs to, in words."""
        for variable in self.image.threadgroup_variables:
            offset = address - self.base - variable.address
            if -32 <= offset < variable.size + 32:
                return f"byte {offset} of threadgroup memory `{variable.name}` of {variable.size} bytes"
        slot, offset = divmod(address - native.library().sim_arena(), native.ARENA_SLOT_BYTES)
        offset -= native.ARENA_LEAD_BYTES
        if slot == native.MOST_BUFFERS:
            names = ", ".join(f"`{name}` of {dynamic_bytes[name]} bytes" for name in self.dynamic)
            return f"byte {offset} of dynamic threadgroup memory {names}"
        for name, index in self.buffers.items():
            if index == slot:
                return f"byte {offset} of `{name}`"
        return f"address {address:#x}, which is no buffer's"


@lru_cache(maxsize=512)
def compiled(source: Source, build: str) -> CompiledKernel:
    """The kernel of `source`, built once a process."""
    return CompiledKernel(source, build)


def _check_sizes(name: str, grid: Size, threadgroup: Size, threadgroup_bytes: int) -> None:
    if threadgroup_bytes > MOST_THREADGROUP_BYTES:
        raise Fault(
            "too much threadgroup memory",
            f"{name} takes {threadgroup_bytes} bytes; Apple's GPUs have {MOST_THREADGROUP_BYTES}",
        )
    if int(np.prod(threadgroup)) > MOST_THREADS:
        raise Fault("too many threads", f"{name} is launched with {threadgroup}; Metal has {MOST_THREADS} at most")
    if min(*grid, *threadgroup) < 1:
        raise Fault("empty launch", f"{name} is launched with grid {grid} and threadgroup {threadgroup}")


def _access(declaration: str) -> int:
    if re.search(r"\bconstant\b", declaration):
        return native.CONSTANT
    pointee = re.split(r"[*&]", declaration)[0]
    return native.READ_ONLY if re.search(r"\bconst\b", pointee) else native.WRITABLE


def _fill(buffer: native.Buffer, access: int, argument: Argument, options: Options) -> np.ndarray:
    array = argument.array
    assert array.flags.c_contiguous
    if argument.is_initialised:
        buffer.input = array.ctypes.data
    if argument.is_output:
        buffer.output = array.ctypes.data
        buffer.must_be_stored = not argument.is_initialised and not options.partial_outputs_allowed
    buffer.bytes = array.nbytes
    buffer.access = access
    return array


def _counts(buffer: native.Buffer, options: Options) -> BufferCounts:
    return BufferCounts(
        loaded_bytes=buffer.loaded_bytes,
        stored_bytes=buffer.stored_bytes,
        unique_loaded_bytes=buffer.unique_loaded_bytes,
        unique_stored_bytes=buffer.unique_stored_bytes,
        counted_transactions=buffer.transactions if options.counting else None,
    )


_IMPLICIT_BFLOAT: Final = re.compile(r"^(?P<place>.+?:\d+):\d+: warning: .*precision: '.*' to '[^']*(?:bfloat|__bf16)")


def _refuse_implicit_bfloat(warnings: str) -> None:
    for line in warnings.splitlines():
        if match := _IMPLICIT_BFLOAT.match(line):
            raise CompileError(f"{match['place']}: error: a float becomes a bfloat only when it is said: bfloat(x)")
