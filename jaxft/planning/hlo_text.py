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
    """The shape of an array. `on_chip` means that it is in fast memory next to the core, not in the device's memory."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool

    @property
    def bytes(self) -> int:
        """Returns the array's size in bytes."""
        bits = 8 if self.dtype == "pred" else int((re.search(r"\d+", self.dtype) or ["0"])[0])
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction, which is one line of a computation."""

    name: str
    opcode: str
    arrays: list[Array]  # the arrays of its result; several for a tuple
    operands: list[str]  # the names of instructions
    attributes: str  # the text after the operands; for a parameter or constant, its number
    is_root: bool

    @property
    def bytes(self) -> int:
        """Returns the bytes of the instruction's result in the device's memory."""
        return sum(array.bytes for array in self.arrays if not array.on_chip)

    @functools.cached_property
    def called(self) -> dict[str, list[str]]:
        """Returns the names of the computations that the instruction runs, by attribute."""
        names_by_attribute = {}
        for attribute, several, single in _CALLED.findall(self.attributes):
            names_by_attribute[attribute] = [name.strip(" %") for name in (several or single).split(",")]
        return names_by_attribute


class Computation(dict[str, Instruction]):
    """The instructions of a computation by name, in their order."""

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Returns, for each instruction's name, the instructions that read its result."""
        users = collections.defaultdict(list)
        for instruction in self.values():
            for name in instruction.operands:
                users[name].append(instruction)
        return users

    def readers(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions that read the result of `instruction`, or an element of it."""
        readers = []
        for user in self.users[instruction.name]:
            readers += self.users[user.name] if user.opcode == "get-tuple-element" else [user]
        return readers

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions whose results `instruction` reads."""
        return [self[name] for name in instruction.operands if name in self]

    @property
    def root(self) -> Instruction:
        """Returns the instruction whose result is the result of the computation."""
        roots = (instruction for instruction in self.values() if instruction.is_root)
        return next(roots, list(self.values())[-1])


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Returns the computations of a program by name, and the name of its entry computation."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            if current is not None and (instruction := _parse_instruction(*match.groups())):
                current[instruction.name] = instruction
        elif line[:1] not in ("", " ", "}") and (header := _HEADER.match(line)):
            current = computations[header[1]] = Computation()
            if line.startswith("ENTRY"):
                entry = header[1]
    return computations, entry


def _parse_instruction(root: str | None, name: str, rest: str) -> Instruction | None:
    """Returns the instruction in a line; None if the line has no opcode.

    Args:
        root: "ROOT " if the line begins with it.
        name: the text before the equals sign.
        rest: the text after the equals sign.
    """
    end = _end_of_parenthesis(rest) if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, end)
    if not opcode:
        return None
    close = _end_of_parenthesis(rest, opcode.end() - 1)
    inside, attributes = rest[opcode.end() : close - 1], rest[close:]
    arrays = [
        Array(dtype, tuple(int(n.strip("<=")) for n in dims.split(",") if n), "S(" in layout)
        for dtype, dims, layout in _ARRAY.findall(rest[:end])
    ]
    operands = re.findall(r"%([\w.\-]+)", inside)
    if opcode[1] in ("parameter", "constant"):  # the parentheses hold a number
        operands, attributes = [], inside
    return Instruction(name, opcode[1], arrays, operands, attributes, bool(root))


def _end_of_parenthesis(text: str, start: int = 0) -> int:
    """Returns the position after the parenthesis that closes the parenthesis at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    return len(text)
