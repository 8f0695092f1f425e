"""What a compiled kernel's file says of itself: where threadgroup variables lie, and which source line an address is.

Reads the two tables that are needed, ELF's symbols and DWARF 4's line program; no tool of the system has to be there.
"""

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

THREADGROUP_SECTION: Final = "threadgroup_memory"
GUARD_PREFIX: Final = "threadgroup_guard_"

_ALLOCATED: Final = 2
_NOTHING_IN_FILE: Final = 8
_OBJECT: Final = 1


@dataclass(frozen=True, slots=True)
class Section:
    """One section: where it lies in memory and in the file."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A threadgroup variable: its name in the source, and its bytes."""

    name: str
    address: int
    size: int


class Image:
    """A shared object's file."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        (table,) = struct.unpack_from("<Q", self._data, 40)
        entry_size, count, names_index = struct.unpack_from("<HHH", self._data, 58)
        raw = [struct.unpack_from("<IIQQQQIIQQ", self._data, table + i * entry_size) for i in range(count)]
        names_at = raw[names_index][4]
        self._sections = [
            Section(self._string(names_at + name), kind, flags, address, offset, size, link)
            for name, kind, flags, address, offset, size, link, *_ in raw
        ]

    def _string(self, offset: int) -> str:
        return self._data[offset : self._data.index(b"\0", offset)].decode()

    def _section(self, name: str) -> Section | None:
        return next((section for section in self._sections if section.name == name), None)

    @property
    def memory_size(self) -> int:
        """Bytes of address space that the loaded object takes."""
        return max(section.address + section.size for section in self._sections if section.flags & _ALLOCATED)

    @property
    def threadgroup_range(self) -> tuple[int, int]:
        """Begin and end of threadgroup memory with its guards, relative to the object's base."""
        section = self._section(THREADGROUP_SECTION)
        return (section.address, section.address + section.size) if section else (0, 0)

    @cached_property
    def symbols(self) -> dict[str, int]:
        """Addresses of functions and variables by their (mangled) name."""
        return {name: address for name, address, _ in self._symbols()}

    @cached_property
    def threadgroup_variables(self) -> list[Variable]:
        """Every threadgroup variable of the kernel, by address."""
        begin, end = self.threadgroup_range
        found = [
            Variable(_local_name(name), address, size)
            for name, address, size in self._symbols()
            if begin <= address < end and size and GUARD_PREFIX not in name
        ]
        return sorted(found, key=lambda variable: variable.address)

    def _symbols(self) -> Iterator[tuple[str, int, int]]:
        table = self._section(".symtab")
        assert table is not None
        strings = self._sections[table.link]
        for at in range(table.offset, table.offset + table.size, 24):
            name, _, _, section, address, size = struct.unpack_from("<IBBHQQ", self._data, at)
            if section:
                yield self._string(strings.offset + name), address, size

    def place(self, address: int) -> tuple[str, int] | None:
        """File and line of the instruction at `address`, relative to the object's base."""
        rows = self._lines
        i = bisect_right(rows, (address, "\U0010ffff", 0)) - 1
        return (rows[i][1], rows[i][2]) if i >= 0 and rows[i][2] else None

    @cached_property
    def _lines(self) -> list[tuple[int, str, int]]:
        section = self._section(".debug_line")
        if section is None:
            return []
        data = self._data[section.offset : section.offset + section.size]
        rows: list[tuple[int, str, int]] = []
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            rows.extend(_line_program(data[at + 4 : at + 4 + length]))
            at += 4 + length
        return sorted(rows)


def _local_name(mangled: str) -> str:
    """`planes` of `_ZZ10a_kernelvE6planes`: the last name in it."""
    last = mangled
    for match in re.finditer(r"(?=E(\d+)([A-Za-z_]))", mangled):
        length, start = int(match[1]), match.start(2)
        if start + length <= len(mangled):
            last = mangled[start : start + length]
    return last


class _Reader:
    """Numbers of a line program, one after another."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def unsigned(self) -> int:
        """A number in seven-bit pieces, the lowest first."""
        value = shift = 0
        while True:
            byte = self.take("B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def signed(self) -> int:
        begin = self.at
        value = self.unsigned()
        bits = 7 * (self.at - begin)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def string(self) -> str:
        end = self.data.index(b"\0", self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text


def _line_program(data: bytes) -> Iterator[tuple[int, str, int]]:
    """Address, file and line of every row of one DWARF 4 line program. Line 0 where a sequence ends."""
    read = _Reader(data)
    version = read.take("H")
    assert version == 4, f"DWARF {version}"
    program = read.take("I") + read.at
    step, _, _, line_base, line_range, opcode_base = (read.take(code) for code in "BBBbBB")
    operands = [read.take("B") for _ in range(opcode_base - 1)]
    while read.string():
        pass  # folders
    files = [""]
    while name := read.string():
        files.append(name)
        for _ in range(3):
            read.unsigned()
    read.at = program

    address, file, line = 0, 1, 1
    while read.at < len(data):
        opcode = read.take("B")
        if opcode >= opcode_base:
            address += (opcode - opcode_base) // line_range * step
            line += line_base + (opcode - opcode_base) % line_range
            yield address, files[file], line
        elif opcode == 0:  # extended: its length, its number, its operands
            length = read.unsigned()
            end = read.at + length
            extended = read.take("B")
            if extended == 1:
                yield address, "", 0
                address, file, line = 0, 1, 1
            elif extended == 2:
                address = read.take("Q")
            read.at = end
        elif opcode == 1:
            yield address, files[file], line
        elif opcode == 2:
            address += read.unsigned() * step
        elif opcode == 3:
            line += read.signed()
        elif opcode == 4:
            file = read.unsigned()
        elif opcode == 8:
            address += (255 - opcode_base) // line_range * step
        elif opcode == 9:
            address += read.take("H")
        else:
            for _ in range(operands[opcode - 1]):
                read.unsigned()
