"""Decides which windows share a row: best-fit packing, length buckets, and ragged index arithmetic."""

from collections.abc import Sequence

import numpy as np


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates `arange(start, start + length)` over all pairs: int64 `[sum(lengths)]`.

    `starts` is `[N]` or a scalar, `lengths` is `[N]`, not negative.
    """
    lengths = np.asarray(lengths, np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(np.asarray(starts, np.int64) - (ends - lengths), lengths) + np.arange(total)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where each of N ragged pieces begins in their concatenation, and the last ends: int64 `[N + 1]`."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def best_fit(lengths: np.ndarray, capacity: int, most: int | None = None) -> list[np.ndarray]:
    """Packs pieces into rows by best-fit-decreasing: each row is an array of indices into `lengths`.

    Longest first, each piece goes to the row whose free room is the smallest that holds it. A row that holds
    `most` pieces takes no more. Rows are kept in stacks by their free room, and a bitmask says which stacks are
    not empty, so that n pieces take O(n) for a given capacity. How the rows are made up in lengths depends only
    on the multiset of lengths; among equal lengths the order given decides.

    Raises ValueError for a length below 1 or above `capacity`.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) == 0:
        return []
    if lengths.min() < 1 or lengths.max() > capacity:
        raise ValueError(f"lengths {lengths.min()}..{lengths.max()} do not all fit rows of 1..{capacity}")
    order = np.argsort(-lengths, kind="stable")
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0  # bit r is set when a row with r free slots is open
    pieces: list[int] = []  # in each row
    row_of = []
    for length in lengths[order].tolist():
        fitting = open_rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                open_rooms ^= 1 << room
        else:
            room, row = capacity, len(pieces)
            pieces.append(0)
        pieces[row] += 1
        if room > length and pieces[row] != most:
            by_room[room - length].append(row)
            open_rooms |= 1 << (room - length)
        row_of.append(row)
    rows = np.asarray(row_of)
    by_row = np.argsort(rows, kind="stable")
    return np.split(order[by_row], np.cumsum(np.bincount(rows))[:-1])


def default_edges(max_length: int) -> list[int]:
    """Bucket lengths for one window a row: powers of two from 32, and `max_length` itself."""
    return [2**k for k in range(5, max_length.bit_length()) if 2**k < max_length] + [max_length]


def bucket(lengths: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """The index of the smallest of the rising `edges` that holds each length: int64 `[N]`.

    Raises ValueError where the last edge is too short.
    """
    if len(lengths) and np.max(lengths) > edges[-1]:
        raise ValueError(f"length {np.max(lengths)} is above the last bucket, {edges[-1]}")
    return np.searchsorted(np.asarray(edges), lengths, side="left")
