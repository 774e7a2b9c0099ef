"""Reads what one device does in a compiled XLA program's text: collectives, FLOPs and memory traffic.

A computation counts as often as it runs: a loop's body once for each trip. (XLA's own cost analysis counts it once.)
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxft.planning.hlo_text import Computation, Instruction, parse

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that move no data themselves; what the loops and calls among them run is counted where it stands.
FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while call conditional after-all partition-id replica-id "
    "opt-barrier optimization-barrier async-start async-update async-done".split()
)
# Their results are as small as what they read of their first operand.
SLICES = frozenset({"dynamic-slice", "slice", "gather"})


class Collective(NamedTuple):
    """One collective operation, and how often it runs in a step."""

    kind: str  # one of `KINDS`
    count: int
    size: int  # bytes of its largest side on one device: an all-gather's result, a reduce-scatter's operand
    group: int  # devices that take part together

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all its runs, by ring algorithms (Thakur et al. 2005)."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1, "collective-broadcast": 1}.get(
            self.kind, share
        )
        return self.count * self.size * factor


class Program:
    """A compiled program's computations, and how often each runs.

    unknown_trips: how often a loop runs whose number of trips the text doesn't tell.
    """

    def __init__(self, text: str, unknown_trips: int = 1):
        self.computations, self.entry = parse(text)
        self.devices = int((re.search(r"num_partitions=(\d+)", text) or [0, 1])[1])
        self.devices *= int((re.search(r"replica_count=(\d+)", text) or [0, 1])[1])
        self.unknown_trips, self.unknown_loops = unknown_trips, 0
        self.runs: collections.Counter = collections.Counter()
        self.fused: set[str] = set()
        self._count(self.entry, 1)

    def _count(self, name: str, times: int) -> None:
        self.runs[name] += times
        for one in self.computations[name].values():
            if one.opcode == "while":
                inner = times * self._trips(one)
            elif one.opcode in ("fusion", "call", "conditional", "async-start"):
                inner = times
            else:
                continue  # what reductions, sorts and scatters do to single elements
            for called in (c for names in one.called.values() for c in names if c in self.computations):
                if one.opcode == "fusion" or name in self.fused:
                    self.fused.add(called)
                self._count(called, inner)

    def _trips(self, loop: Instruction) -> int:
        if known := re.search(r"known_trip_count\D+(\d+)", loop.attributes):
            return int(known[1])
        # A counter from 0 that is compared with the condition's only constant.
        condition = list(self._with_fused(loop.called["condition"][0]))
        limits = [
            int(one.attributes) for one in condition if one.opcode == "constant" and one.attributes.isdigit()
        ]
        if len(limits) == 1 and any("direction=LT" in one.attributes for one in condition):
            return -(-limits[0] // self._stride(loop, condition))
        self.unknown_loops += 1
        return self.unknown_trips

    def _stride(self, loop: Instruction, condition: list[Instruction]) -> int:
        """What the body adds to the counter: more than 1 where the compiler has put several trips into one."""
        body = self.computations[loop.called["body"][0]]
        read = [one for one in condition if one.opcode == "get-tuple-element"]
        index = int(re.search(r"index=(\d+)", read[0].attributes)[1]) if len(read) == 1 else None
        if index is None or body.root.opcode != "tuple":
            return 1
        added = body[body.root.operands[index]]
        steps = [int(one.attributes) for one in body.operands(added) if one.opcode == "constant"]
        return steps[0] if added.opcode == "add" and len(steps) == 1 else 1

    def _with_fused(self, name: str) -> Iterator[Instruction]:
        for one in self.computations[name].values():
            yield one
            if one.opcode == "fusion":
                yield from self._with_fused(one.called["calls"][0])

    def collectives(self) -> list[Collective]:
        """Every collective among more than one device."""
        found, chains = [], set()
        for name, times in self.runs.items():
            computation = self.computations[name]
            for one in computation.values():
                kind = one.opcode.removesuffix("-start").removeprefix("ragged-")
                if kind not in KINDS or (group := self._group(one)) == 1:
                    continue
                if chain := re.search(r'chain_id="\d+"', one.attributes):
                    # TPU: one operation, named again in each fusion that it overlaps.
                    channel = re.search(r"channel_id=\d+", one.attributes)[0]
                    if (chain[0], channel) in chains:
                        continue
                    chains.add((chain[0], channel))
                size = sum(array.bytes for operand in computation.operands(one) for array in operand.arrays)
                if kind == "all-gather":
                    size *= group
                elif (
                    kind == "all-reduce"
                    and name in self.fused
                    and _only(computation.readers(one), "dynamic-slice")
                ):
                    kind = "reduce-scatter"  # as TPU's compiler writes it
                found.append(Collective(kind, times, size, group))
        return found

    def _group(self, one: Instruction) -> int:
        """How many devices a collective's groups have. Raises ValueError where the text isn't understood."""
        groups = re.search(r"replica_groups=(.*)", one.attributes)
        if not groups or groups[1].startswith("{}"):
            return self.devices
        if listed := re.match(r"\{\{([\d,]+)\}", groups[1]):
            return listed[1].count(",") + 1
        if tiled := re.match(r"\[\d+,(\d+)\]", groups[1]):
            return int(tiled[1])
        if named := re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", groups[1]):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
            # Of an axis, or of a part of it as "'axis':(devices before)devices".
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
            return math.prod(int(part or sizes[axis]) for axis, part in axes)
        raise ValueError(f"{one.name}: {groups[0][:80]}: not a form of replica groups that is known")

    def flops(self) -> int:
        """FLOPs of matrix products and convolutions on one device, two for a multiplication with its addition."""
        total = 0
        for name, times in self.runs.items():
            computation = self.computations[name]
            for one in computation.values():
                if one.opcode == "dot":
                    total += times * _dot_flops(one, *(i.arrays[0].dims for i in computation.operands(one)))
                elif one.opcode == "convolution":
                    total += times * _convolution_flops(
                        one, *(i.arrays[0].dims for i in computation.operands(one))
                    )
        return total

    def traffic(self) -> int:
        """Bytes that one device reads from and writes to its memory: operands and results of what is not fused."""
        total = 0
        for name, times in self.runs.items():
            if name not in self.fused:
                computation = self.computations[name]
                total += times * sum(self._traffic(computation, one) for one in computation.values())
        return total

    def _traffic(self, computation: Computation, one: Instruction) -> int:
        if one.opcode in FREE or one.opcode.endswith("-done"):
            return 0
        sizes = [operand.bytes for operand in computation.operands(one)]
        if one.opcode in SLICES:
            return 2 * one.bytes
        if one.opcode in ("dynamic-update-slice", "scatter"):
            return 2 * sizes[-1 if one.opcode == "scatter" else 1]
        if one.opcode.endswith("-start"):  # its result names the operands again
            return 2 * sum(sizes)
        if one.opcode != "fusion":
            return sum(sizes) + one.bytes
        fused = self.computations[one.called["calls"][0]]
        parameters = [i for i in fused.values() if i.opcode == "parameter"]
        parameters.sort(key=lambda i: int(i.attributes))
        read = (_read(fused, inner, outer) for inner, outer in zip(parameters, sizes, strict=False))
        return sum(read) + _written(fused, one)


def _only(users: list[Instruction], *opcodes: str) -> bool:
    return bool(users) and all(one.opcode in opcodes for one in users)


def _read(fused: Computation, parameter: Instruction, size: int) -> int:
    """Bytes that a fusion reads of an operand of `size` bytes: of one that is only sliced, the slices."""
    users = fused.users[parameter.name]
    if (
        size
        and _only(users, *SLICES, "dynamic-update-slice")
        and all(u.operands[0] == parameter.name for u in users)
    ):
        return min(size, sum(sum(a.bytes for a in u.arrays) for u in users if u.opcode in SLICES))
    return size


def _written(fused: Computation, fusion: Instruction) -> int:
    """Bytes that a fusion writes: of an array that is updated in place, the update."""
    root = fused.root
    roots = fused.operands(root) if root.opcode == "tuple" else [root]
    total = 0
    for one, array in zip(roots, fusion.arrays, strict=False):
        if one.opcode == "dynamic-update-slice" and len(updated := fused.operands(one)) > 1:
            total += 0 if array.on_chip else sum(a.bytes for a in updated[1].arrays)
        else:
            total += 0 if array.on_chip else array.bytes
    return total


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(n) for n in found[1].split(",")] if found and found[1] else []


def _dot_flops(one: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    contracted = _numbers(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
    return 2 * math.prod(one.arrays[0].dims) * math.prod(left[axis] for axis in contracted)


def _convolution_flops(one: Instruction, data: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    """As TPU's compiler writes matrix products too: a batched one is a strided, dilated convolution over its batch.

    Only places where the kernel meets data count, as in XLA's HloCostAnalysis.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    data_labels, kernel_labels, result_labels = labels[1], labels[2], labels[3]
    result = one.arrays[0].dims
    groups = _numbers(r"batch_group_count=(\d+)", one.attributes) or [1]
    total = 2 * kernel[kernel_labels.index("i")] * result[result_labels.index("f")]
    total *= data[data_labels.index("b")] // groups[0]
    window = dict(
        re.findall(r"(\w+)=([\d_x\-]+)", (re.search(r"window=\{([^}]*)\}", one.attributes) or ["", ""])[1])
    )
    for axis, label in enumerate(sorted(set(data_labels) - set("bf"))):

        def setting(name: str, default: str, axis: int = axis) -> int:
            return int((window[name].split("x")[axis] if name in window else default).split("_")[0])

        total *= _meetings(
            result[result_labels.index(label)],
            setting("stride", "1"),
            kernel[kernel_labels.index(label)],
            setting("rhs_dilate", "1"),
            setting("pad", "0_0"),
            data[data_labels.index(label)],
            setting("lhs_dilate", "1"),
        )
    return total


def _meetings(places: int, stride: int, taps: int, rate: int, pad: int, size: int, dilation: int) -> int:
    """How often, over all places, one of `taps` (`rate` apart) is at one of `size` elements (`dilation` apart)."""
    first = np.arange(places) * stride - pad  # where tap 0 is
    low = np.maximum(-(first // rate), 0)
    high = np.minimum(((size - 1) * dilation - first) // rate, taps - 1)
    # first + tap * rate is a multiple of the dilation: for each `period`-th tap, if for any.
    common = math.gcd(rate, dilation)
    period = dilation // common
    start = -(first // common) * pow(rate // common, -1, period) % period
    counts = (high - start) // period - (low - 1 - start) // period
    return int(np.where(first % common == 0, np.maximum(counts, 0), 0).sum())
