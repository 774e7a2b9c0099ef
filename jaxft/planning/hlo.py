"""Counts the collectives, FLOPs and memory traffic of one device in a compiled XLA program.

A computation counts as often as it runs. The body of a loop therefore counts once for each trip. (XLA's own cost
analysis counts it only once.)
"""

import collections
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxft.layers.attention.flops import MOST_TRIPS
from jaxft.planning.hlo_flops import convolution_flops, dot_flops
from jaxft.planning.hlo_text import Computation, Instruction, parse

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that move no data themselves. The computations that loops and calls run are counted separately.
FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while call conditional after-all partition-id replica-id "
    "opt-barrier optimization-barrier async-start async-update async-done".split()
)
# Instructions that read as many bytes of their first operand as their results have.
SLICES = frozenset({"dynamic-slice", "slice", "gather"})


class Collective(NamedTuple):
    """A collective operation, and the number of its runs in a step."""

    kind: str  # one of `KINDS`
    runs: int
    size: (
        int  # the bytes of its larger side on one device: an all-gather's result, a reduce-scatter's operand
    )
    group: int  # the number of devices that take part together

    @property
    def sent(self) -> float:
        """Returns the bytes that a device sends in all runs, with ring algorithms (Thakur et al. 2005)."""
        share = (self.group - 1) / self.group
        other_shares = {"all-reduce": 2 * share, "collective-permute": 1, "collective-broadcast": 1}
        return self.runs * self.size * other_shares.get(self.kind, share)


class Program:
    """The computations of a compiled program, and the number of runs of each.

    Args:
        text: the program's text, from `jax.stages.Compiled.as_text`.
        unknown_trips: the number of trips to count for a loop if the text does not contain it.
    """

    def __init__(self, text: str, unknown_trips: int = 1):
        self.computations, self.entry = parse(text)
        self.devices = _header_number(text, "num_partitions") * _header_number(text, "replica_count")
        self.unknown_trips, self.unknown_loops = unknown_trips, 0
        self.runs: collections.Counter[str] = collections.Counter()
        self.fused: set[str] = set()
        self._count(self.entry, 1)

    def _count(self, name: str, times: int) -> None:
        """Counts `times` runs of the computation `name`, and the runs of the computations that it calls."""
        self.runs[name] += times
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                called_times = times * self._trips(instruction)
            elif instruction.opcode in ("fusion", "call", "conditional", "async-start"):
                called_times = times
            else:
                continue  # reductions, sorts and scatters call computations on single elements
            for called in itertools.chain.from_iterable(instruction.called.values()):
                if called in self.computations:
                    if instruction.opcode == "fusion" or name in self.fused:
                        self.fused.add(called)
                    self._count(called, called_times)

    def _trips(self, loop: Instruction) -> int:
        """Returns the number of trips of a loop; the most, if they depend on data and it is `named_loop`."""
        known = re.search(r"known_trip_count\D+(\d+)", loop.attributes)
        most = re.search(rf"{MOST_TRIPS}(\d+)\)*/while\"", loop.attributes)
        if trips := known or most:
            return int(trips[1])
        # A counter starts at 0 and is compared with the condition's only constant.
        condition = list(self._instructions_with_fused(loop.called["condition"][0]))
        constants = [instruction.attributes for instruction in condition if instruction.opcode == "constant"]
        limits = [int(text) for text in constants if text.isdigit()]
        if len(limits) == 1 and any("direction=LT" in instruction.attributes for instruction in condition):
            return -(-limits[0] // self._stride(loop, condition))
        self.unknown_loops += 1
        return self.unknown_trips

    def _stride(self, loop: Instruction, condition: list[Instruction]) -> int:
        """Returns the body's increment of the counter; more than 1 if the compiler has merged several trips."""
        body = self.computations[loop.called["body"][0]]
        counters = [instruction for instruction in condition if instruction.opcode == "get-tuple-element"]
        if len(counters) != 1 or body.root.opcode != "tuple":
            return 1
        index = int(re.findall(r"index=(\d+)", counters[0].attributes)[0])
        new_counter = body[body.root.operands[index]]
        operands = body.operands(new_counter)
        steps = [int(operand.attributes) for operand in operands if operand.opcode == "constant"]
        return steps[0] if new_counter.opcode == "add" and len(steps) == 1 else 1

    def _instructions_with_fused(self, name: str) -> Iterator[Instruction]:
        """Yields the instructions of the computation `name` and of the fusions in it."""
        for instruction in self.computations[name].values():
            yield instruction
            if instruction.opcode == "fusion":
                yield from self._instructions_with_fused(instruction.called["calls"][0])

    def collectives(self) -> list[Collective]:
        """Returns every collective among more than one device."""
        collectives, chains = [], set()
        for name, times in self.runs.items():
            computation = self.computations[name]
            for instruction in computation.values():
                kind = instruction.opcode.removesuffix("-start").removeprefix("ragged-")
                if kind not in KINDS or (group := self._group_size(instruction)) == 1:
                    continue
                if chain := re.search(r'chain_id="\d+"', instruction.attributes):
                    # On TPUs an operation appears again in each fusion that it overlaps.
                    channel = re.findall(r"channel_id=\d+", instruction.attributes)[0]
                    if (chain[0], channel) in chains:
                        continue
                    chains.add((chain[0], channel))
                operands = computation.operands(instruction)
                size = sum(array.bytes for operand in operands for array in operand.arrays)
                if kind == "all-gather":
                    size *= group
                elif (
                    kind == "all-reduce"
                    and name in self.fused
                    and _all_have_opcode(computation.readers(instruction), "dynamic-slice")
                ):
                    kind = "reduce-scatter"  # TPU's compiler writes it in this form
                collectives.append(Collective(kind, times, size, group))
        return collectives

    def _group_size(self, collective: Instruction) -> int:
        """Returns the number of devices in a collective's groups. Raises ValueError if the text has an unknown form."""
        groups = re.search(r"replica_groups=(.*)", collective.attributes)
        if not groups or groups[1].startswith("{}"):
            return self.devices
        if listed := re.match(r"\{\{([\d,]+)\}", groups[1]):
            return listed[1].count(",") + 1
        if tiled := re.match(r"\[\d+,(\d+)\]", groups[1]):
            return int(tiled[1])
        if named := re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", groups[1]):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
            # An axis of the mesh, or a subgroup of it, "'axis':(devices before)devices".
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
            return math.prod(int(subgroup_size or sizes[axis]) for axis, subgroup_size in axes)
        raise ValueError(f"{collective.name}: {groups[0][:80]}: not a form of replica groups that is known")

    def flops(self) -> int:
        """Returns the FLOPs of matrix products and convolutions on one device."""
        count_flops = {"dot": dot_flops, "convolution": convolution_flops}
        total = 0
        for name, times in self.runs.items():
            computation = self.computations[name]
            for instruction in computation.values():
                if instruction.opcode in count_flops:
                    left, right = (operand.arrays[0].dims for operand in computation.operands(instruction))
                    total += times * count_flops[instruction.opcode](instruction, left, right)
        return total

    def traffic(self) -> int:
        """Returns the bytes that one device reads from and writes to its memory.

        These are the operands and results of all instructions that are not fused.
        """
        total = 0
        for name, times in self.runs.items():
            if name not in self.fused:
                computation = self.computations[name]
                instructions = computation.values()
                total += times * sum(
                    self._instruction_traffic(computation, instruction) for instruction in instructions
                )
        return total

    def _instruction_traffic(self, computation: Computation, instruction: Instruction) -> int:
        """Returns the bytes that an instruction of `computation` reads and writes when it runs once."""
        opcode = instruction.opcode
        if opcode in FREE or opcode.endswith("-done"):
            return 0
        sizes = [operand.bytes for operand in computation.operands(instruction)]
        if opcode in SLICES:
            return 2 * instruction.bytes
        if opcode == "scatter":
            return 2 * sizes[-1]
        if opcode == "dynamic-update-slice":
            return 2 * sizes[1]
        if opcode.endswith("-start"):  # the result also contains the operands
            return 2 * sum(sizes)
        if opcode != "fusion":
            return sum(sizes) + instruction.bytes
        fused = self.computations[instruction.called["calls"][0]]
        parameters = [inner for inner in fused.values() if inner.opcode == "parameter"]
        parameters.sort(key=lambda parameter: int(parameter.attributes))
        read = sum(
            _bytes_read(fused, parameter, size) for parameter, size in zip(parameters, sizes, strict=False)
        )
        return read + _bytes_written(fused, instruction)


def _header_number(text: str, name: str) -> int:
    """Returns the number after `name=` in a program's first line; 1 if it is not there."""
    match = re.search(rf"{name}=(\d+)", text)
    return int(match[1]) if match else 1


def _all_have_opcode(instructions: list[Instruction], *opcodes: str) -> bool:
    """Returns whether there are instructions and all have one of `opcodes`."""
    return bool(instructions) and all(instruction.opcode in opcodes for instruction in instructions)


def _bytes_read(fused: Computation, parameter: Instruction, size: int) -> int:
    """Returns the bytes that a fusion reads of an operand of `size` bytes: only slices if it only slices it."""
    users = fused.users[parameter.name]
    if (
        size
        and _all_have_opcode(users, *SLICES, "dynamic-update-slice")
        and all(user.operands[0] == parameter.name for user in users)
    ):
        slices = (user for user in users if user.opcode in SLICES)
        return min(size, sum(array.bytes for user in slices for array in user.arrays))
    return size


def _bytes_written(fused: Computation, fusion: Instruction) -> int:
    """Returns the bytes that a fusion writes. For an array that it updates in place, only the update counts."""
    root = fused.root
    roots = fused.operands(root) if root.opcode == "tuple" else [root]
    total = 0
    for result, array in zip(roots, fusion.arrays, strict=False):
        if array.on_chip:
            continue
        operands = fused.operands(result)
        if result.opcode == "dynamic-update-slice" and len(operands) > 1:
            total += sum(update.bytes for update in operands[1].arrays)
        else:
            total += array.bytes
    return total
