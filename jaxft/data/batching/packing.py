"""Decides which windows share a row: best-fit packing, length buckets, and ragged index arithmetic."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Shape
from jaxft.data.ragged import offsets_from_lengths

SHORTEST_BLOCK = 32
# What attention over a row costs beside all else is the row's length by this: MiniLM's quarter of a step at 128.
LENGTH_OF_EQUAL_COST = 384
SAMPLE = 20_000  # windows that a choice between blocks is made by


def best_fit(
    lengths: np.ndarray, capacity: int, most: int | None = None, block: int | None = None
) -> list[np.ndarray]:
    """Packs pieces into rows by best-fit-decreasing: each row is an array of indices into `lengths`.

    Longest first, each piece goes to the row whose free room is the smallest that holds it. A row that holds
    `most` pieces takes no more. With `block` a row that a piece no longer than it begins is no longer either, and
    holds a proportional part of `most`: rows of `capacity` come first, then rows of `block`. Rows are kept in
    stacks by their free room, and a bitmask says which stacks are not empty, so that n pieces take O(n) for a given
    capacity. How the rows are made up in lengths depends only on the multiset of lengths; among equal lengths the
    order given decides.

    Raises ValueError for a length below 1 or above `capacity`.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) == 0:
        return []
    if lengths.min() < 1 or lengths.max() > capacity:
        raise ValueError(f"lengths {lengths.min()}..{lengths.max()} do not all fit rows of 1..{capacity}")
    block = capacity if block is None else block
    order = np.argsort(-lengths, kind="stable")
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0  # bit r is set when a row with r free slots is open
    free: list[int] = []  # pieces that each row may still take
    most = most or capacity
    row_of = []
    for length in lengths[order].tolist():
        fitting = open_rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                open_rooms ^= 1 << room
        else:
            room, row = capacity if length > block else block, len(free)
            free.append(most * room // capacity)
        free[row] -= 1
        if room > length and free[row] > 0:
            by_room[room - length].append(row)
            open_rooms |= 1 << (room - length)
        row_of.append(row)
    rows = np.asarray(row_of)
    by_row = np.argsort(rows, kind="stable")
    return np.split(order[by_row], np.cumsum(np.bincount(rows))[:-1])


class Packed(NamedTuple):
    """Windows packed into rows of one length, those rows first that hold a window longer than a block.

    Attributes:
      members: int64 `[N]`, the windows, row by row.
      starts: int64 `[N]`, the slot of its row where each begins.
      first: int64 `[R + 1]`, where each row begins in `members`, and the last ends.
      whole_rows: how many rows hold a window longer than a block.
    """

    members: np.ndarray
    starts: np.ndarray
    first: np.ndarray
    whole_rows: int


def pack_rows(lengths: np.ndarray, shape: Shape, most: int | None = None) -> Packed:
    """Packs windows by `best_fit` into rows of `shape.length`, where they fit of blocks of `shape.block_length`.

    most: windows that a row holds at most.
    """
    lengths = np.asarray(lengths, np.int64)
    block = shape.block_length or shape.length
    in_row = shape.length // block
    bins = best_fit(lengths, shape.length, most, block)
    members = np.concatenate(bins) if bins else np.empty(0, np.int64)
    size = np.array([len(one) for one in bins], np.int64)
    longest = lengths[members[offsets_from_lengths(size)[:-1]]]  # its first
    whole = int(np.count_nonzero(longest > block)) if block < shape.length else len(bins)
    # Bins beyond the whole rows are blocks, `in_row` of them a row.
    place = np.arange(len(bins)) - whole
    row = np.where(place < 0, place + whole, whole + place // in_row)
    begin = np.where(place < 0, 0, place % in_row * block)
    within = offsets_from_lengths(lengths[members])[:-1]
    within = within - np.repeat(within[offsets_from_lengths(size)[:-1]], size)
    first = np.concatenate(([0], np.cumsum(np.bincount(row, weights=size), dtype=np.int64)))
    return Packed(members, within + np.repeat(begin, size), first.astype(np.int64), whole)


def choose_block_length(lengths: np.ndarray, rows: int, length: int, most: int | None = None) -> int:
    """The block of `Shape` for windows in batches of `rows` rows of `length` by which steps take least time, or 0.

    A row cut into blocks takes less attention, with a little more padding. The choice is made by the rows that a
    sample of the windows fills, each costing its slots and, by `LENGTH_OF_EQUAL_COST`, its attention.
    """
    lengths = np.asarray(lengths, np.int64)
    sample = lengths[:: max(1, len(lengths) // SAMPLE)]
    best, cheapest, block = 0, np.inf, length
    while True:
        packed = pack_rows(sample, Shape(rows, length, block % length), most)
        count = len(packed.first) - 1
        every = whole_row_period(packed.whole_rows, count, rows)
        seen = block + (length - block) / every if every else block  # of a row, by a position in the mean
        cost = count * (1 + seen / LENGTH_OF_EQUAL_COST)
        if cost < cheapest:
            best, cheapest = block % length, cost
        block, odd = divmod(block, 2)
        if odd or block < SHORTEST_BLOCK or (most and most < length // block):
            return best


def whole_row_period(whole: int, count: int, rows: int) -> int:
    """The `every` of `Shape` for `count` rows in batches of `rows`, of which `whole` hold longer segments."""
    if whole == 0:
        return 0
    return max(n for n in range(1, rows + 1) if rows % n == 0 and -(-count // n) >= whole)


def default_edges(max_length: int) -> list[int]:
    """Bucket lengths for one window a row: powers of two from 32, and `max_length` itself."""
    return [2**k for k in range(5, max_length.bit_length()) if 2**k < max_length] + [max_length]


def bucket_index(lengths: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """The index of the smallest of the rising `edges` that holds each length: int64 `[N]`.

    Raises ValueError where the last edge is too short.
    """
    if len(lengths) and np.max(lengths) > edges[-1]:
        raise ValueError(f"length {np.max(lengths)} is above the last bucket, {edges[-1]}")
    return np.searchsorted(np.asarray(edges), lengths, side="left")
