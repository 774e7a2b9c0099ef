"""Plans an epoch: which windows each row holds and which rows each step takes. Only seed and epoch decide."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Blocks, Shape
from jaxft.data.batching.packing import (
    PackedRows,
    bucket_index,
    choose_block_length,
    choose_whole_row_period,
    default_edges,
    one_window_rows,
    pack_rows,
)
from jaxft.data.encoding.encoded import Placement
from jaxft.data.ragged import ragged_arange


class EpochPlan(NamedTuple):
    """The windows and rows of one epoch.

    Attributes:
      windows: int64 `[N]`, the window at each place of `PackedRows.members`.
      step_rows: int64 `[steps, R]`, the rows of each step; -1 for an empty row.
      step_shapes: int64 `[steps]`, the index of each step's shape among the plan's shapes.
    """

    windows: np.ndarray
    step_rows: np.ndarray
    step_shapes: np.ndarray


DrawEpoch = Callable[
    [tuple[Shape, ...], int | None, int], EpochPlan
]  # (shapes, seed, epoch) -> plan; seed None keeps a fixed order


class Plan(NamedTuple):
    """The packed rows of a data set, and a function that assigns windows to them for each epoch.

    Attributes:
      rows: the packed rows; every epoch fills them with windows of the same lengths.
      shapes: the shapes of batches, shortest rows first.
      steps_per_epoch: number of steps, the same for each epoch.
      slots: number of slots in an epoch.
      padding_fraction: the fraction of these slots that is padding.
      draw_epoch: a pure function of (shapes, seed, epoch). From the shapes it uses `rows` and the blocks' period.
    """

    rows: PackedRows
    shapes: tuple[Shape, ...]
    steps_per_epoch: int
    slots: int
    padding_fraction: float
    draw_epoch: DrawEpoch


def draw_epoch(
    packed: PackedRows,
    rows_of_shape: Sequence[np.ndarray],
    lengths: np.ndarray,
    by_length: np.ndarray,
    shapes: tuple[Shape, ...],
    seed: int | None,
    epoch: int,
) -> EpochPlan:
    """Assigns windows to places of their length at random, and draws the order of rows and steps.

    The result is the same as shuffling the windows and then packing them by best fit, but needs no new packing.

    Args:
      packed: the packed rows.
      rows_of_shape: the rows of each shape.
      lengths: int64 `[N]`, the length of each window.
      by_length: int64 `[N]`, the windows, shortest first.
      shapes: the shapes of batches.
      seed: the random seed; None keeps a fixed order.
      epoch: the number of the epoch.
    """
    windows, orders = packed.members, [np.arange(len(rows)) for rows in rows_of_shape]
    steps = [-(-len(rows) // shapes[0].rows) for rows in rows_of_shape]
    step_shapes, step_order = np.repeat(np.arange(len(shapes)), steps), np.arange(sum(steps))
    period = shapes[0].blocks.whole_row_period
    whole_row_places = np.arange(0, len(orders[0]), period) if period else np.empty(0, np.int64)
    if seed is not None:
        bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
        replacement = np.empty_like(by_length)
        replacement[by_length] = shuffle_equal_lengths(bits, lengths)
        windows = replacement[windows]
        orders = [random_permutation(bits, len(order)) for order in orders]
        if len(orders) > 1:
            step_order = random_permutation(bits, len(step_order))
        whole_row_places = whole_row_places[random_permutation(bits, len(whole_row_places))]
    if period > 1:
        orders = [_place_whole_rows(orders[0], packed.whole_rows, whole_row_places)]
    step_rows = [
        _cut_into_steps(rows[order], shapes[0].rows)
        for rows, order in zip(rows_of_shape, orders, strict=True)
    ]
    return EpochPlan(windows, np.concatenate(step_rows)[step_order], step_shapes[step_order])


def _cut_into_steps(rows: np.ndarray, rows_per_step: int) -> np.ndarray:
    """Returns the rows of each step, `[steps, R]`; -1 fills up the last step."""
    steps = np.full((-(-len(rows) // rows_per_step), rows_per_step), -1, np.int64)
    steps.reshape(-1)[: len(rows)] = rows
    return steps


def _place_whole_rows(order: np.ndarray, whole_rows: int, places: np.ndarray) -> np.ndarray:
    """Moves rows 0 to `whole_rows` - 1 to the first `places` in `order`; the other rows keep their order."""
    is_whole = order < whole_rows
    at_place = np.zeros(len(order), bool)
    at_place[places[:whole_rows]] = True
    placed = np.empty_like(order)
    placed[at_place], placed[~at_place] = order[is_whole], order[~is_whole]
    return placed


def place_windows(lengths: np.ndarray, packed: PackedRows, epoch: EpochPlan, step: int) -> Placement:
    """Returns the places of the windows in an epoch's `step`.

    Args:
      lengths: int `[N]`, the length of each window of the data set.
      packed: the packed rows.
      epoch: the plan of the epoch.
      step: the number of the step in the epoch.
    """
    row_at = epoch.step_rows[step]
    filled = np.flatnonzero(row_at >= 0)
    rows = row_at[filled]
    begin = packed.offsets[rows]
    counts = packed.offsets[rows + 1] - begin
    members = ragged_arange(begin, counts)
    windows = epoch.windows[members]
    return Placement(
        windows,
        np.repeat(filled, counts),
        ragged_arange(0, counts),
        packed.starts[members],
        lengths[windows].astype(np.int64),
    )


def plan_rows(
    lengths: np.ndarray,
    *,
    rows: int,
    max_length: int,
    pack: bool = True,
    buckets: Sequence[int] | None = None,
    max_segments: int | None = None,
    block_length: int | None = None,
) -> Plan:
    """Plans the rows of windows with these `lengths`. Each window comes exactly once an epoch.

    Args:
      lengths: int `[N]`, the length of each window.
      rows: number of rows in a batch.
      max_length: number of slots in a packed row.
      pack: True if windows share rows. If False, each row holds one window and has the length of its bucket.
      buckets: row lengths for `pack=False`, ascending; by default powers of two up to `max_length`.
      max_segments: the most windows that a packed row may hold; by default as many as fit.
      block_length: number of slots in a block of a packed row; 0 for rows without blocks, so that all batches have the
        same shape for any windows. By default the length that takes the least time.

    Raises:
      ValueError: a window is longer than `max_length`, or than the last bucket.
    """
    lengths = lengths.astype(np.int64)
    blocks = Blocks()
    if pack:
        if block_length is None:
            block_length = choose_block_length(lengths, rows, max_length, max_segments)
        packed = pack_rows(lengths, Shape(rows, max_length, Blocks(block_length)), max_segments)
        count = len(packed.offsets) - 1
        if block_length:
            blocks = Blocks(block_length, choose_whole_row_period(packed.whole_rows, count, rows))
        edges, edge_of_row = [max_length], np.zeros(count, np.int64)
    else:
        packed = one_window_rows(len(lengths))
        edges = default_edges(max_length) if buckets is None else list(buckets)
        edge_of_row = bucket_index(lengths, edges)
    used = np.unique(edge_of_row)
    shapes = tuple(Shape(rows, int(edges[index]), blocks) for index in used)
    rows_of_shape = [np.flatnonzero(edge_of_row == index) for index in used]
    steps = [-(-len(shape_rows) // rows) for shape_rows in rows_of_shape]
    slots = sum(count * shape.slots for count, shape in zip(steps, shapes, strict=True))
    by_length = np.argsort(lengths, kind="stable")
    return Plan(
        packed,
        shapes,
        sum(steps),
        slots,
        float(1 - lengths.sum() / slots) if slots else 0.0,
        functools.partial(draw_epoch, packed, rows_of_shape, lengths, by_length),
    )


def random_permutation(bits: np.random.BitGenerator, count: int) -> np.ndarray:
    """Draws a random order of `count` items.

    It uses raw bits because numpy may change `permutation` between versions.
    """
    return np.argsort(bits.random_raw(count), kind="stable")


def shuffle_equal_lengths(bits: np.random.BitGenerator, lengths: np.ndarray) -> np.ndarray:
    """Returns the indices that sort `lengths`, int64 `[N]`; equal lengths are in random order."""
    shuffled = random_permutation(bits, len(lengths))
    return shuffled[np.argsort(lengths[shuffled], kind="stable")]


def largest_sums(plan: Plan, epochs: Iterable[EpochPlan], values: np.ndarray, groups: int) -> np.ndarray:
    """Returns, for each of the plan's shapes, the largest sum of values of the windows in a group of a batch, int64.

    Args:
      plan: the plan.
      epochs: the epochs to look at.
      values: int64 `[N]`, of each window.
      groups: the number of groups of consecutive rows in a batch.
    """
    largest = np.zeros(len(plan.shapes), np.int64)
    for epoch in epochs:
        row_sums = np.add.reduceat(values[epoch.windows], plan.rows.offsets[:-1])
        sums = np.where(epoch.step_rows < 0, 0, row_sums[epoch.step_rows])
        sums = sums.reshape(len(sums), groups, -1).sum(axis=-1)
        np.maximum.at(largest, epoch.step_shapes, sums.max(axis=-1))
    return largest
