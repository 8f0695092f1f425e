"""MLX's own kernels in the simulator, from the headers that come with the installed MLX: what ours are compared with,
and how the simulator itself is checked.

Each function launches as MLX's Metal back-end does (the same grid, threadgroup and function constants) and gives the
result and what the launch did. bfloat16 arrays are MLX's; others may be numpy's.
"""

from collections.abc import Mapping
from functools import cache
from math import ceil, prod
from typing import Any, Final, TypeAlias, cast

import mlx.core as mx
import numpy as np

from tests.simulator.counts import Launch, Size
from tests.simulator.kernel import Argument, Options, Source, compiled
from tests.simulator.metal_kernel import INCLUDES, PRELUDE, TYPES, read_input, to_mlx

Array: TypeAlias = mx.array | np.ndarray

ROW_READS: Final = 4
"""Elements that a thread of `softmax_single_row` takes."""
QMV_ROWS: Final = 8
"""Rows of a threadgroup in `fp_qmv`."""
QMM_TILE: Final = 32
MXFP4: Final = "32, 4"
"""Group size and bits, as template values."""
FUNCTION_CONSTANTS: Final = {"has_mask": 20, "query_transposed": 21, "do_causal": 22, "bool_mask": 23, "float_mask": 24}
_QUANTIZED: Final = ("steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h")
HAS_SINKS: Final = 25
BLOCKS: Final = 26


def softmax(x: Array, options: Options | None = None) -> tuple[mx.array, Launch]:
    """Softmax over the rows of `x` [rows, n], by `softmax_single_row` with float32 sums."""
    x = _array(x)
    rows, n = x.shape
    threads = ceil(n / ROW_READS / 32) * 32
    kind = TYPES[x.dtype][0]
    return _run(
        _source(("softmax.h",), "softmax_single_row", f"softmax_single_row<{kind}, float>"),
        {"in": x, "axis_size": np.int32(n)},
        {"out": ((rows, n), x.dtype)},
        grid=(rows * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        options=options,
    )


def sdpa_vector(
    queries: Array,
    keys: Array,
    values: Array,
    *,
    scale: float,
    sinks: Array | None = None,
    options: Options | None = None,
) -> tuple[mx.array, Launch]:
    """Attention of one position by `sdpa_vector`: queries [heads, 64], keys and values [kv_heads, n, 64]."""
    q, k, v = _array(queries), _array(keys), _array(values)
    heads, head_dim = q.shape
    kv_heads, n, _ = k.shape
    inputs: dict[str, Array | np.generic] = {"queries": q, "keys": k, "values": v}
    inputs |= {"gqa_factor": np.int32(heads // kv_heads), "N": np.int32(n), "scale": np.float32(scale)}
    inputs |= _strides(n, head_dim)
    if sinks is not None:
        inputs |= {"sinks": _array(sinks), "num_q_heads": np.int32(heads)}
    kind = TYPES[q.dtype][0]
    return _run(
        _source(
            ("sdpa_vector.h",),
            "sdpa_vector",
            f"sdpa_vector<{kind}, {head_dim}>",
            {**dict.fromkeys(FUNCTION_CONSTANTS.values(), False), HAS_SINKS: sinks is not None, BLOCKS: 0},
        ),
        inputs,
        {"out": ((heads, head_dim), q.dtype)},
        grid=(heads * 1024, 1, 1),
        threadgroup=(1024, 1, 1),
        options=options,
    )


def sdpa_vector_2pass(
    queries: Array,
    keys: Array,
    values: Array,
    *,
    scale: float,
    sinks: Array | None = None,
    blocks: int = 128,
    options: Options | None = None,
) -> tuple[mx.array, tuple[Launch, Launch]]:
    """The same by `sdpa_vector_2pass_1` over `blocks` parts (32, 64, ..., 1024) and `sdpa_vector_2pass_2`."""
    q, k, v = _array(queries), _array(keys), _array(values)
    heads, head_dim = q.shape
    kv_heads, n, _ = k.shape
    kind = TYPES[q.dtype][0]
    inputs: dict[str, Array | np.generic] = {"queries": q, "keys": k, "values": v}
    inputs |= {"N": np.int32(n), "scale": np.float32(scale)} | _strides(n, head_dim)
    if sinks is not None:
        inputs["sinks"] = _array(sinks)
    first = _source(
        ("sdpa_vector.h",),
        "sdpa_vector_2pass_1",
        f"sdpa_vector_2pass_1<{kind}, {head_dim}>",
        {**dict.fromkeys(FUNCTION_CONSTANTS.values(), False), HAS_SINKS: sinks is not None, BLOCKS: blocks},
    )
    (partials, sums, maxs), first_launch = _run_all(
        first,
        inputs,
        {
            "out": ((heads, blocks, head_dim), q.dtype),
            "sums": ((heads, blocks), mx.float32),
            "maxs": ((heads, blocks), mx.float32),
        },
        grid=(32 * kv_heads, heads // kv_heads, blocks),
        threadgroup=(32, heads // kv_heads, 1),
        options=options,
    )
    second = _source(("sdpa_vector.h",), "sdpa_vector_2pass_2", f"sdpa_vector_2pass_2<{kind}, {head_dim}>")
    result, second_launch = _run(
        second,
        {"partials": partials, "sums": sums, "maxs": maxs, "blocks": np.int32(blocks)},
        {"out": ((heads, head_dim), q.dtype)},
        grid=(heads * 1024, 1, 1),
        threadgroup=(1024, 1, 1),
        options=options,
    )
    return result, (first_launch, second_launch)


def qmv_mxfp4(x: Array, blocks: Array, scales: Array, options: Options | None = None) -> tuple[mx.array, Launch]:
    """`x` [rows, k] times MXFP4 weights: blocks uint32 [n, k / 8], scales uint8 [n, k / 32]."""
    x, blocks, scales = _array(x), _array(blocks), _array(scales)
    (rows, k), n = x.shape, blocks.shape[0]
    kernel = "fp_qmv_fast" if _is_fast(n, k) else "fp_qmv"
    return _run(
        _source(_QUANTIZED, kernel, f"{kernel}<{TYPES[x.dtype][0]}, {MXFP4}, false>"),
        {"w": blocks, "scales": scales, "x": x, "in_vec_size": np.int32(k), "out_vec_size": np.int32(n)},
        {"y": ((rows, n), x.dtype)},
        grid=(rows * 32, ceil(n / QMV_ROWS) * 2, 1),
        threadgroup=(32, 2, 1),
        options=options,
    )


def gather_qmv_mxfp4(
    x: Array, blocks: Array, scales: Array, experts: Array, options: Options | None = None
) -> tuple[mx.array, Launch]:
    """Rows of `x` [rows, k], each batch / rows times, times the weights of the experts `experts` (uint32 [batch]).

    Blocks uint32 [experts, n, k / 8], scales uint8 [experts, n, k / 32]; gives [batch, n].
    """
    x, blocks, scales, experts = _array(x), _array(blocks), _array(scales), _array(experts)
    (rows, k), (count, n, words), batch = x.shape, blocks.shape, experts.shape[0]
    kernel = "fp_gather_qmv_fast" if _is_fast(n, k) else "fp_gather_qmv"
    lhs = (np.arange(batch) * rows // batch).astype(np.uint32)
    shapes: dict[str, Array | np.generic] = {
        "x_batch_ndims": np.int32(1),
        "x_shape": np.array([rows, 1, k], np.int32),
        "x_strides": np.array([k, k, 1], np.int64),
        "w_batch_ndims": np.int32(1),
        "w_shape": np.array([count, n, words], np.int32),
        "w_strides": np.array([n * words, words, 1], np.int64),
        "s_strides": np.array([n * (k // 32), k // 32, 1], np.int64),
        "batch_ndims": np.int32(1),
        "batch_shape": np.array([batch], np.int32),
        "lhs_strides": np.array([1], np.int64),
        "rhs_strides": np.array([1], np.int64),
    }
    inputs: dict[str, Array | np.generic] = {"w": blocks, "scales": scales, "x": x, "lhs_indices": lhs}
    inputs |= {"rhs_indices": experts, "in_vec_size": np.int32(k), "out_vec_size": np.int32(n)}
    return _run(
        _source(_QUANTIZED, kernel, f"{kernel}<{TYPES[x.dtype][0]}, {MXFP4}>"),
        inputs | shapes,
        {"y": ((batch, n), x.dtype)},
        grid=(32, ceil(n / QMV_ROWS) * 2, batch),
        threadgroup=(32, 2, 1),
        options=options,
    )


def qmm_mxfp4(x: Array, blocks: Array, scales: Array, options: Options | None = None) -> tuple[mx.array, Launch]:
    """What `qmv_mxfp4` gives, by `fp_qmm_t`: tiles of 32 rows and simdgroup matrices."""
    x, blocks, scales = _array(x), _array(blocks), _array(scales)
    (rows, k), n = x.shape, blocks.shape[0]
    aligned = str(n % QMM_TILE == 0).lower()
    return _run(
        _source(
            _QUANTIZED,
            "fp_qmm_t",
            f"fp_qmm_t<{TYPES[x.dtype][0]}, {MXFP4}, {aligned}, false>",
        ),
        {"w": blocks, "scales": scales, "x": x, "K": np.int32(k), "N": np.int32(n), "M": np.int32(rows)},
        {"y": ((rows, n), x.dtype)},
        grid=(ceil(n / QMM_TILE) * 32, ceil(rows / QMM_TILE) * 2, 2),
        threadgroup=(32, 2, 2),
        options=options,
    )


def _is_fast(n: int, k: int) -> bool:
    return n % QMV_ROWS == 0 and k % 512 == 0


def _strides(n: int, head_dim: int) -> dict[str, np.generic]:
    """Of keys and values [kv_heads, n, head_dim]."""
    return {
        f"{tensor}_{axis}_stride": np.uint64(stride)
        for tensor in "kv"
        for axis, stride in (("head", n * head_dim), ("seq", head_dim))
    }


def _array(array: Array) -> mx.array:
    return array if isinstance(array, mx.array) else mx.array(cast(Any, array))


@cache
def _text(headers: tuple[str, ...]) -> str:
    return PRELUDE + "".join(f'#include "mlx/backend/metal/kernels/{name}"\n' for name in headers)


def _source(
    headers: tuple[str, ...], name: str, instance: str, constants: Mapping[int, int | bool] | None = None
) -> Source:
    # Steel and the quantized kernels copy structs between address spaces.
    return Source(
        _text(headers),
        name,
        instance,
        includes=INCLUDES,
        function_constants=tuple(sorted((constants or {}).items())),
        strict_address_spaces=headers is not _QUANTIZED,
    )


Outputs: TypeAlias = Mapping[str, tuple[tuple[int, ...], mx.Dtype]]


def _run(
    source: Source,
    inputs: Mapping[str, Array | np.generic],
    outputs: Outputs,
    *,
    grid: Size,
    threadgroup: Size,
    options: Options | None,
) -> tuple[mx.array, Launch]:
    (result,), launch = _run_all(source, inputs, outputs, grid=grid, threadgroup=threadgroup, options=options)
    return result, launch


def _run_all(
    source: Source,
    inputs: Mapping[str, Array | np.generic],
    outputs: Outputs,
    *,
    grid: Size,
    threadgroup: Size,
    options: Options | None,
) -> tuple[list[mx.array], Launch]:
    options = options or Options()
    assert prod(threadgroup) <= 1024
    kernel = compiled(source, options.build)
    # Arguments of a batch that there is none of: MLX binds what it has, the kernel does not look.
    kernel.optional |= {"global_scale", *(f"{a}_{b}" for a in "xws" for b in ("batch_ndims", "shape", "strides"))}
    bound = {
        name: Argument(read_input(a, True).elements if isinstance(a, mx.array) else np.asarray(a))
        for name, a in inputs.items()
    }
    results = {name: np.empty(shape, TYPES[dtype][1]) for name, (shape, dtype) in outputs.items()}
    bound |= {name: Argument(array, is_output=True, is_initialised=False) for name, array in results.items()}
    launch = kernel.launch(bound, grid=grid, threadgroup=threadgroup, options=options, name=source.name, template={})
    return [to_mlx(array, outputs[name][1]) for name, array in results.items()], launch
