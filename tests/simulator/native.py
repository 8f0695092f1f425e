"""The runtime library, as ctypes sees it: the structs of `runtime/state.h`."""

import ctypes
import threading
from functools import cache
from typing import Final

from tests.simulator.compiler import runtime_object

MOST_BUFFERS: Final = 31
MOST_BARRIER_SITES: Final = 64
WRITABLE, READ_ONLY, CONSTANT = 0, 1, 2

LOCK: Final = threading.Lock()
"""Held during a launch: the runtime's state is one."""


def _fields(kind: type[ctypes._SimpleCData], names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


_U32, _U64, _POINTER = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


class Buffer(ctypes.Structure):
    _fields_ = [
        *_fields(_POINTER, "input output"),
        *_fields(_U64, "bytes"),
        *_fields(_U32, "access must_be_stored"),
        *_fields(_U64, "loaded_bytes stored_bytes unique_loaded_bytes unique_stored_bytes transactions"),
    ]


class Range(ctypes.Structure):
    _fields_ = _fields(_U64, "begin end")


class Site(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("line", _U32), ("column", _U32)]


class Launch(ctypes.Structure):
    _fields_ = [
        ("entry", _POINTER),
        ("buffers", ctypes.POINTER(Buffer)),
        ("image", Range),
        ("threadgroup_memory", Range),
        ("threadgroup_variables", ctypes.POINTER(Range)),
        *_fields(_U32, "threadgroup_variable_count dynamic_count"),
        ("dynamic_bytes", _U64 * MOST_BUFFERS),
        ("grid", _U32 * 3),
        ("threadgroup", _U32 * 3),
        ("seed", _U64),
        *_fields(_U32, "checked counting divergence_allowed"),
        *_fields(_U64, "threads threadgroups threadgroup_barriers simdgroup_barriers simd_operations"),
        *_fields(_U64, "matrix_operations divergent_operations threadgroup_loaded_bytes threadgroup_stored_bytes"),
        ("barrier_sites", Site * MOST_BARRIER_SITES),
        ("barrier_site_count", _U64),
    ]


class FaultRecord(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_char_p),
        ("has_thread", _U32),
        ("threadgroup", _U32 * 3),
        ("thread", _U32 * 3),
        ("has_access", _U32),
        ("access_bytes", _U32),
        ("address", _U64),
        ("instruction", _U64),
        ("site", Site),
        ("detail", ctypes.c_char * 256),
    ]


ARENA_SLOT_BYTES: Final = 1 << 32
ARENA_LEAD_BYTES: Final = 1 << 30


@cache
def library() -> ctypes.CDLL:
    """The runtime, built and loaded once. Kernels find its functions in it, and the C library's mathematics."""
    ctypes.CDLL("libm.so.6", mode=ctypes.RTLD_GLOBAL)
    loaded = ctypes.CDLL(str(runtime_object()), mode=ctypes.RTLD_GLOBAL)
    loaded.sim_run.restype = ctypes.c_bool
    loaded.sim_arena.restype = ctypes.c_uint64
    return loaded
