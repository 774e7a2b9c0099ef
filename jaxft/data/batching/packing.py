"""Decides which windows share a row: best-fit packing, blocks within rows, length buckets."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Blocks, Shape
from jaxft.data.ragged import offsets_from_lengths

SHORTEST_BLOCK = 32
# The cost of attention over a row, relative to everything else in a step, is the row's length divided by this.
# MiniLM spends a quarter of a step on attention at length 128.
LENGTH_OF_EQUAL_COST = 384
SAMPLE = 20_000  # number of windows that the choice of a block length looks at


def best_fit(
    lengths: np.ndarray, capacity: int, max_segments: int | None = None, block: int | None = None
) -> list[np.ndarray]:
    """Packs windows into rows by best-fit-decreasing.

    The longest window comes first. Each window goes to the row with the least free room that still holds it. Rows are
    kept in stacks by free room, and a bitmask marks the stacks that are not empty, so n windows take O(n) time for a
    fixed capacity. The lengths in the rows depend only on the multiset of window lengths. Windows of equal length keep
    their input order.

    Args:
      lengths: int `[N]`, the length of each window.
      capacity: number of slots in a row.
      max_segments: the most windows that a row may hold; by default as many as fit.
      block: number of slots in a short row. A row is short if its first window fits a block; its limit of windows is
        then a proportional share of `max_segments`. Full rows come first in the result. By default no row is short.

    Returns:
      The windows of each row, as indices into `lengths`.

    Raises:
      ValueError: a length is below 1 or above `capacity`.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) == 0:
        return []
    if lengths.min() < 1 or lengths.max() > capacity:
        raise ValueError(f"lengths {lengths.min()}..{lengths.max()} do not all fit rows of 1..{capacity}")
    block = capacity if block is None else block
    order = np.argsort(-lengths, kind="stable")
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0  # bit r is set if a row with r free slots is open
    free: list[int] = []  # how many more windows each row may take
    max_segments = max_segments or capacity
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
            free.append(max_segments * room // capacity)
        free[row] -= 1
        if room > length and free[row] > 0:
            by_room[room - length].append(row)
            open_rooms |= 1 << (room - length)
        row_of.append(row)
    rows = np.asarray(row_of)
    by_row = np.argsort(rows, kind="stable")
    return np.split(order[by_row], np.cumsum(np.bincount(rows))[:-1])


class PackedRows(NamedTuple):
    """Windows packed into rows. Rows with a window longer than a block come first.

    Attributes:
      members: int64 `[N]`, the windows, row by row.
      starts: int64 `[N]`, the slot of its row where each window begins.
      offsets: int64 `[R + 1]`, the start of each row in `members`, and the end of the last one.
      whole_rows: number of rows that hold a window longer than a block.
    """

    members: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray
    whole_rows: int


def one_window_rows(count: int) -> PackedRows:
    """Returns `count` rows of one window each."""
    return PackedRows(np.arange(count), np.zeros(count, np.int64), np.arange(count + 1), 0)


def pack_rows(lengths: np.ndarray, shape: Shape, max_segments: int | None = None) -> PackedRows:
    """Packs windows by `best_fit` into rows of `shape.length` slots.

    If `shape.blocks` has a length, rows of short windows are made of blocks of that length.

    Args:
      lengths: int `[N]`, the length of each window.
      shape: the shape of a batch.
      max_segments: the most windows that a row may hold; by default as many as fit.
    """
    lengths = np.asarray(lengths, np.int64)
    block = shape.blocks.length or shape.length
    blocks_per_row = shape.length // block
    bins = best_fit(lengths, shape.length, max_segments, block)
    members = np.concatenate(bins) if bins else np.empty(0, np.int64)
    size = np.array([len(windows) for windows in bins], np.int64)
    longest = lengths[members[offsets_from_lengths(size)[:-1]]]  # the length of each bin's first window
    whole_rows = int(np.count_nonzero(longest > block)) if block < shape.length else len(bins)
    # The bins after the whole rows are blocks; a row holds `blocks_per_row` of them.
    place = np.arange(len(bins)) - whole_rows
    row = np.where(place < 0, place + whole_rows, whole_rows + place // blocks_per_row)
    begin = np.where(place < 0, 0, place % blocks_per_row * block)
    within = offsets_from_lengths(lengths[members])[:-1]
    within = within - np.repeat(within[offsets_from_lengths(size)[:-1]], size)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(row, weights=size), dtype=np.int64)))
    return PackedRows(members, within + np.repeat(begin, size), offsets.astype(np.int64), whole_rows)


def choose_block_length(lengths: np.ndarray, rows: int, length: int, max_segments: int | None = None) -> int:
    """Returns the block length (see `Blocks`) with the least estimated time of a step, or 0 for no blocks.

    Blocks make attention cheaper but add a little padding. The function packs a sample of the windows for each
    candidate, and estimates the cost from the number of slots and, by `LENGTH_OF_EQUAL_COST`, from attention.

    Args:
      lengths: int `[N]`, the length of each window.
      rows: number of rows in a batch.
      length: number of slots in a row.
      max_segments: the most windows that a row may hold; by default as many as fit.
    """
    lengths = np.asarray(lengths, np.int64)
    sample = lengths[:: max(1, len(lengths) // SAMPLE)]
    best, lowest_cost, block = 0, np.inf, length
    while True:
        packed = pack_rows(sample, Shape(rows, length, Blocks(block % length)), max_segments)
        count = len(packed.offsets) - 1
        period = choose_whole_row_period(packed.whole_rows, count, rows)
        # The average number of slots that a position attends to.
        attended = block + (length - block) / period if period else block
        cost = count * (1 + attended / LENGTH_OF_EQUAL_COST)
        if cost < lowest_cost:
            best, lowest_cost = block % length, cost
        block, odd = divmod(block, 2)
        if odd or block < SHORTEST_BLOCK or (max_segments and max_segments < length // block):
            return best


def choose_whole_row_period(whole_rows: int, count: int, rows: int) -> int:
    """Returns the largest possible `Blocks.whole_row_period`, or 0 if there are no whole rows.

    Args:
      whole_rows: number of rows with windows longer than a block.
      count: number of all rows.
      rows: number of rows in a batch; the period divides it.
    """
    if whole_rows == 0:
        return 0
    return max(n for n in range(1, rows + 1) if rows % n == 0 and -(-count // n) >= whole_rows)


def default_edges(max_length: int) -> list[int]:
    """Returns bucket lengths for rows of one window: powers of two from 32, and `max_length` itself."""
    return [2**k for k in range(5, max_length.bit_length()) if 2**k < max_length] + [max_length]


def bucket_index(lengths: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """Returns the index of the smallest edge that holds each length, int64 `[N]`; `edges` are ascending.

    Raises ValueError if a length exceeds the last edge.
    """
    if len(lengths) and np.max(lengths) > edges[-1]:
        raise ValueError(f"length {np.max(lengths)} is above the last bucket, {edges[-1]}")
    return np.searchsorted(np.asarray(edges), lengths, side="left")
