"""The C++ compiler that turns rewritten Metal into a shared object: clang, Debian's or the one inside `ziglang`.

Owns: finding it, running it, and the folder of what it made. Everything is built freestanding, without headers or
libraries of the system: zig's own would take a minute to build, and its names would meet Metal's.

An object is kept under the hash of all that made it. It is written beside its place and renamed into it, so that
processes can share the folder.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.simulator.faults import CompileError

HERE: Final = Path(__file__).parent
SHIM: Final = HERE / "shim"
RUNTIME: Final = HERE / "runtime"

CACHE: Final = HERE.parents[1] / "build" / "simulator"
"""Where compiled kernels stay."""

TARGET: Final = (
    "--target=x86_64-linux-gnu",
    "-march=x86-64-v3",
)
FEATURES: Final = ("avx2", "bmi2", "f16c", "fma")
"""What x86-64-v3 takes for granted, as Linux calls it; half precision in hardware above all."""

FREESTANDING: Final = (
    "-ffreestanding",
    "-nostdinc",
    "-nostdinc++",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fPIC",
    "-gline-tables-only",
    "-gdwarf-4",
)

METAL_HEADERS: Final[tuple[str, ...]] = (
    *("array", "atomic", "common", "compute", "config", "geometric", "graphics", "integer", "limits", "logging"),
    *("math", "matrix", "numeric", "pack", "quadgroup", "relational", "simdgroup", "simdgroup_matrix", "stdlib"),
    *("texture", "tessellation", "type_traits", "types", "uniform"),
)
"""Headers of Metal's library, by their name without `metal_`: empty here, since the shim holds them all."""


def unsupported() -> str | None:
    """Why the simulator cannot run on this machine; None if it can."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "the kernel simulator runs on Linux on x86-64 only"
    missing = set(FEATURES) - set(Path("/proc/cpuinfo").read_text().split())
    if missing:
        return f"the kernel simulator needs a processor with {', '.join(sorted(missing))}"
    try:
        compiler()
    except CompileError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class Compiler:
    """A clang and its linker."""

    clang: tuple[str, ...]
    linker: tuple[str, ...]
    version: str


@cache
def compiler() -> Compiler:
    """The compiler, found once. Raises `CompileError` if there is none."""
    spec = find_spec("ziglang")
    candidates: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    if spec is not None and spec.origin is not None:
        zig = str(Path(spec.origin).parent / "zig")
        candidates.append(((zig, "clang"), (zig, "ld.lld")))
    clang, linker = shutil.which("clang++-19"), shutil.which("ld.lld-19")
    if clang is not None and linker is not None:
        candidates.append(((clang,), (linker,)))
    for command, link in candidates:
        answer = subprocess.run([*command, "--version"], capture_output=True, text=True)
        if answer.returncode == 0:
            return Compiler(command, link, answer.stdout)
    raise CompileError("the kernel simulator needs clang: install the dev dependencies, which bring `ziglang`")


def preprocess(source: str, *, includes: Sequence[Path], defines: Sequence[str]) -> str:
    """`source` with its macros expanded and its headers included, but none of the shim's."""
    command = [
        *compiler().clang,
        *TARGET,
        *("-E", "-x", "c++", "-std=c++17", "-nostdinc", "-undef"),
        *("-D__METAL__", "-D__METAL_MACOS__", "-D__METAL_VERSION__=320"),
        *(f"-D{define}" for define in defines),
        f"-I{_empty_headers()}",
        *(f"-I{folder}" for folder in includes),
        "-",
    ]
    return _run(command, source).stdout


def shared_object(text: str, name: str, flags: Sequence[str]) -> tuple[Path, str]:
    """The shared object made of C++ `text`, and what the compiler warned of."""
    command = [*compiler().clang, *TARGET, "-x", "c++", "-std=c++20", *FREESTANDING, *flags, f"-isystem{SHIM}"]
    key = _hash(text, *command, compiler().version, _shim_text())
    built = CACHE / f"{name}-{key}.so"
    warnings = built.with_suffix(".warnings")
    if built.exists():
        return built, warnings.read_text() if warnings.exists() else ""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{name}-") as folder:
        unlinked, linked = Path(folder, "object.o"), Path(folder, "object.so")
        said = _run([*command, "-c", "-", "-o", str(unlinked)], text).stderr
        _run([*compiler().linker, "-shared", str(unlinked), "-o", str(linked)], "")
        if said:
            noted = Path(folder, "warnings")
            noted.write_text(said)
            noted.replace(warnings)
        linked.replace(built)
    return built, said


def runtime_object() -> Path:
    """The shared object of the runtime."""
    text = f'#include "{RUNTIME}/runtime.cpp"\n'
    return shared_object(text, "runtime", ("-O2", "-Wno-everything"))[0]


@cache
def _shim_text() -> str:
    files = [*sorted(SHIM.glob("*.h")), *sorted(RUNTIME.glob("*.h")), *sorted(RUNTIME.glob("*.cpp"))]
    return _hash(*(file.read_text() for file in files))


@cache
def _empty_headers() -> Path:
    folder = CACHE / "headers"
    folder.mkdir(parents=True, exist_ok=True)
    for name in METAL_HEADERS:
        (folder / f"metal_{name}").touch()
    return folder


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _run(command: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(command, input=text, capture_output=True, text=True)
    if answer.returncode:
        raise CompileError(_errors(answer.stderr)[:6000] or f"{command[0]} failed")
    return answer


def _errors(said: str) -> str:
    """What clang said, without its warnings."""
    kept: list[str] = []
    is_kept = True
    for line in said.splitlines():
        if match := re.search(r": (fatal error|error|warning|note): ", line):
            is_kept = match[1] in ("fatal error", "error") or (is_kept and match[1] == "note")
        if is_kept and not line.lstrip().startswith("In file included from"):
            kept.append(line)
    return "\n".join(kept).strip()
