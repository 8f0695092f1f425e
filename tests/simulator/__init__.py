"""Runs Metal kernels on the CPU of a machine without Metal, and says what is wrong with them: see README.md."""

from tests.simulator.compiler import unsupported
from tests.simulator.counts import BufferCounts, Launch
from tests.simulator.faults import CompileError, Fault
from tests.simulator.simulator import Simulator, simulated

__all__ = ["BufferCounts", "CompileError", "Fault", "Launch", "Simulator", "simulated", "unsupported"]
