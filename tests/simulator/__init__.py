"""TEMPORARY adapter of a prototype to the API of tests/simulator; never commit this folder from a kernel branch."""
import sys
sys.path.insert(0, "/tmp/proto")
import mxk
from contextlib import contextmanager
from dataclasses import dataclass, field
from gptoss_mlx.metal import library

class Fault(AssertionError):
    pass

@dataclass(frozen=True)
class BufferCounts:
    loaded_bytes: int
    stored_bytes: int

@dataclass(frozen=True)
class Launch:
    kernel: str
    template: dict
    grid: tuple
    threadgroup: tuple
    buffers: dict
    transactions: int
    threadgroup_bytes: int
    barriers: int
    simd_ops: int
    matrix_ops: int

class Simulator:
    def __init__(self, *, seed=0, checks=True, counting=False):
        self.seed, self.checks, self.counting, self.launches = seed, checks, counting, []
    def metal_kernel(self, **kw):
        kw.pop("ensure_row_contiguous", None)
        call = mxk.metal_kernel(**kw)
        def launch(*, template=None, grid, threadgroup, **rest):
            try:
                out = call(template=template, grid=grid, threadgroup=threadgroup, seed=self.seed, check=self.checks, coalesce=self.counting, **rest)
            except RuntimeError as e:
                raise Fault(str(e)) from None
            k = call.last; st = k.stats
            bufs = {b[2]: BufferCounts(int(st.buf_load_bytes[b[1]]), int(st.buf_store_bytes[b[1]])) for b in k.bind if b[0] == "buf"}
            self.launches.append(Launch(kw["name"], dict(template or []), grid, threadgroup, bufs, int(st.transactions128), int(st.tg_mem_bytes), int(st.tg_barriers), int(st.simd_ops), int(st.mma)))
            if st.tg_mem_bytes > 32768: raise Fault(f"{kw['name']}: {st.tg_mem_bytes} bytes of threadgroup memory")
            return out
        return launch

@contextmanager
def simulated(*, seed=0, checks=True, counting=False):
    simulator = Simulator(seed=seed, checks=checks, counting=counting)
    with library.made_by(simulator.metal_kernel):
        yield simulator
