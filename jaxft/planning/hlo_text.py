"""Parses the text of a compiled XLA program into computations and their instructions.

Source of the format: openxla.org/xla/operation_semantics and the parser in xla/hlo/parser.
"""

import collections
import dataclasses
import functools
import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|\w+_computations?)=(?:\{([^}]*)\}|([\w.%\-]+))")


class Array(NamedTuple):
    """Shape of one array; `on_chip` where it lies in fast memory beside the core, not in the device's memory."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool

    @property
    def bytes(self) -> int:
        """Its size."""
        bits = 8 if self.dtype == "pred" else int((re.search(r"\d+", self.dtype) or ["0"])[0])
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: list[Array]  # of its result, several for a tuple
    operands: list[str]
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        """Size of its result outside the chip."""
        return sum(array.bytes for array in self.arrays if not array.on_chip)

    @functools.cached_property
    def called(self) -> dict[str, list[str]]:
        """Names of the computations that it runs, by attribute."""
        found = {}
        for attribute, several, single in _CALLED.findall(self.attributes):
            found[attribute] = [name.strip(" %") for name in (several or single).split(",")]
        return found


class Computation(dict):
    """Instructions by name, in their order."""

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads an instruction's result."""
        found = collections.defaultdict(list)
        for one in self.values():
            for name in one.operands:
                found[name].append(one)
        return found

    def readers(self, one: Instruction) -> list[Instruction]:
        """Who reads its result, or an element of it."""
        direct = self.users[one.name]
        return [r for u in direct for r in (self.users[u.name] if u.opcode == "get-tuple-element" else [u])]

    def operands(self, one: Instruction) -> list[Instruction]:
        """The instructions that `one` reads."""
        return [self[name] for name in one.operands if name in self]

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next((one for one in self.values() if one.root), list(self.values())[-1])


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Computations by name, and the name of the one that the program begins with."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            if current is not None and (one := _instruction(*found.groups())):
                current[one.name] = one
        elif line[:1] not in ("", " ", "}") and (header := _HEADER.match(line)):
            current = computations[header[1]] = Computation()
            if line.startswith("ENTRY"):
                entry = header[1]
    return computations, entry


def _instruction(root: str | None, name: str, rest: str) -> Instruction | None:
    end = _closing(rest) if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, end)
    if not opcode:
        return None
    close = _closing(rest, opcode.end() - 1)
    inside, attributes = rest[opcode.end() : close - 1], rest[close:]
    arrays = [
        Array(dtype, tuple(int(n.strip("<=")) for n in dims.split(",") if n), "S(" in layout)
        for dtype, dims, layout in _ARRAY.findall(rest[:end])
    ]
    # Of parameters and constants what stands in parentheses is the number.
    operands = [] if opcode[1] in ("parameter", "constant") else re.findall(r"%([\w.\-]+)", inside)
    attributes = inside if opcode[1] in ("parameter", "constant") else attributes
    return Instruction(name, opcode[1], arrays, operands, attributes, bool(root))


def _closing(text: str, start: int = 0) -> int:
    """Where the parenthesis that opens at `start` has closed."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    return len(text)
